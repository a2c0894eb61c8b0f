"""crawl: pictures with their keyword prompts from one source, bytes as received, every refusal recorded.

The source is the last part of the path: `data/raw/miniature` is filled by sur_adapter/data/sources/miniature.py. A crawl that was killed goes on
where it was: finished shards, pages and pictures lie in the work cache until all is done.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from inspect import signature
from itertools import chain, count, islice
from pathlib import Path

from tqdm import tqdm

from sur_adapter.config import from_dict, settings
from sur_adapter.data.crawl.fetcher import row_key
from sur_adapter.data.crawl.removal import asked, emptied, mark, remembered
from sur_adapter.data.prompts.cleaning import clean
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.images import EXTENSIONS, InvalidImageError, decode
from sur_adapter.io.schema import RAW, SHARD, record_id
from sur_adapter.io.shards import read_table, read_tar, write_table, write_tar
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.registry import load

AT_ONCE = 256  # pictures that a worker looks at in one go
Look = tuple[str | None, str | None, tuple[int, int]]  # the reason that it is no picture, or its extension and size


def crawl(out: Path, forgotten: Path | None = None, *, sources: dict, executor: dict | None = None) -> None:
    name = out.name
    source = load("sur_adapter.data.sources", name)
    wanted = settings(source.rows, sources.get(name), f"sources.{name}")
    total = wanted.get("limit", wanted.get("count"))
    marks = remembered(forgotten) if forgotten else set()
    inputs = source.inputs(**wanted) if hasattr(source, "inputs") else None
    about = {"settings": wanted, "inputs": inputs, "forgotten": sorted(marks), "shard": SHARD}
    with (
        WorkCache(f"crawl-{name}", **about, code=code_version(__file__, source.__file__)) as work,
        Executor(partial(Looks, work), lambda name: [work.folder / name], from_dict(ExecutorConfig, executor, "executor")) as workers,
    ):
        if resumes := "work" in signature(source.rows).parameters:
            done = _done(work.folder)
        else:
            work.clear()  # what lies on this disk is read again sooner than checked for changes
            done = []
        taken = sum(map(len, done))
        unless = partial(_forgotten, marks) if marks else None
        with closing(source.rows(work, taken, unless, **wanted) if resumes else source.rows(**wanted)) as rows:
            bar = tqdm(rows, f"crawl {name}", total, initial=taken, unit="row", disable=None)
            candidates = _unless(bar, marks)
            for first, end in _shards(work.folder, candidates if workers.inline else _looked(candidates, work, workers), done):
                work.delete(map(row_key, range(first, end)))
                taken = end
        if taken == 0:
            raise ValueError(f"source {name} gave no row at all: check sources.{name} in params.yaml, or remove it there")
        for old in (*out.glob("images-*.tar"), *out.glob("prompts-*.parquet")):  # a shorter crawl leaves no shard of a longer one
            old.unlink()
        work.publish(out, "images-*.tar", "prompts-*.parquet")


def _forgotten(marks: set[str], row: dict) -> bool:
    """Whether to leave a candidate of a web source unfetched."""
    return asked(row | {"user": mark(row["user"]) if row.get("user") else None}, marks)


def _unless(rows: Iterable[dict], marks: set[str]) -> Iterator[dict]:
    """The rows, of users no more than a mark, emptied where they were asked to be forgotten: by user, address or the bytes that came."""
    for row in rows:
        row |= {"user": mark(row["user"]) if row.get("user") else None}
        key = {} if row["data"] is None else {"id": record_id(row["data"])}
        yield emptied(row) | {"data": None} if asked(row | key, marks) else row


def _looked(rows: Iterable[dict], work: WorkCache, workers: Executor) -> Iterator[dict]:
    """The rows, each with what a worker found its picture to be, as `look`. The pictures lie on disk meanwhile; what is fetched, and which
    of two alike came first, is no worker's business."""
    work.delete([file.name for file in work.folder.glob("waiting-*.tar")])  # of a run that was killed: its rows come again
    rows, groups = iter(rows), {}

    def put() -> Iterator[str]:
        for number in count():
            name = f"waiting-{number:06d}.tar"
            groups[name] = some = []
            with work.open(name) as part:
                write_tar(part, _bytes(islice(rows, AT_ONCE), some))
            if not some:
                return
            yield name

    for name, looks in workers.map(put()):
        found = zip(read_tar(work.folder / name), looks, strict=True)
        for row, came in groups.pop(name):
            (_, _, data), look = next(found) if came else ((None, None, None), None)
            yield row | {"data": data, "look": look}
        work.delete([name])


