"""A disk that is full, read-only or shared, and a wrong clock, end in a one-sentence error at most and lose no data."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.repository import ROOT, copy, run
from helpers.small_models import SOURCES, digest
from helpers.stages import crawl
from ruamel.yaml import YAML

from miniature.gallery import Gallery
from sur_adapter.data.sources import miniature
from sur_adapter.features.store import write_features
from sur_adapter.io.atomic import atomic_write_text, friendly_disk_errors
from sur_adapter.io.checksummed_safetensors import save_checked
from sur_adapter.io.shards import write_table, write_tar
from sur_adapter.io.work_cache import MAX_AGE, WorkCache, work_dir

NOBODY = 65534
WRITERS = {
    "table.parquet": lambda file: write_table(file, [{"id": str(i), "value": np.sqrt(i)} for i in range(3000)]),
    "images.tar": lambda file: write_tar(file, [(str(i), "png", bytes(9000)) for i in range(3)]),
    "features.parquet": lambda file: write_features(file, ["a"], {"simple": np.ones((1, 99, 99), np.float32)}),
    "weights.safetensors": lambda file: save_checked({"a": torch.ones(9999)}, file),
    "report.html": lambda file: atomic_write_text(file, "words " * 9999),
}


def write_with_limit(folder: Path, limit: int) -> None:
    """Writes every kind of file under a size limit; exits with 0 if each write raised OSError."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    refused = 0
    for name, write in WRITERS.items():
        try:
            write(folder / name)
        except OSError:
            refused += 1
    os._exit(len(WRITERS) - refused)


