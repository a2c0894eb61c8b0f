"""The code version changes with the source files behind a file, and with nothing else."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.repository import ROOT

from sur_adapter.io.code_version import code_version


@pytest.fixture
def project(tmp_path) -> Path:
    for name, text in {
        "verbs/go.py": "import torch\nfrom nouns.near import thing\n",
        "nouns/near.py": "def thing():\n    from nouns import far\n    return far\n",
        "nouns/far.py": "import nouns.near\nX = 1\n",
        "nouns/other.py": "X = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "changes"), [("verbs/go.py", True), ("nouns/near.py", True), ("nouns/far.py", True), ("nouns/other.py", False)]
)
def test_it_changes_with_every_imported_file_and_with_no_other(project, name, changes):
    before = code_version(project / "verbs/go.py")
    assert code_version(project / "verbs/go.py") == before and len(before) == 16
    (project / name).write_text((project / name).read_text() + "Y = 2\n")
    assert (code_version(project / "verbs/go.py") != before) == changes


def test_it_changes_with_the_imports_of_each_of_several_files(project):
    (project / "nouns/deep").mkdir()
    (project / "nouns/deep/other.py").write_text("import nouns.other\n")
    for folder in ("nouns", "nouns/deep", "verbs"):
        (project / folder / "__init__.py").touch()
    files = project / "verbs/go.py", project / "nouns/deep/other.py"
    before = code_version(*files)
    assert before == code_version(*reversed(files)) != code_version(files[0])
    (project / "nouns/other.py").write_text("X = 2\n")
    assert code_version(*files) != before


def test_it_does_not_depend_on_the_projects_folder(project):
    before = code_version(project / "verbs/go.py")
    project.rename(project.with_name("elsewhere"))
    assert code_version(project.with_name("elsewhere") / "verbs/go.py") == before


def test_it_does_not_depend_on_what_else_is_loaded(monkeypatch):
    import sur_adapter.data.crawl.http_client  # noqa: F401  not imported by training

    monkeypatch.chdir(ROOT / "stages")
    assert code_version("train.py") == code_version(ROOT / "stages/train.py") != code_version(ROOT / "stages/generate.py")


class Slow:
    """Its deletion takes a moment, in which other threads run."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        time.sleep(2e-4)


def test_several_threads_may_compute_it_at_once():
    def compute(_) -> set[str]:
        for _ in range(5):
            Slow()
        return {code_version(ROOT / "sur_adapter/data/crawl/fetcher.py")}

    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert len(set().union(*pool.map(compute, range(40)))) == 1
    finally:
        gc.set_threshold(*before)
