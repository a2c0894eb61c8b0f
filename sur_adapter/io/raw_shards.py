"""Reads the shards of a raw folder: a table of rows and a tar with their images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from sur_adapter.io.images import open_image
from sur_adapter.io.schema import check_id
from sur_adapter.io.shards import read_table, read_tar

Look = Callable[[Sequence[bool] | None], Iterator[Image.Image]]


def kept(raw: Path) -> Iterator[tuple[str, pd.DataFrame, Look]]:
    """For each shard of a raw folder: its number as text, the rows crawl kept, and a look at their pictures (RGB), one at a time.

    A look takes which of the rows are wanted; None for all. Raises ValueError where table and tar do not hold the same ids, or a picture
    is not the one that was crawled.
    """
    for number in numbers(raw):
        yield number, *shard(raw, number)


def numbers(raw: Path) -> list[str]:
    """Of the shards of a raw folder."""
    tables = sorted(raw.glob("prompts-*.parquet"))
    if not tables:
        read_table(raw)  # says what is missing
    return [table.stem.removeprefix("prompts-") for table in tables]


def members(raw: Path, number: str) -> tuple[Path, Path]:
    """The table and the tar of one shard."""
    return raw / f"prompts-{number}.parquet", raw / f"images-{number}.tar"


def shard(raw: Path, number: str) -> tuple[pd.DataFrame, Look]:
    """The rows crawl kept of one shard, and a look at their pictures, as of `kept`."""
    table, tar = members(raw, number)
    rows = read_table(table)
    rows = rows[rows.dropped.isna()].reset_index(drop=True)
    return rows, partial(_pictures, tar, list(rows.id))


def _pictures(tar: Path, ids: list[str], wanted: Sequence[bool] | None = None) -> Iterator[Image.Image]:
    members = read_tar(tar)
    for key, want in zip(ids, [True] * len(ids) if wanted is None else wanted, strict=True):
        found, _, data = next(members, ("no more pictures", None, None))
        if found != key:
            raise ValueError(f"{tar} holds {found} where its table says {key}: remove its folder and run `dvc repro` again")
        if want:
            check_id(tar, key, data)
            yield open_image(data)
