"""Writes rows of a source into shards: a table of all rows, and a tar with the images that are kept."""

from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sur_adapter.data.prompts.cleaning import clean
from sur_adapter.executors.executor import Executor
from sur_adapter.io.images import EXTENSIONS, InvalidImageError, decode
from sur_adapter.io.schema import RAW_SCHEMA, ROWS_PER_SHARD, record_id
from sur_adapter.io.shards import read_table, read_tar, write_table, write_tar
from sur_adapter.io.work_cache import WorkCache

IMAGES_PER_TASK = 256  # that a worker decodes at a time


class ImageCheck(NamedTuple):
    """Result of decoding an image: the reason why it is invalid, or its file extension and size (width, height)."""

    reason: str | None
    extension: str | None
    size: tuple[int, int]


def check_image(data: bytes) -> ImageCheck:
    """Decodes an image and returns its extension and size, or why it is invalid."""
    try:
        image = decode(data)
    except InvalidImageError as error:
        return ImageCheck(str(error), None, (0, 0))
    return ImageCheck(None, EXTENSIONS[image.format], image.size)


class ImageChecker:
    """Worker of the crawl: takes the name of a tar in the work cache and returns it with the checks of its images."""

    def __init__(self, work: WorkCache):
        self.work = work

    def __call__(self, name: str) -> tuple[str, list[ImageCheck]]:
        return name, [check_image(data) for _, _, data in read_tar(self.work.folder / name)]


def check_images(rows: Iterable[dict], work: WorkCache, workers: Executor) -> Iterator[dict]:
    """Yields the rows in order, each with the ImageCheck of its image under `check`, computed by the workers (ImageChecker).

    The images wait in tars in the work cache meanwhile.
    """
    work.delete([file.name for file in work.folder.glob("waiting-*.tar")])  # of a run that was killed: its rows come again
    rows, batches = iter(rows), {}

    def tasks() -> Iterator[str]:
        for number in count():
            name = f"waiting-{number:06d}.tar"
            batches[name] = batch = []  # (row without data, whether it has an image)
            with work.open(name) as part:
                write_tar(part, _take_images(islice(rows, IMAGES_PER_TASK), batch))
            if not batch:
                return
            yield name

    for name, checks in workers.map(tasks()):
        images = zip(read_tar(work.folder / name), checks, strict=True)
        for row, has_image in batches.pop(name):
            (_, _, data), check = next(images) if has_image else ((None, None, None), None)
            yield row | {"data": data, "check": check}
        work.delete([name])


def _take_images(rows: Iterable[dict], batch: list[tuple[dict, bool]]) -> Iterator[tuple[str, str, bytes]]:
    """Yields the images of the rows as members of a tar; appends the rows to `batch`."""
    for row in rows:
        data = row.pop("data")
        batch.append((row, data is not None))
        if data is not None:
            yield f"{len(batch):06d}", "bin", data


def read_finished(folder: Path) -> list[pd.DataFrame]:
    """Reads the tables of finished shards. A table is written after its tar, so the tar exists too."""
    return [read_table(file) for file in sorted(folder.glob("prompts-*.parquet"))]


def write_shards(
    folder: Path, rows: Iterable[dict], finished: list[pd.DataFrame] | None = None, rows_per_shard: int = ROWS_PER_SHARD
) -> Iterator[tuple[int, int]]:
    """Writes prompts-*.parquet and images-*.tar, after the shards that are finished; yields (first row, end row) after each shard.

    A row is kept if its image is valid and the first with these bytes; else its `dropped` says why not.
    """
    finished = finished or []
    rows, number, end = iter(rows), len(finished), sum(map(len, finished))
    seen = {key for table in finished for key in table.id[table.dropped.isna()]}
    folder.mkdir(parents=True, exist_ok=True)
    while (first := next(rows, None)) is not None:
        table: list[dict] = []
        shard = chain([first], islice(rows, rows_per_shard - 1))
        write_tar(folder / f"images-{number:06d}.tar", _kept_images(shard, seen, table))
        write_table(folder / f"prompts-{number:06d}.parquet", table, RAW_SCHEMA)
        number, end = number + 1, end + len(table)
        yield end - len(table), end


def _kept_images(rows: Iterable[dict], seen: set[str], table: list[dict]) -> Iterator[tuple[str, str, bytes]]:
    """Yields the images to keep as members of a tar, one in memory at a time; appends all rows to `table`."""
    for row in rows:
        data, check = row.pop("data"), row.pop("check", None)
        row = {key: _valid_utf8(value) for key, value in row.items()}
        row["clean_prompt"] = clean(row.get("complex_prompt"))
        extension = None if row["dropped"] else _keep(row, data, check or check_image(data), seen)
        key = record_id(data if data is not None else str(row["url"]).encode())
        table.append({"id": key} | row)  # a removed row has its id already
        if extension:
            yield key, extension, data


def _keep(row: dict, data: bytes, check: ImageCheck, seen: set[str]) -> str | None:
    """Returns the extension of an image to keep, or None; sets `dropped`, `width` and `height` of its row."""
    row["dropped"] = check.reason
    if check.reason:
        return None
    row["width"], row["height"] = check.size  # measured, whatever the source says
    key = record_id(data)
    if key in seen:
        row["dropped"] = "duplicate"
        return None
    seen.add(key)
    return check.extension


def _valid_utf8(value):
    """Replaces lone surrogates in a text, which JSON may hold and a table cannot."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