def test_a_write_to_a_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path):
    for name in WRITERS:
        (tmp_path / name).write_bytes(b"old")
    process = multiprocessing.get_context("fork").Process(target=write_with_limit, args=(tmp_path, 4096))
    process.start()
    process.join()
    assert process.exitcode == 0, "each write raises"
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == dict.fromkeys(WRITERS, b"old")
    for name, write in WRITERS.items():
        write(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 4096, "larger than the limit"


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a small file system, or remounts it with other options."""
    places = []

    def mount(options: str) -> Path:
        place = tmp_path / "disk"
        place.mkdir(exist_ok=True)
        again = "remount," if places else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting a file system is not allowed here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    if places:
        subprocess.run(["umount", "-l", places[0]], check=True)


def run_crawl_stage(out: Path, work: Path) -> subprocess.CompletedProcess:
    """Runs the crawl of the fixture `raw` by the command line."""
    params = out.parents[2] / "params.yaml"
    if not params.exists():
        YAML().dump({"sources": SOURCES}, params)
    env = os.environ | {"SUR_WORK": str(work), "SUR_PARAMS": str(params), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "stages", "crawl", "--source", out.name, "--out", str(out)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )


def check_error(result: subprocess.CompletedProcess, message: str) -> None:
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_a_full_disk_is_reported_in_one_sentence_and_the_stage_resumes_when_there_is_space(raw, tmp_path, mounted):
    disk = mounted("size=200k")
    out = tmp_path / "a" / "data" / "miniature"
    out.parent.mkdir(parents=True)
    check_error(run_crawl_stage(out, disk / "work"), "the disk is full")
    assert not out.exists() and not [f for f in disk.rglob("*") if f.name.endswith(".part")]
    mounted("size=9m")
    assert run_crawl_stage(out, disk / "work").returncode == 0
    assert digest(out) == digest(raw / "miniature") and not [f for f in (disk / "work").iterdir() if f.is_dir()]


def test_a_read_only_disk_is_reported_in_one_sentence_and_finished_work_is_kept(raw, tmp_path, mounted):
    disk = mounted("size=9m")
    out, work = disk / "data" / "raw" / "miniature", tmp_path / "work"
    out.mkdir(parents=True)
    YAML().dump({"sources": SOURCES}, disk / "params.yaml")
    mounted("ro")
    check_error(run_crawl_stage(out, work), "a file cannot be written")
    assert list(work.glob("crawl-*/images-000000.tar")), "finished shards are kept"
    mounted("rw")
    assert run_crawl_stage(out, work).returncode == 0
    assert digest(out) == digest(raw / "miniature")


@contextmanager
def served_by_a_thread(count: int, seed: int, **options) -> Iterator[str]:
    """In place of a process: another user may not be allowed to execute this Python."""
    with Gallery(count, seed, **options) as gallery:
        yield gallery.url


def crawl_as_other_user(out: Path, work: Path, message: Path) -> None:
    """Crawls as a user other than root and writes the error to `message`; all modules must be imported before."""
    os.environ["SUR_WORK"] = str(work)
    miniature.serve_in_process = served_by_a_thread
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        with friendly_disk_errors():
            crawl(out, sources=SOURCES)
    except ValueError as error:
        message.write_text(str(error))


def test_a_folder_of_another_user_is_reported_in_one_sentence_and_finished_work_is_kept(raw):
    with tempfile.TemporaryDirectory() as home:
        (out := Path(home, "data", "miniature")).mkdir(parents=True)
        (work := Path(home, "work")).mkdir()
        for folder, permissions in ((work, 0o777), (out, 0o555), (Path(home), 0o755)):
            folder.chmod(permissions)
        process = multiprocessing.get_context("fork").Process(target=crawl_as_other_user, args=(out, work, work / "message"))
        process.start()
        process.join()
        assert "a file cannot be written ([Errno 13] Permission denied" in (work / "message").read_text()
        assert list(out.iterdir()) == [] and list(work.glob("crawl-*/images-000000.tar"))


def test_a_wrong_clock_removes_no_work_that_a_process_holds(own_work):
    with WorkCache("crawl-urls", a=1) as held:
        held.set("one", b"1")
        for file in (held.folder, held.folder.with_suffix(".lock")):
            os.utime(file, (1, 1))
        with WorkCache("caption"):
            pass
        assert held.get("one") == b"1" and held.folder.with_suffix(".lock").exists()
    assert not held.folder.exists()


def test_work_with_a_time_in_the_future_is_resumed_and_not_removed_as_old(own_work):
    with pytest.raises(KeyError), WorkCache("crawl-urls", a=1) as work:
        work.set("one", b"1")
        raise KeyError
    later = time.time() + 10 * MAX_AGE
    for file in (work.folder / "one", work.folder, work.folder.with_suffix(".lock")):
        os.utime(file, (later, later))
    with WorkCache("caption"):
        pass
    with WorkCache("crawl-urls", a=1) as again:
        assert again.get("one") == b"1"


def run_crawl(out: Path, work: str, log: Path) -> None:
    os.environ["SUR_WORK"] = work
    with log.open("w") as file:
        sys.stderr = file
        crawl(out, sources=SOURCES)


def test_of_two_workspaces_with_the_same_work_one_waits_and_resumes_where_the_other_was_killed(raw, tmp_path, own_work):
    start = multiprocessing.get_context("fork").Process
    outs = [tmp_path / name / "miniature" for name in ("one", "two")]
    first, second = (start(target=run_crawl, args=(out, str(own_work), tmp_path / out.parent.name.upper())) for out in outs)
    first.start()
    while not (work_dir().exists() and list(work_dir().glob("crawl-*/row-*"))):
        time.sleep(0.001)
    second.start()
    while not (log := tmp_path / "TWO").exists() or "another process does the same work" not in log.read_text():
        assert second.is_alive()
        if not first.is_alive():
            break
        time.sleep(0.001)
    first.kill()
    second.join()
    assert first.exitcode == -9 or digest(outs[0]) == digest(raw / "miniature")
    assert second.exitcode == 0 and digest(outs[1]) == digest(raw / "miniature")
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


def test_dvc_refuses_a_second_run_in_one_workspace_and_the_first_succeeds(raw, tmp_path, own_work):
    folder = tmp_path / "home"
    folder.mkdir()
    copy(folder, "miniature", {"sources": SOURCES})
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    first = subprocess.Popen(["dvc", "repro", "crawl@miniature"], cwd=folder, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL)
    while not (own_work.exists() and list(own_work.glob("crawl-*"))):
        assert first.poll() is None
        time.sleep(0.01)
    second = run(folder, "dvc", "repro", "crawl@miniature", fails=True)
    assert "is busy, it is being blocked by" in second or "Unable to acquire lock" in second
    assert first.wait() == 0 and digest(folder / "data/raw/miniature") == digest(raw / "miniature")
    shutil.rmtree(folder)
