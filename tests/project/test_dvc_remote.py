"""What one machine made another fetches, by DVC, in a repository of its own: pulled, or out of the run cache, nothing runs twice."""

from pathlib import Path

import pytest
from helpers.repository import copy, ran, run
from helpers.small_models import digest
from ruamel.yaml import YAML

STAGES = ("crawl", "caption")
SMALL = {"sources": {"miniature": {"count": 40, "sentences": True}}}  # each picture has a sentence of its own: no model is loaded


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> tuple[Path, set[str]]:
    """(the project's first stages, run on forty pictures and pushed to a remote, which is a folder; which stages ran)."""
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
def there(pushed, tmp_path) -> Path:
    """A fresh clone, as on another machine."""
    run(pushed[0], "git", "clone", "-q", str(pushed[0]), str(tmp_path / "there"))
    return tmp_path / "there"


def test_after_a_pull_nothing_is_left_to_run_and_every_byte_is_there(pushed, there):
    home, stages = pushed
    assert stages == {"crawl@miniature", "caption@miniature"} and not (there / "data/raw").exists()
    run(there, "dvc", "pull")
    assert digest(there / "data") == digest(home / "data")
    assert ran(run(there, "dvc", "repro")) == set()


def test_what_was_run_elsewhere_comes_out_of_the_run_cache_though_no_lock_tells_of_it(pushed, there):
    (there / "dvc.lock").unlink()
    run(there, "dvc", "fetch", "--run-cache")
    said = run(there, "dvc", "repro", "--pull")
    assert ran(said) == set() and said.count("is cached - skipping run") == 2
    assert digest(there / "data") == digest(pushed[0] / "data")
