"""crawl: pictures with their keyword prompts from one source, bytes as received, every refusal recorded.

The source is the last part of the path: `data/raw/miniature` is filled by sur_adapter/sources/miniature.py. A crawl that was killed goes on
where it was: finished shards, pages and pictures lie in the work cache until all is done.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from inspect import signature
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm

from sur_adapter.forget import asked, emptied, mark, remembered
from sur_adapter.gather import row_key
from sur_adapter.pictures import EXTENSIONS, NotAPicture, decode
from sur_adapter.provenance import revision
from sur_adapter.records import RAW, SHARD, read_table, record_id, write_table, write_tar
from sur_adapter.schema import plugin, settings
from sur_adapter.wording import clean
from sur_adapter.work import Work


def crawl(out: Path, forgotten: Path | None = None, *, sources: dict) -> None:
    name = out.name
    source = plugin("sur_adapter.sources", name)
    wanted = settings(source.rows, sources.get(name), f"sources.{name}")
    total = wanted.get("limit", wanted.get("count"))
    marks = remembered(forgotten) if forgotten else set()
    inputs = source.inputs(**wanted) if hasattr(source, "inputs") else None
    about = {"settings": wanted, "inputs": inputs, "forgotten": sorted(marks), "shard": SHARD}
    with Work(f"crawl-{name}", **about, code=revision(__file__, source.__file__)) as work:
        if resumes := "work" in signature(source.rows).parameters:
            done = _done(work.folder)
        else:
            work.clear()  # what lies on this disk is read again sooner than checked for changes
            done = []
        count = sum(map(len, done))
        unless = partial(_forgotten, marks) if marks else None
        with closing(source.rows(work, count, unless, **wanted) if resumes else source.rows(**wanted)) as rows:
            bar = tqdm(rows, f"crawl {name}", total, initial=count, unit="row", disable=None)
            for first, end in _shards(work.folder, _unless(bar, marks), done):
                work.drop(map(row_key, range(first, end)))
                count = end
        if count == 0:
            raise ValueError(f"source {name} gave no row at all: check sources.{name} in params.yaml, or remove it there")
        for old in (*out.glob("images-*.tar"), *out.glob("prompts-*.parquet")):  # a shorter crawl leaves no shard of a longer one
            old.unlink()
        work.deliver(out, "images-*.tar", "prompts-*.parquet")


def _forgotten(marks: set[str], row: dict) -> bool:
    """Whether to leave a candidate of a web source unfetched."""
    return asked(row | {"user": mark(row["user"]) if row.get("user") else None}, marks)


def _unless(rows: Iterable[dict], marks: set[str]) -> Iterator[dict]:
    """The rows, of users no more than a mark, emptied where they were asked to be forgotten: by user, address or the bytes that came."""
    for row in rows:
        row |= {"user": mark(row["user"]) if row.get("user") else None}
        key = {} if row["data"] is None else {"id": record_id(row["data"])}
        yield emptied(row) | {"data": None} if asked(row | key, marks) else row


def _done(folder: Path) -> list["pd.DataFrame"]:  # noqa: F821
    """The tables of finished shards; a table is written last, so its tar is there."""
    return [read_table(file) for file in sorted(folder.glob("prompts-*.parquet"))]


def _shards(out: Path, rows: Iterable[dict], done: list) -> Iterator[tuple[int, int]]:
    """Writes the shards that come after those that are done: each row in a table, its picture in the tar of the same number if it is kept.

    Gives the numbers of the first row of each shard and of the row after its last.
    """
    rows, number, count = iter(rows), len(done), sum(map(len, done))
    seen = {key for table in done for key in table.id[table.dropped.isna()]}
    out.mkdir(parents=True, exist_ok=True)
    while (first := next(rows, None)) is not None:
        table: list[dict] = []
        shard = chain([first], islice(rows, SHARD - 1))
        write_tar(out / f"images-{number:06d}.tar", _members(shard, seen, table))
        write_table(out / f"prompts-{number:06d}.parquet", table, RAW)
        number, count = number + 1, count + len(table)
        yield count - len(table), count


def _members(rows: Iterable[dict], seen: set[str], table: list[dict]) -> Iterator[tuple[str, str, bytes]]:
    """The pictures to keep, one at a time; fills `table` on the way, so that no more than one picture is in memory here."""
    for row in rows:
        data = row.pop("data")
        row = {key: _clean(value) for key, value in row.items()}
        row["clean_prompt"] = clean(row.get("complex_prompt"))
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
