"""Workers that see nothing of the stage's disk (executor.py): what they read and what they make goes through a depot.

A task is sent with a list of the files that it reads: where each lies, its digest, its size. They are put into the depot beforehand, and
the worker fetches them into a scratch folder of its own, a mirror of the stage's disk that holds nothing else. There it works as it would
anywhere: a path begins at the same folder as in the stage. What it makes goes back the same way, to its final name.

The scratch folder lies in $TMPDIR and goes with its process; what one that was killed has left, the next worker on that machine removes.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from uuid import uuid4

from filelock import FileLock, Timeout

from sur_adapter.executors.base import InputFiles, ShardResult, WorkerFactory
from sur_adapter.executors.blob_store import BlobStore, Item

SCRATCH = "sur-scratch-"


class StagedTask(NamedTuple):
    """A task as it travels."""

    task: Any
    items: list[Item]


class FileStaging:
    """The stage's side. reads: a task to what a worker reads for it, as of `files`."""

    def __init__(self, address: str, reads: InputFiles):
        self.depot, self.reads = BlobStore(address), reads

    def maker(self, make: WorkerFactory) -> WorkerFactory:
        return partial(RemoteWorker, self.depot.address, make, os.getcwd())

    def sent(self, tasks: Iterable) -> Iterator[StagedTask]:
        for task in tasks:
            yield StagedTask(task, [self.depot.put(file) for file in files(self.reads(task))])

    def received(self, file: Path, sha256: str) -> None:
        self.depot.get(sha256, file)


def files(names: Iterable[object]) -> list[Path]:
    """Every file that some paths and settings name, and every one of the folders they name, each once.

    A setting may be the name of a model on the hub, or no name at all; what begins at the root of the disk is asked for by that very name,
    so it cannot lie in a scratch folder.
    """
    found = {}
    for name in names:
        path = Path(name) if isinstance(name, PurePath) or (isinstance(name, str) and name and not os.path.isabs(name)) else None
        if path and path.exists():
            found |= dict.fromkeys(sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path])
    return list(found)


class RemoteWorker:
    """The worker's side. home: the folder where the stage runs, at which relative paths begin."""

    def __init__(self, address: str, make: WorkerFactory, home: str):
        self.depot, self.make, self.home, self.do = BlobStore(address), make, home, None
        self.scratch, self.lock = _scratch()
        self.there: dict[Path, str] = {}
        folder = self.placed(home)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        atexit.register(self.leave)

    def __call__(self, load: StagedTask):
        self._fetch(load.items)
        self.do = self.do or _moved(self.make, self.placed)()
        answer = self.do(_moved(load.task, self.placed))
        if not isinstance(answer, ShardResult):
            return answer
        self.depot.put(answer.file)
        answer.file.unlink()
        return answer._replace(file=Path("/", answer.file.relative_to(self.scratch)))

    def placed(self, path: str | Path) -> Path:
        """Where a path of the stage's disk lies here; one that leads up ends in the mirror, too."""
        return self.scratch / os.path.abspath(os.path.join(self.home, path)).lstrip("/")

    def _fetch(self, items: list[Item]) -> None:
        """What the task reads, and no more: a model stays, the shard before goes."""
        wanted = {self.placed(item.file): item.sha256 for item in items}
        for file in [file for file, sha256 in self.there.items() if wanted.get(file) != sha256]:
            file.unlink(missing_ok=True)
            del self.there[file]
        for file, sha256 in wanted.items():
            if file not in self.there:
                self.depot.get(sha256, file)
                self.there[file] = sha256

    def leave(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        with suppress(OSError):
            os.unlink(self.lock.lock_file)


def _scratch() -> tuple[Path, FileLock]:
    """A folder of this process's own, and the lock that tells others it is there; one process at a time, as a lock is not yet held when its
    file is made."""
    root = Path(tempfile.gettempdir()).absolute()
    with FileLock(root / f"sur-scratches-{os.getuid()}.lock"):
        for old in root.glob(f"{SCRATCH}*.lock"):
            with suppress(OSError, Timeout), FileLock(old, timeout=0):
                shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                old.unlink()
        folder = root / f"{SCRATCH}{uuid4().hex}"
        lock = FileLock(folder.with_suffix(".lock"))
        lock.acquire()
        folder.mkdir(0o700)
    return folder, lock


def _moved(value, placed: Callable[[Path], Path]):
    """A task, or what makes a worker: its paths from the root of the disk, and what goes by them, are of the mirror now."""
    if isinstance(value, PurePath):
        return placed(value) if value.is_absolute() else value
    if isinstance(value, partial):
        return partial(value.func, *_moved(value.args, placed), **{key: _moved(v, placed) for key, v in value.keywords.items()})
    if type(value) is tuple:
        return tuple(_moved(part, placed) for part in value)
    return value.moved(placed) if hasattr(value, "moved") else value
