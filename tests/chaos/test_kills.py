"""All stages in a row, killed at random moments: the outs are those of a run left in peace, and nothing half done is left."""

import os
import shutil

import pytest
from filelock import FileLock, Timeout
from helpers.repository import copy, merge

from chaos import SMALL, files, half, left
from chaos.verbs import Verbs

TINY = {"sources": {"miniature": {"count": 90}}, "train": {"steps": 10, "checkpointing_steps": 2}, "generate": {"per_category": 1, "num_inference_steps": 2}}
ASIDE = ("generate@complex", "generate@complex_adapter", "generate@expansion")


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_stages_killed_at_random_moments_end_in_the_bytes_of_a_run_left_in_peace(tmp_path, own_work, seed):
    folder = tmp_path / "home"
    folder.mkdir()
    changes = merge({key: dict(value) for key, value in SMALL.items()}, {})
    copy(folder, "miniature", merge(changes, TINY))
    shutil.rmtree(folder / "reports")
    verbs = Verbs(folder, own_work, seed, ASIDE)
    assert len(verbs.stages) > 12 and len(verbs.peace) > 30
    verbs.storm(8)
    assert verbs.killed.total() == 8


def test_what_the_storm_looks_for_it_finds(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.tar").write_bytes(b"whole")
    peace, work = files(tmp_path), tmp_path / "work"
    assert not half(tmp_path, peace) and not left(tmp_path, work)
    (tmp_path / "data/a.tar").write_bytes(b"who")
    (tmp_path / "data/.b.tar.part").write_bytes(b"ha")
    (work / "crawl-s-0123456789abcdef").mkdir(parents=True)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text('{"write": {"data/a.tar": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}')
    assert half(tmp_path, peace) == ["data/a.tar"]
    assert left(tmp_path, work) == ["data/.b.tar.part", str(work / "crawl-s-0123456789abcdef"), "write data/a.tar"]
    with FileLock(work / "x.lock"), pytest.raises(Timeout):
        left(tmp_path, work)
