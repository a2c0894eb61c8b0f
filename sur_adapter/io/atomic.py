"""Atomic writes: a file or folder has its old content or its new one, never a part of it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_write(path: Path, writer: str = "") -> Iterator[Path]:
    """Yields a temporary path to write to; it replaces `path` at the end of the block.

    After an error `path` is unchanged and the temporary file is removed. writer: a unique name, where several processes may write the same
    path at once.
    """
    part = path.with_name(f".{path.name}.{writer}.part" if writer else f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8 with \\n line ends on every system; creates parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def friendly_disk_errors() -> Iterator[None]:
    """Turns a full or read-only disk into a ValueError of one sentence; any other OSError is left as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ValueError(f"the disk is full ({error}): free some space and run the same command again, which resumes") from error
        if error.errno in NOT_WRITABLE:
            raise ValueError(f"a file cannot be written ({error}): let this user write there and run the same command again") from error
        raise
