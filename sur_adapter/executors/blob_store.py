"""Stores files under their SHA-256 at an address that fsspec supports, for machines that share no file system.

    store = BlobStore("s3://bucket/folder")
    blob = store.put(Path("data/raw/x/images-000000.tar"))  # becomes s3://bucket/folder/sha256/<digest>
    store.get(blob.sha256, Path("other/images-000000.tar"))

A file that exists there is not uploaded again, and nothing is removed. Credentials are never part of the address: fsspec and its file
systems read them from the environment and from their own config files.
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

from sur_adapter.io.atomic import DISK_FULL, atomic_write
from sur_adapter.io.hashing import file_digest
from sur_adapter.io.urls import reject_credentials

MAX_REASON = 200  # characters of an error message of a file system


class Blob(NamedTuple):
    """A file in the store, and its path on the machine that uploaded it."""

    file: Path
    sha256: str
    size: int


class BlobStore:
    """Files by SHA-256 at an fsspec address.

    Raises ValueError for an address that is invalid, contains credentials, or needs a package that is not installed.
    """

    def __init__(self, address: str):
        reject_credentials("executor.store", str(address))
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://.+", str(address)) or "::" in address:
            raise ValueError(
                "params.yaml: executor.store is not an address: give one such as s3://bucket/folder, gs://bucket/folder or "
                "file:///mnt/folder, or null"
            )
        with _friendly_errors(address):
            self.fs, root = url_to_fs(address)
        self.local = isinstance(self.fs, LocalFileSystem)
        self.address = self.fs.unstrip_protocol(root).rstrip("/")  # absolute, so it is valid from every working directory
        self.folder = f"{root.rstrip('/')}/sha256"
        self.uploaded: dict[tuple, Blob] = {}  # by path, size and time: every task needs the same model files

    def put(self, file: Path) -> Blob:
        """Uploads a file unless it is there. Raises ValueError if the store cannot be written."""
        stat = file.stat()
        key = (file, stat.st_size, stat.st_mtime_ns)
        if key not in self.uploaded:
            blob = Blob(file, file_digest(file), stat.st_size)
            with _friendly_errors(self.address):
                if self._size(blob.sha256) != blob.size:  # another size: an earlier upload was interrupted
                    self._put(file, blob.sha256)
            self.uploaded[key] = blob
        return self.uploaded[key]

    def get(self, sha256: str, file: Path) -> None:
        """Downloads to `file`, atomically. Raises ValueError if the store lacks the file or holds other bytes."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, uuid4().hex) as part:
            with _friendly_errors(self.address):
                self.fs.get_file(f"{self.folder}/{sha256}", str(part))
            if file_digest(part) != sha256:
                raise ValueError(
                    f"{self.address}/sha256/{sha256} is corrupt: remove it and run the same command again, which uploads it again"
                )

    def _size(self, sha256: str) -> int | None:
        try:
            return self.fs.info(f"{self.folder}/{sha256}")["size"]
        except FileNotFoundError:
            return None

    def _put(self, file: Path, sha256: str) -> None:
        """Uploads atomically. Object stores do that themselves, a local disk does not."""
        if self.local:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            with atomic_write(Path(self.folder, sha256), uuid4().hex) as part:
                shutil.copyfile(file, part)
        else:
            self.fs.put_file(str(file), f"{self.folder}/{sha256}")


@contextmanager
def _friendly_errors(address: str) -> Iterator[None]:
    """Turns the errors of any file system into a ValueError. A full disk stays an OSError, which the command line reports."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"params.yaml: executor.store is {address!r}, which needs a package that is missing ({error}): install it here and where "
            "workers run"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]
        raise ValueError(
            f"params.yaml: executor.store is {address!r}, which cannot be used ({reason}): correct the address or the credentials in the "
            "environment, and run the same command again, which resumes"
        ) from error
