"""Reads the shards of a raw folder: each is a Parquet table of rows and a tar with their images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from sur_adapter.io.images import open_image
from sur_adapter.io.schema import check_id
from sur_adapter.io.shards import read_table, read_tar

# Yields the images of a shard's rows (RGB), one at a time. Argument: a mask of the rows, None for all. Raises ValueError if table and tar
# hold different ids, or if an image is corrupt.
ImageReader = Callable[[Sequence[bool] | None], Iterator[Image.Image]]


def shard_numbers(raw: Path) -> list[str]:
    """Lists the numbers of a raw folder's shards, e.g. "000000". Raises FileNotFoundError if there is none."""
    tables = sorted(raw.glob("prompts-*.parquet"))
    if not tables:
        read_table(raw)  # raises: its error says what is missing
    return [table.stem.removeprefix("prompts-") for table in tables]


def shard_files(raw: Path, number: str) -> tuple[Path, Path]:
    """Returns the paths of the table and the tar of one shard."""
    return raw / f"prompts-{number}.parquet", raw / f"images-{number}.tar"


def captions_file(number: str) -> str:
    """Returns the name of the table with the captions of one shard."""
    return f"captions-{number}.parquet"


def read_shard(raw: Path, number: str) -> tuple[pd.DataFrame, ImageReader]:
    """Reads the rows of one shard that the crawl kept; their images are read when the returned reader is called."""
    table, tar = shard_files(raw, number)
    rows = read_table(table)
    rows = rows[rows.dropped.isna()].reset_index(drop=True)
    return rows, partial(_read_images, tar, list(rows.id))


def _read_images(tar: Path, ids: list[str], mask: Sequence[bool] | None = None) -> Iterator[Image.Image]:
    members = read_tar(tar)
    for image_id, wanted in zip(ids, [True] * len(ids) if mask is None else mask, strict=True):
        key, _, data = next(members, ("no more images", None, None))
        if key != image_id:
            raise ValueError(f"{tar} holds {key} where its table has {image_id}: remove its folder and run `dvc repro` again")
        if wanted:
            check_id(tar, image_id, data)
            yield open_image(data)
