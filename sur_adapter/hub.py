"""Adapters on the Hugging Face hub: fetched as config and weights alone, sent with their card.

The token is that of the environment (`HF_TOKEN`) or of `hf auth login`; it is never an argument, and written nowhere.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from sur_adapter.model_card import card

FILES = ["config.json", "model.safetensors"]  # never a pickle
REASONS = {
    RepositoryNotFoundError: "there is none of that name, or it is not for you to see",
    RevisionNotFoundError: "it has no such revision",
    LocalEntryNotFoundError: "the hub cannot be reached, and nothing of it was fetched before",
}


def fetch(name: str, revision: str | None = None) -> Path:
    """The folder where an adapter of the hub lies, in the hub's own cache; without a network, what lies there already.

    revision: a branch, a tag or a commit. Raises FileNotFoundError where there is none to be had.
    """
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{name} is no folder, and no name on the hub (owner/name) either: train an adapter (`dvc repro`), or name one that is there"
        ) from error
    except Exception as error:  # a network can fail in any way
        raise FileNotFoundError(
            f"{name} is no folder, and the hub does not give it ({_said(error)}): check the name, the revision, the network and your login"
        ) from error
    for file in FILES:
        if not (folder / file).exists():
            raise FileNotFoundError(f"{name} on the hub holds no {file}, so it is no adapter of this package: name another")
    return folder


def push(
    adapter,
    name: str,
    *,
    metrics: str | Path | None = None,
    licence: str | None = None,
    datasets: list[str] | None = None,
    private: bool | None = None,
    message: str = "An adapter and its card",
) -> str:
    """Sends config, weights and card to `name` (owner/name) on the hub, which is made where it is not there; the commit's address.

    metrics: a metrics.json whose figures the card is to show; licence: an identifier as the hub knows them (`mit`); private: as the hub
    would have it unless given. Raises ValueError or FileNotFoundError for bad input, before anything is sent, and OSError
    where the hub refuses.
    """
    measured = figures(Path(metrics)) if metrics else None
    with TemporaryDirectory() as folder:
        adapter.save_pretrained(folder)
        words = card(adapter.config, measured, name=name, licence=licence, datasets=datasets)
        (Path(folder) / "README.md").write_text(words, encoding="utf-8", newline="\n")
        try:
            api = HfApi(library_name="sur-adapter")
            api.create_repo(name, private=private, exist_ok=True)
            return api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url
        except HFValidationError as error:
            raise ValueError(f"{name!r} cannot be a name on the hub: give owner/name") from error
        except Exception as error:
            raise OSError(
                f"the hub does not take {name} ({_said(error)}): check the name, the network and your login (`hf auth login`)"
            ) from error


def figures(file: Path) -> dict:
    """What a metrics.json holds; ValueError or FileNotFoundError where it is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}): name the metrics.json that `evaluate` wrote") from error
    except OSError as error:
        raise FileNotFoundError(f"{file} cannot be read: name the metrics.json that `evaluate` wrote") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {type(found).__name__}, not figures by name: name the metrics.json that `evaluate` wrote")
    return found


def _said(error: Exception) -> str:
    """What is wrong, in a few words: of a library that says much, the first line."""
    for kind, words in REASONS.items():
        if isinstance(error, kind):
            return words
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".:")[:200]
