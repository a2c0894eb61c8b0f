"""No test asks a model hub for anything, or takes up unfinished work of another. What several tests read is made once."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
WORK = tempfile.TemporaryDirectory(prefix="sur-work-")  # set before anything is imported that reads it; goes with the process
os.environ["SUR_WORK"] = WORK.name
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: more threads would only wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def own_work(tmp_path, monkeypatch) -> Path:
    """A place of its own for the unfinished work of one test."""
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A BLIP and a CLIP, small and untrained: to be read, never written into."""
    import small

    return small.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """The crawl of 150 pictures, in raw/miniature: to be read, never written into."""
    from small import SOURCES

    from stages.crawl import crawl

    folder = tmp_path_factory.mktemp("raw")
    crawl(folder / "miniature", sources=SOURCES)
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """Thirty pictures in ten shards, in shards/s, one of them with a sentence of its own: to be read, never written into."""
    from small import encode, write_shards

    import stages.crawl
    from miniature.scenes import make

    rows = [{"source": "s", "url": f"u{k}", "data": encode(make(k).draw()), "dropped": None, "complex_prompt": "a, 8k"} for k in range(30)]
    rows[5]["simple_prompt"] = "a red circle"
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stages.crawl, "SHARD", 3)
        write_shards(folder / "s", rows)
    return folder
