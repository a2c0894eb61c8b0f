"""A depot: files under their SHA-256 at any address that fsspec knows, for machines that see no disk in common.

    depot = Depot("s3://bucket/folder")
    item = depot.put(Path("data/raw/x/images-000000.tar"))  # lies in s3://bucket/folder/sha256/<digest>
    depot.get(item.sha256, Path("elsewhere/images-000000.tar"))

What is there is not put again, and nothing is removed. Keys are never part of an address: fsspec and the packages behind it look for them
in the environment and where the machine keeps them.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from sur_adapter.io.atomic import FULL, atomic_write
from sur_adapter.io.hashing import digest
from sur_adapter.io.urls import reject_credentials

LONGEST = 200  # characters told of what a store says


class Item(NamedTuple):
    """A file as it lies in a depot, and as it is called by whoever put it there."""

    file: Path
    sha256: str
    size: int


class BlobStore:
    """Raises ValueError for an address that is none, holds a key, or needs a package that is not here."""

    def __init__(self, address: str):
        reject_credentials("executor.store", str(address))
        if not isinstance(address, str) or not re.fullmatch(r"[a-z][a-z0-9+.-]*://.+", address) or "::" in address:
            raise ValueError(
                "params.yaml: executor.store is no address: give one such as s3://bucket/folder, gs://bucket/folder or file:///mnt/folder, "
                "or null"
            )
        with _reached(address):
            self.fs, root = url_to_fs(address)
        self.local = isinstance(self.fs, LocalFileSystem)
        self.address = self.fs.unstrip_protocol(root).rstrip("/")  # whole, whichever folder it is asked from
        self.folder = f"{root.rstrip('/')}/sha256"
        self.known: dict[tuple, Item] = {}  # a model is asked for with every task

    def put(self, file: Path) -> Item:
        """Raises ValueError where the depot takes nothing."""
        state = file.stat()
        mark = (file, state.st_size, state.st_mtime_ns)
        if mark not in self.known:
            item = Item(file, digest(file), state.st_size)
            with _reached(self.address):
                if self._size(item.sha256) != item.size:  # another size: somebody was stopped while putting it
                    self._put(file, item.sha256)
            self.known[mark] = item
        return self.known[mark]

    def get(self, sha256: str, file: Path) -> None:
        """A file under its final name, whole or not at all. Raises ValueError where the depot lacks it, or holds other bytes."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, uuid4().hex) as part:
            with _reached(self.address):
                self.fs.get_file(f"{self.folder}/{sha256}", str(part))
            if digest(part) != sha256:
                raise ValueError(
                    f"{self.address}/sha256/{sha256} is not what was put there: remove it, and run the same command again, which goes on"
                )

    def _size(self, sha256: str) -> int | None:
        try:
            return self.fs.info(f"{self.folder}/{sha256}")["size"]
        except FileNotFoundError:
            return None

    def _put(self, file: Path, sha256: str) -> None:
        """At one stroke. Object stores do so by themselves, a disk does not."""
        if self.local:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            with atomic_write(Path(self.folder, sha256), uuid4().hex) as part:
                shutil.copyfile(file, part)
        else:
            self.fs.put_file(str(file), f"{self.folder}/{sha256}")


@contextmanager
def _reached(address: str) -> Iterator[None]:
    """Every store has errors of its own; of a full disk whoever catches OSError tells."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"params.yaml: executor.store is {address!r}, for which a package is missing ({error}): install it here and where workers are"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
        raise ValueError(
            f"params.yaml: executor.store is {address!r}, which cannot be used ({said}): mend the address, or the keys in the environment, "
            "and run the same command again, which goes on"
        ) from error
