"""Finished work survives a kill, is never partial, and is removed when the stage is done, or kept for the next run."""

import os
import subprocess
import sys
import time

import pytest
from helpers.repository import ROOT

from sur_adapter.io import work_cache as module
from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.work_cache import WorkCache, discard_work, work_dir

pytestmark = pytest.mark.usefixtures("own_work")


def python(text: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def test_files_stay_after_an_error_and_are_removed_after_success():
    with pytest.raises(KeyError), WorkCache("caption", settings={"b": 1, "a": 2}) as work:
        work.set("one", b"1")
        raise KeyError
    with WorkCache("caption", settings={"a": 2, "b": 1}) as work:
        assert (work.get("one"), work.get("two")) == (b"1", None)
        work.set("two", b"2")
        work.delete(["one", "missing"])
        assert (work.get("one"), work.get("two")) == (None, b"2")
    assert not work.folder.exists()
    with WorkCache("caption", settings={"a": 2, "b": 1}) as work:
        assert work.get("two") is None


def test_finished_work_that_is_kept_stays_until_no_run_has_used_it_for_a_month():
    for expected in (None, b"1", b"1"):
        with WorkCache("score-clip", keep_finished=True, n=1) as work:
            assert work.get("one") == expected
            work.set("one", b"1")
        os.utime(work.folder, (1, time.time() - 29 * 24 * 3600))
    with WorkCache("score-clip", keep_finished=True, n=1):
        assert time.time() - work.folder.stat().st_mtime < 60, "it was used"
    os.utime(work.folder, (1, 1))
    with WorkCache("score-clip", keep_finished=True, n=1):
        assert work.get("one") is None
        work.set("one", b"1")
    discard_work("score")
    assert not work.folder.exists()


def test_discard_work_removes_unfinished_work_unless_a_process_holds_it():
    for stage in ("crawl-civitai", "crawl-urls", "train"):
        with pytest.raises(KeyError), WorkCache(stage, a=1) as work:
            work.set("one", b"1")
            raise KeyError
    foreign = work_dir() / "crawl-me"
    foreign.mkdir()
    with WorkCache("crawl-urls", a=1) as held:
        discard_work("crawl", "caption")
        assert held.get("one") == b"1" and {f.name for f in work_dir().iterdir() if f.is_dir()} == {
            held.folder.name,
            work.folder.name,
            "crawl-me",
        }
    with WorkCache("crawl-civitai", a=1) as again:
        assert again.get("one") is None


def test_each_stage_and_each_set_of_inputs_has_its_own_folder():
    folders = {
        WorkCache(*stage, **inputs).folder for stage in (["caption"], ["score"]) for inputs in ({"s": 1}, {"s": "1"}, {"s": 1, "code": "x"})
    }
    assert len(folders) == 6


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_write(file) as part:
        part.write_bytes(b"ne")
        raise KeyError
    assert file.read_bytes() == b"old"
    with atomic_write(file) as part:
        part.write_bytes(b"new")
    assert file.read_bytes() == b"new"


def test_a_kill_during_a_write_leaves_no_partial_file():
    text = "from sur_adapter.io.work_cache import WorkCache\nwith WorkCache('x') as w:\n  i = 0\n  while True:\n"
    text += "    w.set(str(i % 50), bytes([i % 256]) * 300_000); i += 1; print(i, flush=True)"
    for wait in (0.01, 0.03, 0.07):
        process = python(text)
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        process.communicate()
        contents = [f.read_bytes() for f in WorkCache("x").folder.iterdir() if not f.name.endswith(".part")]
        assert contents and all(len(data) == 300_000 and len(set(data)) == 1 for data in contents)
    with WorkCache("x") as work:
        assert not list(work.folder.glob(".*"))


def test_published_outs_stay_when_the_cache_is_removed(tmp_path, monkeypatch):
    for kind, link in (("linked", os.link), ("copied", lambda *_: (_ for _ in ()).throw(OSError("another file system")))):
        monkeypatch.setattr(module.os, "link", link)
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.tar").write_bytes(b"old")
        with WorkCache("x") as work:
            for name in ("a.tar", "b.tar", "c"):
                work.set(name, name.encode())
            work.publish(tmp_path / kind, "*.tar")
        assert {f.name: f.read_bytes() for f in (tmp_path / kind).iterdir()} == {"a.tar": b"a.tar", "b.tar": b"b.tar"}


def test_an_interrupted_publish_leaves_the_old_out(tmp_path, monkeypatch):
    def copy_partly(source, target):
        target.write_bytes(source.read_bytes()[:1])
        raise OSError("the disk is full")

    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(module.os, "link", refuse)
    monkeypatch.setattr(module.shutil, "copyfile", copy_partly)
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="full"), WorkCache("x") as work:
        work.set("a", b"new")
        work.publish(tmp_path, "a")
    assert (tmp_path / "a").read_bytes() == b"old" and work.get("a") == b"new"


def test_a_second_process_with_the_same_work_waits_for_the_first(tmp_path):
    with WorkCache("x") as work:
        work.set("a", b"1")
        text = "from sur_adapter.io.work_cache import WorkCache\nwith WorkCache('x') as w: print(w.get('a'))"
        other = python(text, stderr=subprocess.PIPE)
        assert "another process does the same work" in other.stderr.readline()
        assert other.poll() is None
    assert other.communicate()[0].strip() == "None"


def test_old_work_is_removed_and_foreign_files_are_not():
    entries = []
    for stage in ("caption", "crawl-civitai", "crawl-diffusion_db2"):
        with pytest.raises(KeyError), WorkCache(stage, n=1) as old:
            old.set("a", b"1")
            raise KeyError
        entries += [old.folder, old.folder.with_suffix(".lock")]
    foreign = [
        work_dir() / name for name in ("mine", "crawl-civitai", "crawl-civitai-0123456789abcde", "my-own-old-0123456789abcdef", ".cache")
    ]
    for file in foreign:
        file.write_text("x")
    for file in (*entries, *foreign):
        os.utime(file, (1, 1))
    with WorkCache("x", n=2) as new:
        assert not any(file.exists() for file in entries) and all(file.exists() for file in foreign)
        assert new.folder.exists()


def test_a_folder_that_cannot_be_written_is_reported_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be saved in .*file \(.*\): set SUR_WORK to a writable folder"), WorkCache("x"):
        pass


def test_the_tests_leave_no_work_cache_behind(tmp_path):
    command = [sys.executable, "-c", "import conftest, os; print(os.listdir(os.environ['TMPDIR']))"]
    result = subprocess.run(
        command, cwd=ROOT / "tests", env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert "sur-work-" in result.stdout and list(tmp_path.iterdir()) == []
