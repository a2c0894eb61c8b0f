"""Persistent cache of what was measured for images: each image is measured once per measurement, in any configuration.

One SQLite file per measurement lies in the work folder (io/work_cache.py), outside the outs. Its name holds the measurement's version: a
digest of its code, its settings and the files of its models. Its rows are keyed by the hash of the image's bytes and, if the measurement
reads it, of the prompt. A kill loses one batch at most; files that were not used for a month are removed.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from sur_adapter.io.code_version import code_version
from sur_adapter.io.images import open_image
from sur_adapter.io.work_cache import file_stats, work_dir

LOCK_TIMEOUT = 600  # seconds that another process may hold the file's write lock


class GeneratedImage:
    """The bytes of an image file, with the prompt (generation/prompts.py) that it is judged by. It is decoded on first access."""

    def __init__(self, data: bytes, prompt: dict):
        self.data, self.prompt = data, prompt

    @cached_property
    def image(self) -> Image.Image:
        return open_image(self.data)


class MeasurementCache:
    """Calls `measure(images, prompts)`, which gives K numbers for each of N images, (N,) or (N, K), for new images only.

    code_file: the measurement's source file, settings: its settings, both part of its version. reads_prompts: whether the numbers depend
    on the prompts. Raises ValueError if the file cannot be written.
    """

    def __init__(self, name: str, measure: Callable, code_file: str | Path, settings: dict | None = None, reads_prompts: bool = False):
        settings = settings or {}
        version = json.dumps([settings, code_version(code_file), file_stats(*settings.values())], sort_keys=True, default=str)
        self.file = work_dir() / f"measure-{name}-{sha256(version.encode()).hexdigest()[:16]}"
        self.measure, self.reads_prompts = measure, reads_prompts

    def __call__(self, images: list[GeneratedImage]) -> np.ndarray:
        """Returns the numbers of each image, (N, K)."""
        keys = [self._key(image) for image in images]
        with self._connection() as connection:
            numbers = {key: values for key in keys if (values := _read(connection, key)) is not None}
        if new := {key: image for key, image in zip(keys, images, strict=True) if key not in numbers}:
            numbers |= self._measure(new)
        return np.stack([numbers[key] for key in keys])

    def _measure(self, new: dict[bytes, GeneratedImage]) -> dict[bytes, np.ndarray]:
        values = self.measure([image.image for image in new.values()], [image.prompt for image in new.values()])
        values = np.asarray(values, np.float64).reshape(len(new), -1)  # (M, K)
        with self._connection() as connection, _transaction(connection):
            rows = [(key, _with_checksum(key, row.tobytes())) for key, row in zip(new, values, strict=True)]
            connection.executemany("INSERT OR REPLACE INTO measurements VALUES (?, ?)", rows)
        return dict(zip(new, values, strict=True))

    def _key(self, image: GeneratedImage) -> bytes:
        prompt = json.dumps(image.prompt, sort_keys=True).encode() if self.reads_prompts else b""
        return sha256(image.data).digest() + sha256(prompt).digest()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=LOCK_TIMEOUT, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = OFF")  # no wait for slow disks: checksums find what a power cut damages
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'measurements'").fetchone() is None:
                    connection.execute("CREATE TABLE IF NOT EXISTS measurements (key BLOB PRIMARY KEY, numbers BLOB) WITHOUT ROWID")
                yield connection
            os.utime(self.file)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"measurements cannot be saved in {self.file} ({error}): remove the file, or set SUR_WORK to a writable folder"
            ) from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Opens a transaction that takes the write lock at once: one that begins with a read fails if another process waits to write."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back
        yield


def _read(connection: sqlite3.Connection, key: bytes) -> np.ndarray | None:
    """Reads the numbers of `key`; None if there are none, or if their checksum is wrong: they are measured again."""
    row = connection.execute("SELECT numbers FROM measurements WHERE key = ?", (key,)).fetchone()
    if row is None or len(row[0]) % 8 or _with_checksum(key, row[0][:-8]) != row[0]:
        return None
    return np.frombuffer(row[0][:-8], np.float64)


def is_intact(file: Path) -> bool:
    """Checks that SQLite can read a cache file and that all its checksums are right."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT)) as connection:
            rows = connection.execute("SELECT key, numbers FROM measurements")
            intact = all(_with_checksum(key, numbers[:-8]) == numbers for key, numbers in rows)
            return intact and connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except (sqlite3.Error, TypeError):
        return False


def _with_checksum(key: bytes, numbers: bytes) -> bytes:
    return numbers + sha256(key + numbers).digest()[:8]
