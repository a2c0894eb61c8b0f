"""A disk that is full, closed or shared, and a clock that is wrong, cost a sentence and nothing else."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.repository import ROOT, copy, run
from helpers.small_models import SOURCES, digest
from ruamel.yaml import YAML

from stages.crawl import crawl
from sur_adapter.features.store import write_vectors
from sur_adapter.io import checksummed_safetensors as sealed
from sur_adapter.io.atomic import atomic_write_text, friendly_disk_errors
from sur_adapter.io.shards import write_table, write_tar
from sur_adapter.io.work_cache import FORGOTTEN_AFTER, WorkCache, work_dir

NOBODY = 65534
WRITERS = {
    "table.parquet": lambda file: write_table(file, [{"id": str(i), "value": np.sqrt(i)} for i in range(3000)]),
    "pictures.tar": lambda file: write_tar(file, [(str(i), "png", bytes(9000)) for i in range(3)]),
    "features.parquet": lambda file: write_vectors(file, ["a"], {"simple": np.ones((1, 99, 99), np.float32)}),
    "weights.safetensors": lambda file: sealed.save({"a": torch.ones(9999)}, file),
    "report.html": lambda file: atomic_write_text(file, "words " * 9999),
}


def limited(folder: Path, limit: int) -> None:
    """Writes every kind of file where none may be larger than `limit`; ends with 0 if each was refused by an OSError."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    refused = 0
    for name, write in WRITERS.items():
        try:
            write(folder / name)
        except OSError:
            refused += 1
    os._exit(len(WRITERS) - refused)


def test_a_file_that_finds_no_room_leaves_the_old_one_whole_and_no_half_one(tmp_path):
    for name in WRITERS:
        (tmp_path / name).write_bytes(b"old")
    process = multiprocessing.get_context("fork").Process(target=limited, args=(tmp_path, 4096))
    process.start()
    process.join()
    assert process.exitcode == 0, "each is refused"
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == dict.fromkeys(WRITERS, b"old")
    for name, write in WRITERS.items():
        write(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 4096, "they were refused for their size"


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a small file system of its own, or changes how it is mounted."""
    places = []

    def mount(options: str) -> Path:
        place = tmp_path / "disk"
        place.mkdir(exist_ok=True)
        again = "remount," if places else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    if places:
        subprocess.run(["umount", "-l", places[0]], check=True)


def stage(out: Path, work: Path) -> subprocess.CompletedProcess:
    """The crawl of the fixture `raw`, by the one door."""
    params = out.parents[2] / "params.yaml"
    if not params.exists():
        YAML().dump({"sources": SOURCES}, params)
    env = os.environ | {"SUR_WORK": str(work), "SUR_PARAMS": str(params), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-m", "stages", "crawl", str(out)], cwd=ROOT, env=env, capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess, words: str) -> None:
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_full_disk_is_told_in_a_sentence_and_with_room_the_stage_goes_on(raw, tmp_path, mounted):
    friendly_disk_errors = mounted("size=200k")
    out = tmp_path / "a" / "data" / "miniature"
    out.parent.mkdir(parents=True)
    refused(stage(out, friendly_disk_errors / "work"), "there is no room for a file")
    assert not out.exists() and not [f for f in friendly_disk_errors.rglob("*") if f.name.endswith(".part")]
    mounted("size=9m")
    assert stage(out, friendly_disk_errors / "work").returncode == 0
    assert digest(out) == digest(raw / "miniature") and not [f for f in (friendly_disk_errors / "work").iterdir() if f.is_dir()]


def test_a_disk_that_is_only_read_is_told_in_a_sentence_and_what_is_done_is_kept(raw, tmp_path, mounted):
    friendly_disk_errors = mounted("size=9m")
    out, work = friendly_disk_errors / "data" / "raw" / "miniature", tmp_path / "work"
    out.mkdir(parents=True)
    YAML().dump({"sources": SOURCES}, friendly_disk_errors / "params.yaml")
    mounted("ro")
    refused(stage(out, work), "a file cannot be used here")
    assert list(work.glob("crawl-*/images-000000.tar")), "what is done is kept"
    mounted("rw")
    assert stage(out, work).returncode == 0
    assert digest(out) == digest(raw / "miniature")


def told(out: Path, work: Path, said: Path) -> None:
    """What the door would say of a crawl by somebody who is not root; all that it imports is loaded already."""
    os.environ["SUR_WORK"] = str(work)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        with friendly_disk_errors():
            crawl(out, sources=SOURCES)
    except ValueError as error:
        said.write_text(str(error))


def test_a_folder_of_another_user_is_told_in_a_sentence_and_what_is_done_is_kept(raw):
    with tempfile.TemporaryDirectory() as home:
        (out := Path(home, "data", "miniature")).mkdir(parents=True)
        (work := Path(home, "work")).mkdir()
        for folder, rights in ((work, 0o777), (out, 0o555), (Path(home), 0o755)):
            folder.chmod(rights)
        process = multiprocessing.get_context("fork").Process(target=told, args=(out, work, work / "said"))
        process.start()
        process.join()
        assert "a file cannot be used here ([Errno 13] Permission denied" in (work / "said").read_text()
        assert list(out.iterdir()) == [] and list(work.glob("crawl-*/images-000000.tar"))


def test_a_clock_that_was_wrong_takes_no_work_from_a_process_that_is_at_it(own_work):
    with WorkCache("crawl-urls", a=1) as held:
        held.keep("one", b"1")
        for file in (held.folder, held.folder.with_suffix(".lock")):
            os.utime(file, (1, 1))
        with WorkCache("caption"):
            pass
        assert held.done("one") == b"1" and held.folder.with_suffix(".lock").exists()
    assert not held.folder.exists()


def test_work_from_a_future_that_the_clock_took_back_is_taken_up_and_is_not_old(own_work):
    with pytest.raises(KeyError), WorkCache("crawl-urls", a=1) as work:
        work.set("one", b"1")
        raise KeyError
    later = time.time() + 10 * FORGOTTEN_AFTER
    for file in (work.folder / "one", work.folder, work.folder.with_suffix(".lock")):
        os.utime(file, (later, later))
    with WorkCache("caption"):
        pass
    with WorkCache("crawl-urls", a=1) as again:
        assert again.done("one") == b"1"


def crawling(out: Path, work: str, said: Path) -> None:
    os.environ["SUR_WORK"] = work
    with said.open("w") as file:
        sys.stderr = file
        crawl(out, sources=SOURCES)


def test_of_two_workspaces_at_the_same_work_one_waits_and_goes_on_where_the_other_was_killed(raw, tmp_path, own_work):
    start = multiprocessing.get_context("fork").Process
    outs = [tmp_path / name / "miniature" for name in ("one", "two")]
    first, second = (start(target=crawling, args=(out, str(own_work), tmp_path / out.parent.name.upper())) for out in outs)
    first.start()
    while not (work_dir().exists() and list(work_dir().glob("crawl-*/row-*"))):
        time.sleep(0.001)
    second.start()
    while not (said := tmp_path / "TWO").exists() or "another process does the same work" not in said.read_text():
        assert second.is_alive()
        if not first.is_alive():
            break
        time.sleep(0.001)
    first.kill()
    second.join()
    assert first.exitcode == -9 or digest(outs[0]) == digest(raw / "miniature")
    assert second.exitcode == 0 and digest(outs[1]) == digest(raw / "miniature")
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


def test_a_second_run_in_one_workspace_is_refused_by_dvc_in_a_sentence_and_the_first_ends_well(raw, tmp_path, own_work):
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
