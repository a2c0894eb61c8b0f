"""All stages in a row, killed at random moments: the outs are those of an undisturbed run, and no partial file is left."""

import os
import shutil

import pytest
from filelock import FileLock, Timeout
from helpers.repository import copy, merge

from chaos import SMALL, changed_files, files, leftovers
from chaos.stage_killer import StageKiller

TINY = {
    "sources": {"miniature": {"count": 90}},
    "sentences": {"sources": {"miniature": {"count": 60}}},
    "train": {"steps": 10, "checkpointing_steps": 2},
    "generate": {"per_category": 1, "num_inference_steps": 2},
    "executor": {"kind": "inline"},  # workers would import the libraries again in every stage
}


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_stages_killed_at_random_moments_write_the_bytes_of_an_undisturbed_run(tmp_path, own_work, seed):
    folder = tmp_path / "home"
    folder.mkdir()
    changes = {key: dict(value) for key, value in SMALL.items()} | {"executor": {}}
    copy(folder, "miniature", merge(changes, TINY))
    shutil.rmtree(folder / "reports")
    killer = StageKiller(folder, own_work, seed)
    assert len(killer.stages) > 14 and len(killer.expected) > 30
    killer.run(8)
    assert killer.killed.total() == 8


def test_changed_files_and_leftovers_are_found(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.tar").write_bytes(b"complete")
    expected, work = files(tmp_path), tmp_path / "work"
    assert not changed_files(tmp_path, expected) and not leftovers(tmp_path, work)
    (tmp_path / "data/a.tar").write_bytes(b"compl")
    (tmp_path / "data/.b.tar.part").write_bytes(b"par")
    (work / "crawl-s-0123456789abcdef").mkdir(parents=True)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text('{"write": {"data/a.tar": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}')
    assert changed_files(tmp_path, expected) == ["data/a.tar"]
    assert leftovers(tmp_path, work) == ["data/.b.tar.part", str(work / "crawl-s-0123456789abcdef"), "write data/a.tar"]
    with FileLock(work / "x.lock"), pytest.raises(Timeout):
        leftovers(tmp_path, work)
