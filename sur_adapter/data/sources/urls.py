"""A list of addresses with their prompts, Parquet or CSV: whatever somebody has collected already."""

from collections.abc import AsyncIterator, Iterator
from hashlib import file_digest
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sur_adapter.data.crawl.fetcher import Unless, gather
from sur_adapter.io.work_cache import WorkCache

BATCH = 1000  # rows of the list in memory


def inputs(*, path: str, **_) -> str:
    """A digest of the list: a crawl of another one is not taken up."""
    with _file(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def rows(
    work: WorkCache | None = None,
    after: int = 0,
    unless: Unless = None,
    *,
    path: str,
    limit: int | None = None,
    url: str = "url",
    prompt: str = "prompt",
    negative_prompt: str = "negative_prompt",
    nsfw: str = "nsfw",
    user: str = "user",
    licence: str | None = None,
    rate: float | None = 5.0,
    workers: int = 4,
    tries: int = 3,
    timeout: float = 30.0,
    max_bytes: int = 32 * 2**20,
    private: list[str] | None = None,
) -> Iterator[dict]:
    """A row for each line of the list, in its order. url, prompt: the columns that hold them; the next three: if there are such.

    licence: of all of them, as text. rate: requests a second to one host. workers: at a time to one host. private: hosts on this machine,
    as host:port. Raises FileNotFoundError without a list, ValueError where it cannot be read or lacks a column.
    """
    file = _file(path)
    known = _columns(file)
    for name in (url, prompt):
        if name not in known:
            raise ValueError(
                f"{path} has no column {name!r}, but {', '.join(known)[:200]}: name the right one in sources.urls.url and .prompt"
            )
    names = {"url": url, "complex_prompt": prompt, "negative_prompt": negative_prompt, "nsfw": nsfw, "user": user}
    names = {key: name for key, name in names.items() if name in known}
    manners = {"rate": rate, "per_host": workers, "tries": tries, "timeout": timeout, "max_bytes": max_bytes, "private": private or ()}
    return gather(lambda desk: _rows(file, names, licence), work, after, limit, unless, **manners)


def _file(path: str) -> Path:
    if not (file := Path(path)).is_file():
        raise FileNotFoundError(f"sources.urls.path: {path} is no file: name a list of addresses and prompts, .parquet or .csv")
    if file.suffix not in (".parquet", ".csv"):
        raise ValueError(f"sources.urls.path: {path} is neither .parquet nor .csv: name a list of either kind")
    return file


def _columns(file: Path) -> list[str]:
    try:
        return pq.read_schema(file).names if file.suffix == ".parquet" else list(pd.read_csv(file, nrows=0))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): mend or replace it") from error


def _batches(file: Path, columns: list[str]) -> Iterator[list[dict]]:
    """The list in order, a part of it at a time."""
    columns = sorted(set(columns))
    if file.suffix == ".parquet":
        for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=columns):
            yield batch.to_pylist()
    else:
        for frame in pd.read_csv(file, usecols=columns, dtype=str, keep_default_na=False, chunksize=BATCH):
            yield frame.to_dict("records")


async def _rows(file: Path, names: dict[str, str], licence: str | None) -> AsyncIterator[dict]:
    try:
        for batch in _batches(file, list(names.values())):
            for told in batch:
                told = {key: _text(told[name]) for key, name in names.items()}
                row = {"source": "urls", "negative_prompt": None, "width": None, "height": None, "nsfw": None, "licence": licence}
                yield row | told | {"dropped": None if told["url"] else "no address"}
    except (pa.ArrowException, pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): mend or replace it") from error


def _text(value) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
