"""Fixtures of several packages. Tests have no access to a model hub and a work cache per process."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
WORK = tempfile.TemporaryDirectory(prefix="sur-work-")  # set before the first import that reads it; removed at exit
os.environ["SUR_WORK"] = WORK.name
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker process uses one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

HOOK = """
import os, sys
HIDDEN = {hidden!r}

def hook(event, args):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove"):
        for path in args[: 1 + (event == "os.rename")]:
            if isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(HIDDEN):
                raise PermissionError(13, "a worker must not use the stage's disk", str(path))

sys.addaudithook(hook)
"""


@pytest.fixture
def own_work(tmp_path, monkeypatch) -> Path:
    """Sets a separate work cache for one test and returns its folder."""
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working directory with the work cache inside, which no process that the test starts can read, list or change."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK.format(hidden=str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    monkeypatch.setenv("SUR_WORK", str(folder / "work"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_shared_fs(home) -> dict:
    """Executor settings for one worker process that cannot see `home`: files travel through a store."""
    return {"kind": "processes", "workers": 1, "store": f"file://{home.parent}/store"}


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A BLIP and a CLIP, small and untrained. Read-only."""
    from helpers import small_models as small

    return small.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """A crawl of 150 images, in raw/miniature. Read-only."""
    from helpers.small_models import SOURCES
    from helpers.stages import crawl

    folder = tmp_path_factory.mktemp("raw")
    crawl(folder / "miniature", sources=SOURCES)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """Thirty images in ten shards, in shards/s, one of them with a simple prompt of its own. Read-only."""
    from helpers.small_models import encode, write_shards

    from miniature.scenes import make

    rows = [{"source": "s", "url": f"u{k}", "data": encode(make(k).draw()), "dropped": None, "complex_prompt": "a, 8k"} for k in range(30)]
    rows[5]["simple_prompt"] = "a red circle"
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder / "s", rows, rows_per_shard=3)
    return folder
