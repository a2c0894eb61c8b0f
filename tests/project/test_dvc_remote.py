"""Another machine fetches outputs by DVC, by `pull` or from the run cache, and runs nothing again."""

from pathlib import Path

import pytest
from helpers.repository import copy, ran, run
from helpers.small_models import digest
from ruamel.yaml import YAML

STAGES = ("crawl", "caption")
SMALL = {"sources": {"miniature": {"count": 40, "sentences": True}}}  # each image has its own sentence: no model is loaded


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> tuple[Path, set[str]]:
    """(the project after its first stages ran on forty images and were pushed to a folder as remote; which stages ran)."""
    folder = copy(tmp_path_factory.mktemp("home"), "miniature", SMALL)
    yaml = YAML()
    pipeline = yaml.load(folder / "dvc.yaml")
    yaml.dump({"stages": {name: pipeline["stages"][name] for name in STAGES}}, folder / "dvc.yaml")
    stages = ran(run(folder, "dvc", "repro"))
    run(folder, "dvc", "remote", "add", "--default", "store", str(tmp_path_factory.mktemp("store")))
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "-qm", "made")
    run(folder, "dvc", "push", "--run-cache")
    return folder, stages


@pytest.fixture
def clone(pushed, tmp_path) -> Path:
    """A fresh clone, as on another machine."""
    run(pushed[0], "git", "clone", "-q", str(pushed[0]), str(tmp_path / "clone"))
    return tmp_path / "clone"


def test_after_a_pull_all_bytes_exist_and_nothing_runs(pushed, clone):
    home, stages = pushed
    assert stages == {"crawl@miniature", "caption@miniature"} and not (clone / "data/raw").exists()
    run(clone, "dvc", "pull")
    assert digest(clone / "data") == digest(home / "data")
    assert ran(run(clone, "dvc", "repro")) == set()


def test_outputs_come_from_the_run_cache_without_dvc_lock(pushed, clone):
    (clone / "dvc.lock").unlink()
    run(clone, "dvc", "fetch", "--run-cache")
    output = run(clone, "dvc", "repro", "--pull")
    assert ran(output) == set() and output.count("is cached - skipping run") == 2
    assert digest(clone / "data") == digest(pushed[0] / "data")
