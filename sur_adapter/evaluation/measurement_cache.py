"""What pictures were measured to be: each once for each measure, however often and beside whatever else it is asked for.

A file for each measure lies where unfinished work does (work.py), outside the outs. Its name tells the measure's version: its code, its
settings and the state of its models. In it, numbers lie under the hash of a picture's bytes, and of its prompt where the measure reads
that. A kill loses a batch at most; what nobody asked for in a month goes.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from hashlib import sha256
from inspect import signature
from pathlib import Path

import numpy as np
from PIL import Image

from sur_adapter.io.code_version import code_version
from sur_adapter.io.images import open_image
from sur_adapter.io.work_cache import file_stats, work_dir

PATIENCE = 600  # seconds that others may write


class Picture:
    """Bytes as they lie, and the prompt (prompts.py) that they are judged by; decoded when first looked at."""

    def __init__(self, data: bytes, prompt: dict):
        self.data, self.prompt = data, prompt

    @cached_property
    def image(self) -> Image.Image:
        return open_image(self.data)


class MeasurementCache:
    """`measure(images)` or `measure(images, prompts)`, one number or K of them for each picture, asked for new pictures alone.

    file: the measure's source; about: its settings. Raises ValueError where the numbers cannot be kept.
    """

    def __init__(self, name: str, measure: Callable, file: str | Path, **about):
        version = json.dumps([about, code_version(file), file_stats(*about.values())], sort_keys=True, default=str)
        self.file = work_dir() / f"measure-{name}-{sha256(version.encode()).hexdigest()[:16]}"
        self.measure, self._reads_prompts = measure, "prompts" in signature(measure).parameters

    def __call__(self, pictures: list[Picture]) -> np.ndarray:
        """(N, K)"""
        keys = [self._key(picture) for picture in pictures]
        with self._table() as table:
            found = {key: values for key in keys if (values := _read(table, key)) is not None}
        if new := {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in found}:
            found |= self._measured(new)
        return np.stack([found[key] for key in keys])

    def _measured(self, new: dict[bytes, Picture]) -> dict[bytes, np.ndarray]:
        images, prompts = [p.image for p in new.values()], [p.prompt for p in new.values()]
        values = self.measure(images, prompts) if self._reads_prompts else self.measure(images)
        values = np.asarray(values, np.float64).reshape(len(new), -1)  # (M, K)
        with self._table() as table, _alone(table):  # at one stroke
            rows = [(key, _sealed(key, row.tobytes())) for key, row in zip(new, values, strict=True)]
            table.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)
        return dict(zip(new, values, strict=True))

    def _key(self, picture: Picture) -> bytes:
        words = json.dumps(picture.prompt, sort_keys=True).encode() if self._reads_prompts else b""
        return sha256(picture.data).digest() + sha256(words).digest()

    @contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None)) as table:
                table.execute("PRAGMA synchronous = OFF")  # a slow disk keeps nobody waiting: what a power cut spoils, its seal tells
                if table.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept'").fetchone() is None:
                    table.execute("CREATE TABLE IF NOT EXISTS kept (picture BLOB PRIMARY KEY, numbers BLOB) WITHOUT ROWID")
                yield table
            os.utime(self.file)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"numbers of pictures cannot be kept in {self.file} ({error}): remove it, or set SUR_WORK elsewhere"
            ) from error


@contextmanager
def _alone(table: sqlite3.Connection) -> Iterator[None]:
    """The lock to write, from the start: who reads first and then wants to write is refused at once where another waits for readers."""
    table.execute("BEGIN IMMEDIATE")
    with table:  # commits, or takes all back
        yield


def _read(table: sqlite3.Connection, key: bytes) -> np.ndarray | None:
    row = table.execute("SELECT numbers FROM kept WHERE picture = ?", (key,)).fetchone()
    atomic_write = row is not None and len(row[0]) % 8 == 0 and _sealed(key, row[0][:-8]) == row[0]
    return np.frombuffer(row[0][:-8], np.float64) if atomic_write else None


def sound(file: Path) -> bool:
    """Whether every number of a file is as it was measured."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as table:
            rows = table.execute("SELECT picture, numbers FROM kept")
            return all(_sealed(key, row[:-8]) == row for key, row in rows) and table.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except (sqlite3.Error, TypeError):
        return False


def _sealed(key: bytes, numbers: bytes) -> bytes:
    """With a seal of eight bytes, by which a flipped bit is found; the picture is measured anew then."""
    return numbers + sha256(key + numbers).digest()[:8]
