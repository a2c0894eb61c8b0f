"""Sends files to workers that share no file system with the stage, and brings their results back, through a blob store.

A task is sent with a list of the files that it reads: path, digest and size. They are uploaded first. The worker downloads them into a
scratch folder of its own, which mirrors the stage's file system: every path of the stage has its place below it, and relative paths
start at the mirror of the stage's working directory. The worker's output is uploaded, and the stage downloads it to its final path.

The scratch folder is in $TMPDIR and is removed with its process; what a killed worker left there, the next worker on that machine removes.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from uuid import uuid4

from filelock import FileLock, Timeout

from sur_adapter.executors.base import InputFiles, ShardResult, WorkerFactory
from sur_adapter.executors.blob_store import Blob, BlobStore

SCRATCH = "sur-scratch-"
ToLocal = Callable[[Path], Path]  # a path of the stage -> its place in the scratch folder


class StagedTask(NamedTuple):
    """A task with the files that it reads."""

    task: Any
    blobs: list[Blob]


class FileStaging:
    """The stage's side: uploads inputs, downloads results. input_files: task -> paths and settings, as `list_files` takes them."""

    def __init__(self, address: str, input_files: InputFiles):
        self.store, self.input_files = BlobStore(address), input_files

    def wrap(self, worker_factory: WorkerFactory) -> WorkerFactory:
        """Returns a factory of remote workers, each around a worker of `worker_factory`."""
        return partial(RemoteWorker, self.store.address, worker_factory, os.getcwd())

    def upload(self, task: Any) -> StagedTask:
        """Uploads the files that a task reads."""
        return StagedTask(task, [self.store.put(file) for file in list_files(self.input_files(task))])

    def download(self, result: ShardResult) -> None:
        """Downloads a result to its final path."""
        self.store.get(result.sha256, result.file)


def list_files(names: Iterable[object]) -> list[Path]:
    """Lists the files that paths and settings name, and all files of the folders that they name, each once.

    A string may also be a model id on the hub, or no path at all: it counts only if a file or folder of that name exists. Strings with an
    absolute path are left out, since the worker would open that very path; every machine needs such a file itself.
    """
    files: dict[Path, None] = {}
    for name in names:
        path = Path(name) if isinstance(name, PurePath) or (isinstance(name, str) and name and not os.path.isabs(name)) else None
        if path and path.exists():
            files |= dict.fromkeys(sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path])
    return list(files)


class RemoteWorker:
    """The worker's side: runs a worker in a scratch folder. working_dir: of the stage, where relative paths start."""

    def __init__(self, address: str, worker_factory: WorkerFactory, working_dir: str):
        self.store, self.worker_factory, self.working_dir, self.worker = BlobStore(address), worker_factory, working_dir, None
        self.scratch, self.lock = _create_scratch()
        self.downloaded: dict[Path, str] = {}  # local path -> SHA-256
        local_dir = self.to_local(working_dir)
        local_dir.mkdir(parents=True, exist_ok=True)
        os.chdir(local_dir)
        atexit.register(self.close)

    def __call__(self, staged: StagedTask) -> Any:
        self._download(staged.blobs)
        self.worker = self.worker or with_local_paths(self.worker_factory, self.to_local)()
        result = self.worker(with_local_paths(staged.task, self.to_local))
        return [self._upload(part) for part in result] if isinstance(result, list) else self._upload(result)

    def _upload(self, result: Any) -> Any:
        """Uploads the file of a result, and returns the result with the stage's path; another result stays as it is."""
        if not isinstance(result, ShardResult):
            return result
        self.store.put(result.file)
        result.file.unlink()
        return result._replace(file=Path("/", result.file.relative_to(self.scratch)))

    def to_local(self, path: str | Path) -> Path:
        """Maps a path of the stage to its place in the scratch folder; `..` cannot lead out of it."""
        return self.scratch / os.path.abspath(os.path.join(self.working_dir, path)).lstrip("/")

    def _download(self, blobs: list[Blob]) -> None:
        """Downloads what the task reads and removes the rest: a model stays, the previous shard goes."""
        needed = {self.to_local(blob.file): blob.sha256 for blob in blobs}
        for file in [file for file, sha256 in self.downloaded.items() if needed.get(file) != sha256]:
            file.unlink(missing_ok=True)
            del self.downloaded[file]
        for file, sha256 in needed.items():
            if file not in self.downloaded:
                self.store.get(sha256, file)
                self.downloaded[file] = sha256

    def close(self) -> None:
        """Removes the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        with suppress(OSError):
            os.unlink(self.lock.lock_file)


def _create_scratch() -> tuple[Path, FileLock]:
    """Creates a scratch folder and its lock, which shows that it is in use. Removes folders whose lock no process holds.

    A lock file exists before it is locked, so one process at a time does this.
    """
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


def with_local_paths(value: Any, to_local: ToLocal) -> Any:
    """Replaces the absolute paths in a task or a worker factory by their places in the scratch folder.

    Looks into tuples and partials. An object that holds paths has a method `with_local_paths(to_local)`, which returns a copy.
    """
    if isinstance(value, PurePath):
        return to_local(value) if value.is_absolute() else value
    if isinstance(value, partial):
        keywords = {key: with_local_paths(v, to_local) for key, v in value.keywords.items()}
        return partial(value.func, *with_local_paths(value.args, to_local), **keywords)
    if type(value) is tuple:
        return tuple(with_local_paths(part, to_local) for part in value)
    return value.with_local_paths(to_local) if hasattr(value, "with_local_paths") else value
