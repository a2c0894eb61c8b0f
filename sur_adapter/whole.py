"""A file or folder is there whole, or not at all: whoever is killed while writing leaves what was there before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; its content takes the place of `path` at the end of the block, at one stroke."""
    part = path.with_name(f".{path.name}.part")
    yield part
    os.replace(part, path)
