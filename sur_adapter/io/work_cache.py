"""Resumable per-stage cache of finished work.

    with WorkCache("caption", source="civitai", config=asdict(config), code=code_version(__file__)) as work:
        if (data := work.get(name)) is None:
            work.set(name, data := compute())

The folder's name is a digest of all inputs of the work. It is outside the stage's outs, which DVC removes before a stage runs, and in one
place for all workspaces: $SUR_WORK, or ~/.cache/sur-adapter. It is removed when the block ends without an error, else kept; with
`keep_finished` it is always kept, and removed when no run has used it for a month. Files are written atomically.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.hashing import short_digest

logger = logging.getLogger(__name__)
MAX_AGE = 30 * 24 * 3600  # seconds; older work is removed
ENTRY_NAME = re.compile(r"[a-z]+(-\w+)?-[0-9a-f]{16}(\.lock)?")  # stage, source, digest; $SUR_WORK may hold files of other software


def work_dir() -> Path:
    """Returns the folder of the work caches of all workspaces."""
    return Path(os.environ.get("SUR_WORK") or "~/.cache/sur-adapter").expanduser().absolute()


def file_stats(*names: object) -> list:
    """Lists path, size and modification time of the files that settings name: detects a changed model without reading it.

    Values that are not the path of an existing file or folder, such as a model id on the hub, are left out.
    """
    paths = [Path(name) for name in names if isinstance(name, str) and Path(name).exists()]
    files = [f for path in paths for f in (sorted(path.rglob("*")) if path.is_dir() else [path]) if f.is_file()]
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def discard_work(*stages: str) -> None:
    """Removes all work of the stages, which may hold a sample that must be forgotten. Work that a process has locked stays."""
    for lock in (file for stage in stages for file in work_dir().glob(f"{stage}-*.lock") if ENTRY_NAME.fullmatch(file.name)):
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


class WorkCache:
    """Finished files of one stage with the same inputs. One process at a time: a second one waits for the first.

    keep_finished: whether the files stay for the next run when the block has ended without an error. inputs: all that the result depends
    on, as JSON values. Raises ValueError on entry if the folder cannot be written.
    """

    def __init__(self, stage: str, keep_finished: bool = False, **inputs):
        self.keep_finished = keep_finished
        self.folder = work_dir() / f"{stage}-{short_digest(json.dumps(inputs, sort_keys=True, default=str))}"
        self._lock = FileLock(self.folder.with_suffix(".lock"))

    def __enter__(self) -> "WorkCache":
        try:
            work_dir().mkdir(parents=True, exist_ok=True)
            _remove_old_entries(work_dir())
            self._acquire_lock()
            self.folder.mkdir(exist_ok=True)
            os.utime(self.folder)
        except OSError as error:
            raise ValueError(f"unfinished work cannot be saved in {work_dir()} ({error}): set SUR_WORK to a writable folder") from error
        for part in self.folder.glob(".*.part"):
            part.unlink()
        return self

    def __exit__(self, exception_type, *_) -> None:
        if exception_type is None and not self.keep_finished:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def get(self, key: str) -> bytes | None:
        """Returns the bytes saved under a key (a file name), or None."""
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def set(self, key: str, data: bytes) -> None:
        """Saves bytes under a key."""
        with self.open(key) as part:
            part.write_bytes(data)

    @contextmanager
    def open(self, key: str) -> Iterator[Path]:
        """Yields a path to write to, saved under `key` at the end of the block. Several workers may write the same key at once."""
        with atomic_write(self.folder / key, uuid4().hex) as part:
            yield part

    def __getstate__(self) -> dict:
        """Pickles the folder for a worker; the lock stays with the stage."""
        return {"folder": self.folder}

    def with_local_paths(self, to_local: Callable[[Path], Path]) -> "WorkCache":
        """Returns a copy whose folder is on a worker that does not share the stage's file system (executors/staging.py)."""
        other = copy(self)
        other.folder = to_local(self.folder)
        other.folder.mkdir(parents=True, exist_ok=True)
        return other

    def delete(self, keys: Iterable[str]) -> None:
        """Removes keys; those that do not exist are ignored."""
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes all files, for work that cannot be resumed."""
        for file in self.folder.iterdir():
            file.unlink()

    def publish(self, out: Path, *patterns: str) -> None:
        """Puts files into an out: as hard links where the file system allows it, else as copies."""
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(f for pattern in patterns for f in self.folder.glob(pattern)):
            with atomic_write(out / file.name) as part:
                part.unlink(missing_ok=True)
                try:
                    os.link(file, part)
                except OSError:
                    shutil.copyfile(file, part)

    def _acquire_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process does the same work (%s): waiting for it", self.folder.name)
            self._lock.acquire()


def _remove_old_entries(folder: Path) -> None:
    """Removes entries older than MAX_AGE, except those that a process has locked: a wrong clock makes new files look old."""
    for old in (f for f in folder.iterdir() if ENTRY_NAME.fullmatch(f.name)):
        with suppress(OSError, Timeout):  # another process removed it first, or has locked it
            if time.time() - old.stat().st_mtime > MAX_AGE:
                if old.is_dir() or old.suffix == ".lock":
                    with FileLock(old.with_suffix(".lock"), timeout=0) as lock:
                        shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                        os.unlink(lock.lock_file)
                else:
                    old.unlink()
