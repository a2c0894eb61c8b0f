"""crawl: pictures with their keyword prompts from one source, bytes as received, every refusal recorded.

The source is the last part of the path: `data/raw/miniature` is filled by sur_adapter/sources/miniature.py.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm

from sur_adapter.forget import emptied, mark, remembered
from sur_adapter.pictures import EXTENSIONS, NotAPicture, decode
from sur_adapter.records import RAW, SHARD, record_id, write_table, write_tar
from sur_adapter.schema import plugin, settings


def crawl(out: Path, forgotten: Path | None = None, *, sources: dict) -> None:
    name = out.name
    source = plugin("sur_adapter.sources", name)
    wanted = settings(source.rows, sources.get(name), f"sources.{name}")
    for old in (*out.glob("images-*.tar"), *out.glob("prompts-*.parquet")):  # a shorter crawl leaves no shard of a longer one
        old.unlink()
    total = wanted.get("limit", wanted.get("count"))
    rows = tqdm(source.rows(**wanted), f"crawl {name}", total, unit="row", disable=None)
    if write_shards(out, _unless(rows, remembered(forgotten) if forgotten else set())) == 0:
        raise ValueError(f"source {name} gave no row at all: check sources.{name} in params.yaml, or remove it there")


def _unless(rows: Iterable[dict], marks: set[str]) -> Iterator[dict]:
    """The rows, emptied where they were asked to be forgotten: by address, or by the bytes that came."""
    for row in rows:
        data = row["data"]
        gone = mark(str(row["url"])) in marks or (data is not None and mark(record_id(data)) in marks)
        yield emptied(row) | {"data": None} if gone else row


def write_shards(out: Path, rows: Iterable[dict]) -> int:
    """How many rows there were; each is in a table, its picture in the tar of the same number if it was kept."""
    rows, seen, count = iter(rows), set(), 0
    while (first := next(rows, None)) is not None:
        table: list[dict] = []
        shard = chain([first], islice(rows, SHARD - 1))
        write_tar(out / f"images-{count // SHARD:06d}.tar", _members(shard, seen, table))
        write_table(out / f"prompts-{count // SHARD:06d}.parquet", table, RAW)
        count += len(table)
    return count


def _members(rows: Iterable[dict], seen: set[str], table: list[dict]) -> Iterator[tuple[str, str, bytes]]:
    """The pictures to keep, one at a time; fills `table` on the way, so that no more than one picture is in memory here."""
    for row in rows:
        data = row.pop("data")
        row = {key: _clean(value) for key, value in row.items()}
        ext = None if row["dropped"] else _judge(row, data, seen)
        key = record_id(data if data is not None else str(row["url"]).encode())
        table.append({"id": key} | row)  # a forgotten row has its id already
        if ext:
            yield key, ext, data


def _clean(value):
    """JSON from strangers may hold half a character (a lone surrogate), which no table takes."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _judge(row: dict, data: bytes, seen: set[str]) -> str | None:
    """The extension of a picture worth keeping; else the reason goes into the row."""
    try:
        image = decode(data)
    except NotAPicture as reason:
        row["dropped"] = str(reason)
        return None
    row["width"], row["height"] = image.size  # measured, whatever the source said
    key = record_id(data)
    if key in seen:
        row["dropped"] = "duplicate"
        return None
    seen.add(key)
    return EXTENSIONS[image.format]
