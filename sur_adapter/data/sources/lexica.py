"""Images and prompts from Lexica's search: up to fifty per query, no paging. Not in any preset.

The service has not been checked since 2024, when it often timed out. A query that fails is a row with its reason, and the next query
follows.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.crawl.fetcher import Fetcher, fetch_rows
from sur_adapter.data.crawl.http_client import HttpConfig
from sur_adapter.data.prompts.cleaning import nonempty_text
from sur_adapter.data.sources.base import SourceConfig
from sur_adapter.io.urls import reject_credentials


@dataclass(frozen=True, kw_only=True)
class Config(HttpConfig, SourceConfig):
    """Section `sources.lexica` of params.yaml.

    queries: what to search for. url: of the server. limit: maximum number of images of all queries; null: all.
    """

    queries: tuple[str, ...]
    url: str = "https://lexica.art"
    limit: int | None = None
    rate: float | None = 2.0
    workers: int = 4
    tries: int = 3

    resumable = True

    def __post_init__(self):
        super().__post_init__()
        if not self.queries:
            raise ValueError("queries is empty: name what to search for")

    def num_rows(self) -> int | None:
        return self.limit


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields a row for each result, query by query; an image of an earlier query is not fetched again.

    Raises ValueError if the first query fails.
    """
    reject_credentials("sources.lexica.url", config.url)
    return fetch_rows(lambda fetcher: _listing(fetcher, config), config, config.limit, state)


async def _listing(fetcher: Fetcher, config: Config) -> AsyncIterator[dict]:
    seen: set[str] = set()
    for number, query in enumerate(config.queries):
        url = f"{config.url}/api/v1/search?{urlencode({'q': query})}"
        page, reason = await fetcher.fetch_page(url, "images")
        if reason and number == 0:
            raise ValueError(f"{config.url} gave no answer to the first query ({reason}): try later, or remove sources.lexica")
        if reason:
            yield _row({"src": url}, config.url) | {"dropped": f"page: {reason}"}
            continue
        for item in page["images"]:
            item = item if isinstance(item, dict) else {}
            row = _row(item, config.url)
            reason = _skip_reason(item, row["url"], seen)
            seen.add(row["url"])
            yield row | {"dropped": reason}


def _skip_reason(item: dict, url: str | None, seen: set[str]) -> str | None:
    """Returns the reason why an image is not requested, if any."""
    if url is None:
        return "no address"
    if item.get("grid"):
        return "a grid of pictures"
    return "duplicate" if url in seen else None


def _row(item: dict, url: str) -> dict:
    flag = item.get("nsfw")
    return {
        "source": "lexica",
        "url": nonempty_text(item.get("src")),
        "complex_prompt": nonempty_text(item.get("prompt")),
        "negative_prompt": None,
        "width": None,
        "height": None,
        "nsfw": "X" if flag is True else "None" if flag is False else "Unknown",
        "licence": f"terms of {urlsplit(url).hostname}",
    }
