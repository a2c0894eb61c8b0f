"""Images and prompts from Civitai's public API, or from any server with the same API.

`GET {url}/api/v1/images`, or the older `/api/v1/models` with images under each version of a model; pages are followed to the end. An
optional token is read from the environment only: CIVITAI_TOKEN.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.crawl.fetcher import Fetcher, fetch_rows
from sur_adapter.data.crawl.http_client import HttpConfig
from sur_adapter.data.prompts.cleaning import nonempty_text
from sur_adapter.data.sources.base import SourceConfig
from sur_adapter.io.urls import reject_credentials

LEVELS = {1: "None", 2: "Soft", 4: "Mature", 8: "X", 16: "X", 32: "X"}  # 32: blocked
ORDER = ("None", "Soft", "Mature", "X")
MAX_EMPTY_PAGES = 20  # consecutive pages without an image, after which the listing ends


@dataclass(frozen=True, kw_only=True)
class Config(HttpConfig, SourceConfig):
    """Section `sources.civitai` of params.yaml.

    limit: maximum number of images. url: of the server. listing: which endpoint. nsfw: the highest level that is requested and fetched.
    sort, period: as in the API; sort null: the most popular first.
    """

    limit: int
    url: str = "https://civitai.com"
    listing: Literal["images", "models"] = "images"
    nsfw: Literal["None", "Soft", "Mature", "X"] = "None"
    sort: str | None = None
    period: str = "AllTime"
    rate: float | None = 10.0

    resumable = True

    def num_rows(self) -> int:
        return self.limit


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields a row for each of the first `limit` images, in the order of the API.

    Raises ValueError if the API returns no first page; a later page that fails is a row with the reason.
    """
    reject_credentials("sources.civitai.url", config.url)
    return fetch_rows(lambda fetcher: _listing(fetcher, config), config, config.limit, state)


def _images_query(config: Config) -> tuple[str, dict, Callable]:
    query = {"limit": min(200, config.limit), "withMeta": "true", "nsfw": config.nsfw}
    return "api/v1/images", query | {"sort": config.sort or "Most Reactions", "period": config.period}, list


def _models_query(config: Config) -> tuple[str, dict, Callable]:
    query = {"limit": 100, "nsfw": "false" if config.nsfw == "None" else "true"}
    return "api/v1/models", query | {"sort": config.sort or "Most Downloaded", "period": config.period}, _images_of_models


QUERIES = {"images": _images_query, "models": _models_query}  # listing -> (path, query, page items -> image items)


def _images_of_models(models: list) -> list:
    """Returns items[].modelVersions[].images[]."""
    items = models
    for key in ("modelVersions", "images"):
        items = [x for item in items if isinstance(item, dict) and isinstance(item.get(key), list) for x in item[key]]
    return items


async def _listing(fetcher: Fetcher, config: Config) -> AsyncIterator[dict]:
    async for items, reason in _pages(fetcher, config):
        for item in items:
            item = item if isinstance(item, dict) else {}
            row = _row(item, config.url)
            yield row | {"dropped": reason or _skip_reason(item, row, config.nsfw)}


async def _pages(fetcher: Fetcher, config: Config) -> AsyncIterator[tuple[list, str | None]]:
    """Yields (image items, None) for each page; where the listing fails, ([item with the page's URL], reason), and ends."""
    path, query, unpack = QUERIES[config.listing](config)
    token = os.environ.get("CIVITAI_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    request, cursors, empty_pages = query, set(), 0
    while request:
        url = f"{config.url}/{path}?{urlencode(request)}"
        page, reason = await fetcher.fetch_page(url, "items", headers)
        if reason and not cursors:
            raise ValueError(f"{config.url} gave no first page ({reason}): {_fix_hint(reason)}")
        items = [] if reason else unpack(page["items"])
        empty_pages = 0 if items else empty_pages + 1
        if items:
            yield items, None
        cursor, reason = (None, reason) if reason else _next_cursor(page, cursors)
        if cursor and empty_pages == MAX_EMPTY_PAGES:
            reason = reason or f"no picture on {empty_pages} pages"
        if reason:
            yield [{"url": url}], f"page: {reason}"
            return
        request = cursor and query | cursor


def _fix_hint(reason: str) -> str:
    if reason in ("http 401", "http 403"):
        return "set CIVITAI_TOKEN in the environment"
    if reason == "private address":
        return "name its host:port in sources.civitai.private"
    return "try later, or correct sources.civitai.url"


def _next_cursor(page: dict, cursors: set) -> tuple[dict | None, str | None]:
    """Returns ({"cursor": …} or {"page": …}, None); (None, None) after the last page; (None, reason) if it is invalid."""
    metadata = page["metadata"] if isinstance(page.get("metadata"), dict) else {}
    cursor, next_page = metadata.get("nextCursor"), metadata.get("nextPage")
    if cursor is None and isinstance(next_page, str):  # the older API; only the number is used, its host is never requested
        try:
            values = parse_qs(urlsplit(next_page).query)
        except ValueError:
            return None, "malformed cursor"
        query = {key: values[key][0] for key in ("cursor", "page") if key in values}
    elif cursor is None or cursor == "":
        return None, None
    else:
        query = {"cursor": cursor} if isinstance(cursor, str | int) and not isinstance(cursor, bool) else {}
    if not query:
        return None, "malformed cursor"
    key = tuple(query.items())
    if key in cursors:
        return None, "the cursor repeats"
    cursors.add(key)
    return query, None


def _skip_reason(item: dict, row: dict, highest: str) -> str | None:
    """Returns the reason why an image is not requested, if any."""
    if item.get("type", "image") != "image":
        return "not an image"
    if row["url"] is None:
        return "no address"
    return f"flagged {row['nsfw']}" if row["nsfw"] in ORDER[ORDER.index(highest) + 1 :] else None


def _row(item: dict, url: str) -> dict:
    meta = item.get("meta") if isinstance(item.get("meta"), dict) else {}
    return {
        "source": "civitai",
        "url": nonempty_text(item.get("url")),
        "user": nonempty_text(item.get("username")),
        "complex_prompt": nonempty_text(meta.get("prompt")),
        "negative_prompt": nonempty_text(meta.get("negativePrompt")),
        "width": _size(item.get("width")),
        "height": _size(item.get("height")),
        "nsfw": _level(item),
        "licence": f"terms of {urlsplit(url).hostname}",
    }


def _size(value) -> int | None:
    return value if isinstance(value, int) and 0 < value < 2**31 else None


def _level(item: dict) -> str:
    """Returns None, Soft, Mature or X as a text; Unknown if the item does not say, so that a filter can exclude it."""
    level, flag = item.get("nsfwLevel"), item.get("nsfw")  # an older API has the level in `nsfw`
    for value in (level, flag):
        if isinstance(value, str) and value in LEVELS.values():
            return value
    if type(level) is int and level in LEVELS:
        return LEVELS[level]
    return "X" if flag is True else "None" if flag is False else "Unknown"
