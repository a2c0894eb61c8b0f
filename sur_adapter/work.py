"""Finished work of a stage that may be killed, so that the next start goes on where it was.

    with Work("caption", source="civitai", settings=settings, code=code("sur_adapter", "stages.caption")) as work:
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

FORGOTTEN_AFTER = 30 * 24 * 3600  # seconds: work of settings that nobody came back to
OURS = re.compile(r"[a-z]+(-\w+)?-[0-9a-f]{16}(\.lock)?")  # stage, source; $SUR_WORK may hold other people's files


def root() -> Path:
    """Where the work of all workspaces lies."""
    return Path(os.environ.get("SUR_WORK") or "~/.cache/sur-adapter").expanduser().absolute()


def code(*packages: str) -> str:
    """A digest of the source of every loaded module of some packages: work of another version is not taken up."""
    files = {
        name: module.__file__
        for name, module in list(sys.modules.items())
        if getattr(module, "__file__", None) and any(name == p or name.startswith(f"{p}.") for p in packages)
    }
    texts = [name.encode() + b"\0" + Path(file).read_bytes() for name, file in sorted(files.items())]
    return sha256(b"\0".join(texts)).hexdigest()[:16]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; its content takes the place of `path` at the end of the block, at one stroke."""
    part = path.with_name(f".{path.name}.part")
    yield part
    os.replace(part, path)


class Work:
    """`about`: all that the result depends on, as JSON takes it. One process at a time: a second one waits for the first.

    Raises ValueError where the folder cannot be written.
    """

    def __init__(self, stage: str, **about):
        about = json.dumps(about, sort_keys=True, default=str)
        self.folder = root() / f"{stage}-{sha256(about.encode()).hexdigest()[:16]}"
        self._lock = FileLock(self.folder.with_suffix(".lock"))

    def __enter__(self) -> "Work":
        try:
            root().mkdir(parents=True, exist_ok=True)
            _tidy(root())
            self._wait()
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"unfinished work cannot be kept in {root()} ({error}): set SUR_WORK to a folder that can be written"
            ) from error
        for part in self.folder.glob(".*.part"):
            part.unlink()
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def done(self, key: str) -> bytes | None:
        """What was kept under a key (a file name), or None."""
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def keep(self, key: str, data: bytes) -> None:
        with whole(self.folder / key) as part:
            part.write_bytes(data)

    def drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def clear(self) -> None:
        """For what cannot be taken up."""
        for file in self.folder.iterdir():
            file.unlink()

    def deliver(self, out: Path, *patterns: str) -> None:
        """Files as outs: another name for the same bytes where the file system can, a copy where it cannot."""
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(f for pattern in patterns for f in self.folder.glob(pattern)):
            with whole(out / file.name) as part:
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
    """Removes what has lain untouched for a month."""
    for old in (f for f in folder.iterdir() if OURS.fullmatch(f.name)):
        try:
            if time.time() - old.stat().st_mtime > FORGOTTEN_AFTER:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        except OSError:  # somebody else was first
            continue
