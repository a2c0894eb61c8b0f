"""Images of a list of URLs with their prompts, as Parquet or CSV."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.crawl.fetcher import fetch_rows
from sur_adapter.data.crawl.http_client import HttpConfig
from sur_adapter.data.prompts.cleaning import nonempty_text
from sur_adapter.data.sources.base import SourceConfig
from sur_adapter.io.hashing import file_digest

BATCH_SIZE = 1000  # rows of the list in memory


@dataclass(frozen=True, kw_only=True)
class Config(HttpConfig, SourceConfig):
    """Section `sources.urls` of params.yaml.

    path: the list. limit: maximum number of rows; null: all. url, prompt: the columns that hold them. negative_prompt, nsfw, user: columns
    that may be missing. licence: of all images, as text.
    """

    path: str
    limit: int | None = None
    url: str = "url"
    prompt: str = "prompt"
    negative_prompt: str = "negative_prompt"
    nsfw: str = "nsfw"
    user: str = "user"
    licence: str | None = None
    rate: float | None = 5.0
    workers: int = 4
    tries: int = 3

    resumable = True

    def num_rows(self) -> int | None:
        return self.limit

    def inputs(self) -> str:
        return file_digest(_file(self.path))


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields a row for each line of the list, in its order.

    Raises FileNotFoundError if there is no list, ValueError if it cannot be read or lacks a column.
    """
    file = _file(config.path)
    known = column_names(file)
    for name in (config.url, config.prompt):
        if name not in known:
            raise ValueError(
                f"{config.path} has no column {name!r}, but {', '.join(known)[:200]}: name the right one in sources.urls.url and .prompt"
            )
    columns = {"url": config.url, "complex_prompt": config.prompt}
    columns |= {key: getattr(config, key) for key in ("negative_prompt", "nsfw", "user") if getattr(config, key) in known}
    return fetch_rows(lambda fetcher: listing(file, columns, config.licence), config, config.limit, state)


def _file(path: str) -> Path:
    if not (file := Path(path)).is_file():
        raise FileNotFoundError(f"sources.urls.path: {path} is not a file: name a list of URLs and prompts, .parquet or .csv")
    if file.suffix not in (".parquet", ".csv"):
        raise ValueError(f"sources.urls.path: {path} is neither .parquet nor .csv: convert it to one of them")
    return file


def column_names(file: Path) -> list[str]:
    """Returns the columns of a list. Raises ValueError if it cannot be read."""
    try:
        return pq.read_schema(file).names if file.suffix == ".parquet" else list(pd.read_csv(file, nrows=0))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): repair or replace it") from error


def batches(file: Path, columns: list[str]) -> Iterator[list[dict]]:
    """Yields the rows of a list in order, BATCH_SIZE at a time."""
    columns = sorted(set(columns))
    if file.suffix == ".parquet":
        for batch in pq.ParquetFile(file).iter_batches(BATCH_SIZE, columns=columns):
            yield batch.to_pylist()
    else:
        for table in pd.read_csv(file, usecols=columns, dtype=str, keep_default_na=False, chunksize=BATCH_SIZE):
            yield table.to_dict("records")


async def listing(file: Path, columns: dict[str, str], licence: str | None) -> AsyncIterator[dict]:
    """Yields the candidates of a list. columns: key of the row -> column of the list."""
    try:
        for batch in batches(file, list(columns.values())):
            for values in batch:
                values = {key: nonempty_text(values[name]) for key, name in columns.items()}
                row = {"source": "urls", "negative_prompt": None, "width": None, "height": None, "nsfw": None, "licence": licence}
                yield row | values | {"dropped": None if values["url"] else "no address"}
    except (pa.ArrowException, pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): repair or replace it") from error
