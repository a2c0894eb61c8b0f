"""Downloads adapters from the Hugging Face hub, and uploads them with a model card.

Only config.json and model.safetensors are downloaded, never a pickle or code. The token is that of the environment (`HF_TOKEN`) or of
`hf auth login`; it is never an argument, and is not written anywhere.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from sur_adapter.adapter import adapter

FILES = ["config.json", "model.safetensors"]


class SURAdapter(adapter.SURAdapter):
    """An adapter that can be downloaded from the hub and uploaded to it: `sur_adapter.SURAdapter`."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "SURAdapter":
        """Loads an adapter that `save_pretrained` wrote, in evaluation mode and without gradients.

        folder: a Path is always a folder; a str that is no path here is a name on the hub (owner/name), and `revision` a branch, tag or
        commit there. Raises FileNotFoundError if there is none, and ValueError if it cannot be read or its weights do not fit its config.
        """
        if isinstance(folder, str) and not Path(folder).exists():
            folder = download(folder, revision)
        elif revision:
            raise ValueError(f"{folder} is a folder, and only adapters on the hub have revisions: leave revision={revision!r} out")
        return super().from_pretrained(folder)

    def push_to_hub(
        self,
        name: str,
        *,
        metrics: str | Path | None = None,
        licence: str | None = None,
        datasets: list[str] | None = None,
        private: bool | None = None,
        message: str = "An adapter and its model card",
    ) -> str:
        """Uploads config, weights and a model card to `name` (owner/name), which is created if necessary. Returns the commit's URL.

        metrics: a metrics.json whose figures the card shows. licence: an identifier of the hub, such as `mit`. datasets: names on the hub.
        private: by default as set for the account. Raises ValueError or FileNotFoundError for bad input, before anything is uploaded, and
        OSError if the hub refuses.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError

        from sur_adapter.model_card import model_card

        measured = read_metrics(Path(metrics)) if metrics else None
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            card = model_card(self.config, measured, name=name, licence=licence, datasets=datasets)
            (Path(folder) / "README.md").write_text(card, encoding="utf-8", newline="\n")
            try:
                api = HfApi(library_name="sur-adapter")
                api.create_repo(name, private=private, exist_ok=True)
                return api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url
            except HFValidationError as error:
                raise ValueError(f"{name!r} cannot be a name on the hub: give owner/name") from error
            except Exception as error:
                raise OSError(
                    f"the hub does not accept {name} ({_reason(error)}): check the name, the network and your login (`hf auth login`)"
                ) from error


def download(name: str, revision: str | None = None) -> Path:
    """Downloads an adapter into the hub's cache and returns its folder; without a network, the cached one.

    revision: a branch, a tag or a commit. Raises FileNotFoundError if there is none.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        if name.count("/") != 1:  # the libraries would ask for it
            raise HFValidationError(name)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{name} is neither a folder nor a name on the hub (owner/name): train an adapter (`dvc repro`), or name one that exists"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{name} is not a folder, and the hub cannot be reached: name a folder that holds an adapter, or try again with a network"
        ) from error
    except Exception as error:  # a network fails in many ways
        raise FileNotFoundError(
            f"{name} is not a folder, and the hub does not provide it ({_reason(error)}): check the name, the revision, the network and "
            "your login"
        ) from error
    for file in FILES:
        if not (folder / file).exists():
            raise FileNotFoundError(f"{name} on the hub holds no {file}, so it is not an adapter of this package: name another")
    return folder


def read_metrics(file: Path) -> dict:
    """Reads a metrics.json. Raises ValueError or FileNotFoundError if it is not one."""
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}): name the metrics.json that `evaluate` wrote") from error
    except OSError as error:
        raise FileNotFoundError(f"{file} cannot be read: name the metrics.json that `evaluate` wrote") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{file} holds a {type(metrics).__name__}, not an object: name the metrics.json that `evaluate` wrote")
    return metrics


def _reason(error: Exception) -> str:
    """Returns the cause in a few words: the first line of long library messages."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    reasons = {
        RepositoryNotFoundError: "repository not found, or you lack access",
        RevisionNotFoundError: "it has no such revision",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".:")[:200]
