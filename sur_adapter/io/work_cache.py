"""Finished work of a stage that may be killed, so that the next start goes on where it was.

    with Work("caption", source="civitai", settings=settings, code=revision(__file__)) as work:
        if (data := work.done(name)) is None:
            work.keep(name, data := dear())

The folder is named by content (whatever the result depends on), lies outside the outs, which DVC removes before a stage runs, and at one
place for all workspaces: $SUR_WORK, or ~/.cache/sur-adapter. When the block ends well, it is removed; when it is left by an error or a
kill, it stays. A file is there whole or not at all.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from sur_adapter.io.atomic import atomic_write

FORGOTTEN_AFTER = 30 * 24 * 3600  # seconds: work of settings that nobody came back to
OURS = re.compile(r"[a-z]+(-\w+)?-[0-9a-f]{16}(\.lock)?")  # stage, source; $SUR_WORK may hold other people's files


def work_dir() -> Path:
    """Where the work of all workspaces lies."""
    return Path(os.environ.get("SUR_WORK") or "~/.cache/sur-adapter").expanduser().absolute()


def digest(folder: Path, pattern: str) -> str:
    """Of the names and the bytes of files: work on others is not taken up."""
    total = sha256()
    for file in sorted(folder.rglob(pattern)):
        total.update(str(file.relative_to(folder)).encode() + b"\0")
        total.update(sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def file_stats(*names: object) -> list:
    """What tells one state of the models some settings name from another without reading them: sizes and times of files that lie here."""
    folders = [Path(name) for name in names if isinstance(name, str) and Path(name).exists()]
    files = [f for folder in folders for f in (sorted(folder.rglob("*")) if folder.is_dir() else [folder]) if f.is_file()]
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def discard_work(*stages: str) -> None:
    """Removes unfinished work of some stages, but not what a process is at: it holds what was asked to be forgotten, perhaps."""
    for lock in (file for stage in stages for file in work_dir().glob(f"{stage}-*.lock") if OURS.fullmatch(file.name)):
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


class WorkCache:
    """`about`: all that the result depends on, as JSON takes it. One process at a time: a second one waits for the first.

    Raises ValueError where the folder cannot be written.
    """

    def __init__(self, stage: str, **about):
        about = json.dumps(about, sort_keys=True, default=str)
        self.folder = work_dir() / f"{stage}-{sha256(about.encode()).hexdigest()[:16]}"
        self._lock = FileLock(self.folder.with_suffix(".lock"))

    def __enter__(self) -> "WorkCache":
        try:
            work_dir().mkdir(parents=True, exist_ok=True)
            _tidy(work_dir())
            self._wait()
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"unfinished work cannot be kept in {work_dir()} ({error}): set SUR_WORK to a folder that can be written"
            ) from error
        for part in self.folder.glob(".*.part"):
            part.unlink()
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def get(self, key: str) -> bytes | None:
        """What was kept under a key (a file name), or None."""
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def set(self, key: str, data: bytes) -> None:
        with self.open(key) as part:
            part.write_bytes(data)

    @contextmanager
    def open(self, key: str) -> Iterator[Path]:
        """A path to write to, kept under `key` at the end of the block. Two that make the same at a time do not mind each other."""
        with atomic_write(self.folder / key, uuid4().hex) as part:
            yield part

    def __getstate__(self) -> dict:
        """What a worker elsewhere needs (executor.py): the lock stays with the stage."""
        return {"folder": self.folder}

    def moved(self, placed: Callable[[Path], Path]) -> "WorkCache":
        """The same where a worker works that sees nothing of this disk (haul.py): its own folder."""
        other = copy(self)
        other.folder = placed(self.folder)
        other.folder.mkdir(parents=True, exist_ok=True)
        return other

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def clear(self) -> None:
        """For what cannot be taken up."""
        for file in self.folder.iterdir():
            file.unlink()

    def publish(self, out: Path, *patterns: str) -> None:
        """Files as outs: another name for the same bytes where the file system can, a copy where it cannot."""
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(f for pattern in patterns for f in self.folder.glob(pattern)):
            with atomic_write(out / file.name) as part:
                part.unlink(missing_ok=True)
                try:
                    os.link(file, part)
                except OSError:
                    shutil.copyfile(file, part)

    def _wait(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            print(f"another process does the same work ({self.folder.name}): waiting for it", file=sys.stderr)
            self._lock.acquire()


def _tidy(folder: Path) -> None:
    """Removes what has lain untouched for a month, but not what a process is at: a clock that was wrong makes new things old."""
    for old in (f for f in folder.iterdir() if OURS.fullmatch(f.name)):
        with suppress(OSError, Timeout):  # somebody else was first, or is at it
            if time.time() - old.stat().st_mtime > FORGOTTEN_AFTER:
                if old.is_dir() or old.suffix == ".lock":
                    with FileLock(old.with_suffix(".lock"), timeout=0) as lock:
                        shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                        os.unlink(lock.lock_file)
                else:
                    old.unlink()
