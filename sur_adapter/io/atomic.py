"""A file or folder is there whole, or not at all: whoever is stopped while writing leaves what was there before."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_write(path: Path, writer: str = "") -> Iterator[Path]:
    """A path to write to; its content takes the place of `path` at the end of the block, at one stroke.

    What an error leaves half written goes at once, so that a full disk does not stay full of it. writer: who writes, where several may
    write the same at a time.
    """
    part = path.with_name(f".{path.name}.{writer}.part" if writer else f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """A text in UTF-8, lines ended by \\n everywhere; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def friendly_disk_errors() -> Iterator[None]:
    """What a disk refuses becomes a ValueError in one sentence; any other OSError is left as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ValueError(f"there is no room for a file ({error}): make room and run the same command again, which goes on") from error
        if error.errno in CLOSED:
            raise ValueError(f"a file cannot be used here ({error}): let this user write there, then run the same command again") from error
        raise