def _bytes(rows: Iterable[dict], some: list[tuple[dict, bool]]) -> Iterator[tuple[str, str, bytes]]:
    """The pictures of some rows; fills `some` with the rows, and whether each had one."""
    for row in rows:
        data = row.pop("data")
        some.append((row, data is not None))
        if data is not None:
            yield f"{len(some):06d}", "bin", data


class Looks:
    """A worker (executor.py): the name of a tar to what its pictures are."""

    def __init__(self, work: WorkCache):
        self.work = work

    def __call__(self, name: str) -> tuple[str, list[Look]]:
        return name, [_look(data) for _, _, data in read_tar(self.work.folder / name)]


def _done(folder: Path) -> list["pd.DataFrame"]:  # noqa: F821
    """The tables of finished shards; a table is written last, so its tar is there."""
    return [read_table(file) for file in sorted(folder.glob("prompts-*.parquet"))]


def _shards(out: Path, rows: Iterable[dict], done: list) -> Iterator[tuple[int, int]]:
    """Writes the shards that come after those that are done: each row in a table, its picture in the tar of the same number if it is kept.

    Gives the numbers of the first row of each shard and of the row after its last.
    """
    rows, number, end = iter(rows), len(done), sum(map(len, done))
    seen = {key for table in done for key in table.id[table.dropped.isna()]}
    out.mkdir(parents=True, exist_ok=True)
    while (first := next(rows, None)) is not None:
        table: list[dict] = []
        shard = chain([first], islice(rows, SHARD - 1))
        write_tar(out / f"images-{number:06d}.tar", _members(shard, seen, table))
        write_table(out / f"prompts-{number:06d}.parquet", table, RAW)
        number, end = number + 1, end + len(table)
        yield end - len(table), end


def _members(rows: Iterable[dict], seen: set[str], table: list[dict]) -> Iterator[tuple[str, str, bytes]]:
    """The pictures to keep, one at a time; fills `table` on the way, so that no more than one picture is in memory here."""
    for row in rows:
        data, look = row.pop("data"), row.pop("look", None)
        row = {key: _clean(value) for key, value in row.items()}
        row["clean_prompt"] = clean(row.get("complex_prompt"))
        ext = None if row["dropped"] else _judge(row, data, look or _look(data), seen)
        key = record_id(data if data is not None else str(row["url"]).encode())
        table.append({"id": key} | row)  # a forgotten row has its id already
        if ext:
            yield key, ext, data


def _clean(value):
    """JSON from strangers may hold half a character (a lone surrogate), which no table takes."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _look(data: bytes) -> Look:
    try:
        image = decode(data)
    except InvalidImageError as reason:
        return str(reason), None, (0, 0)
    return None, EXTENSIONS[image.format], image.size


def _judge(row: dict, data: bytes, look: Look, seen: set[str]) -> str | None:
    """The extension of a picture worth keeping; else the reason goes into the row."""
    row["dropped"], ext, size = look
    if row["dropped"]:
        return None
    row["width"], row["height"] = size  # measured, whatever the source said
    key = record_id(data)
    if key in seen:
        row["dropped"] = "duplicate"
        return None
    seen.add(key)
    return ext
