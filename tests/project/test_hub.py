"""Adapters are uploaded with their model card and downloaded, by real clients in separate processes, from a hub on loopback."""

import json
import os
import re
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest
from helpers.loopback_hub import TOKEN, hub
from helpers.miniature_adapter import MINIATURE, random_adapter
from helpers.repository import ROOT
from helpers.small_models import digest
from huggingface_hub import ModelCard

from sur_adapter import SURAdapter

NAME = "somebody/an-adapter"
SEND = "print(SURAdapter.from_pretrained({folder!r}).push_to_hub({name!r}, metrics={metrics!r}, licence='mit', private=True))"
FETCH = "SURAdapter.from_pretrained({name!r}, revision={revision!r}).save_pretrained({folder!r})"


@pytest.fixture(scope="module")
def server():
    with hub() as running:
        yield running


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"))


def run_client(server, home: Path, code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a process that uses the hub on loopback."""
    own = {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    code = f"from sur_adapter import SURAdapter\n{code}"
    environment = {k: v for k, v in os.environ.items() if "token" not in k.lower() and "proxy" not in k.lower()} | own | environment
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def uploaded(server, adapter_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    code = SEND.format(folder=str(adapter_folder), name=NAME, metrics=str(ROOT / "reports/metrics.json"))
    done = run_client(server, home, code, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr[-3000:]
    return server.repos[NAME], done.stdout


def test_config_weights_and_card_are_uploaded_to_a_private_repository(uploaded, server, adapter_folder):
    files, output = uploaded
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert files[name] == (adapter_folder / name).read_bytes()
    assert server.private[NAME] and output.strip() == f"{server.address}/{NAME}/commit/{server.commit(NAME)}"
    assert TOKEN.encode() not in b"".join(files.values())


def test_the_uploaded_card_shows_the_results_and_the_name(uploaded):
    card = ModelCard(uploaded[0]["README.md"].decode())
    gap = json.loads((ROOT / "reports/metrics.json").read_text())["semantic"]["gap_closed"]
    assert card.data.license == "mit" and f"SURAdapter.from_pretrained({NAME!r})" in card.text
    assert f"{gap['value']:.3f} ({gap['low']:.3f} to {gap['high']:.3f})" in card.text


def test_the_download_is_bit_identical_and_cached_for_offline_use(uploaded, server, adapter_folder, tmp_path):
    server.repos[NAME]["pytorch_model.bin"] = b"a pickle"
    try:
        for folder, offline in (("first", "0"), ("second", "1")):
            code = FETCH.format(name=NAME, revision=None, folder=str(tmp_path / folder))
            before = len(server.requests)
            done = run_client(server, tmp_path / "home", code, HF_HUB_OFFLINE=offline)
            assert done.returncode == 0, done.stderr[-3000:]
            assert digest(tmp_path / folder) == digest(adapter_folder)
            assert (len(server.requests) == before) == (offline == "1")
    finally:
        del server.repos[NAME]["pytorch_model.bin"]
    assert not any("pytorch_model" in path or "README" in path for method, path, _ in server.requests if method == "GET")


def download_errors(server, home: Path, *requests: tuple[str, str | None], **environment: str) -> list[str]:
    """Returns the error message for each (name, revision)."""
    code = f"""
for name, revision in {requests!r}:
    try:
        SURAdapter.from_pretrained(name, revision=revision)
    except FileNotFoundError as error:
        print(repr(str(error)))"""
    done = run_client(server, home, code, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [literal_eval(line) for line in done.stdout.splitlines()]


def test_a_missing_repository_revision_or_file_is_reported_in_one_sentence(uploaded, server, tmp_path):
    server.repos["somebody/other"] = {"README.md": b"# other"}
    no_repository, no_revision, no_file = download_errors(
        server, tmp_path, ("nobody/nothing", None), (NAME, "v9"), ("somebody/other", None)
    )
    assert no_repository.startswith(
        "nobody/nothing is not a folder, and the hub does not provide it (repository not found, or you lack access"
    )
    assert no_revision.startswith(
        f"{NAME} is not a folder, and the hub does not provide it (it has no such revision): check the name, the revision"
    )
    assert no_file == "somebody/other on the hub holds no config.json, so it is not an adapter of this package: name another"
    assert not any("\n" in message for message in (no_repository, no_revision, no_file))


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "no server"])
def test_an_unreachable_hub_is_reported_in_one_sentence(server, tmp_path, environment):
    (message,) = download_errors(server, tmp_path, (NAME, None), **environment)
    assert (
        message
        == f"{NAME} is not a folder, and the hub cannot be reached: name a folder that holds an adapter, or try again with a network"
        and "\n" not in message
    )


def test_without_a_login_nothing_is_uploaded_and_the_error_names_the_login_command(server, adapter_folder, tmp_path):
    code = SEND.format(folder=str(adapter_folder), name="somebody/refused", metrics=None)
    done = run_client(server, tmp_path, code)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError: the hub does not accept somebody/refused (") and last.endswith("your login (`hf auth login`)")
    assert "somebody/refused" not in server.repos


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "metrics.json cannot be read: name the metrics.json that `evaluate` wrote"),
        ("{", ValueError, "metrics.json is not JSON .*: name the metrics.json"),
        ("[1]", ValueError, "metrics.json holds a list, not an object"),
    ],
)
def test_unreadable_metrics_are_refused_before_the_upload(adapter_folder, tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(error, match=message):
        SURAdapter.from_pretrained(adapter_folder).push_to_hub(NAME, metrics=tmp_path / "metrics.json")


@pytest.mark.parametrize("name", ["a/b/c", "two words", "../models"])
def test_an_impossible_name_is_refused_without_a_request(adapter_folder, name):
    with pytest.raises(ValueError, match=re.escape(f"{name!r} cannot be a name on the hub: give owner/name")):
        SURAdapter.from_pretrained(adapter_folder).push_to_hub(name)


def test_a_path_is_never_looked_up_on_the_hub_and_a_folder_has_no_revision(adapter_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.json: train an adapter"):
        SURAdapter.from_pretrained(Path("models/nowhere"))
    with pytest.raises(ValueError, match="is a folder, and only adapters on the hub have revisions: leave revision='v1' out"):
        SURAdapter.from_pretrained(str(adapter_folder), revision="v1")
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a name on the hub"):
        SURAdapter.from_pretrained(str(tmp_path / "nowhere"))
    assert SURAdapter.from_pretrained(str(adapter_folder)).config.about["base_model"] == MINIATURE
