"""Pictures and their prompts from Civitai's public API, or from whatever answers in its shape.

`GET {url}/api/v1/images`, or the older `/api/v1/models` with pictures at each version of a model; cursors followed to the end. What cannot
be had ends in a reason, never in a lost row. A token is optional and comes from the environment alone: CIVITAI_TOKEN.
"""

import os
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

from sur_adapter.data.crawl.fetcher import Desk, Unless, gather
from sur_adapter.io.urls import reject_credentials
from sur_adapter.io.work_cache import WorkCache

LEVELS = {1: "None", 2: "Soft", 4: "Mature", 8: "X", 16: "X", 32: "X"}  # 32: blocked
ORDER = ("None", "Soft", "Mature", "X")
EMPTY_PAGES = 20  # in a row: then the cursor leads nowhere


def rows(
    work: WorkCache | None = None,
    after: int = 0,
    unless: Unless = None,
    *,
    limit: int,
    url: str = "https://civitai.com",
    listing: str = "images",
    nsfw: str = "None",
    sort: str | None = None,
    period: str = "AllTime",
    rate: float | None = 10.0,
    workers: int = 8,
    tries: int = 5,
    timeout: float = 30.0,
    max_bytes: int = 32 * 2**20,
    private: list[str] | None = None,
) -> Iterator[dict]:
    """A row for each of the first `limit` pictures, in the order of the API: records.RAW without id, with `data`, the bytes as received.

    listing: images | models. nsfw: the highest level asked for and fetched: None | Soft | Mature | X. rate: requests a second to one host.
    workers: at a time to one host. timeout: seconds for a picture as a whole. private: hosts on this machine, as host:port.
    Raises ValueError if the API gives no first page; a later page that fails is a row of its own, with the reason.
    """
    reject_credentials("sources.civitai.url", url)
    for name, value, known in (("listing", listing, tuple(LISTINGS)), ("nsfw", nsfw, ORDER)):
        if value not in known:
            raise ValueError(f"params.yaml: sources.civitai.{name} is {value!r}: name one of {', '.join(known)}")
    pages = _pages(url, *LISTINGS[listing](limit, nsfw, sort, period))
    manners = {"rate": rate, "per_host": workers, "tries": tries, "timeout": timeout, "max_bytes": max_bytes, "private": private or ()}
    return gather(lambda desk: _rows(pages(desk), url, nsfw), work, after, limit, unless, **manners)


def _images(limit: int, nsfw: str, sort: str | None, period: str) -> tuple:
    query = {"limit": min(200, limit), "withMeta": "true", "nsfw": nsfw, "sort": sort or "Most Reactions", "period": period}
    return "api/v1/images", query, list


def _models(limit: int, nsfw: str, sort: str | None, period: str) -> tuple:
    flag = "false" if nsfw == "None" else "true"
    return "api/v1/models", {"limit": 100, "nsfw": flag, "sort": sort or "Most Downloaded", "period": period}, _of_versions


LISTINGS = {"images": _images, "models": _models}


def _of_versions(models: list) -> list:
    """The pictures of items[].modelVersions[].images[]."""
    found = models
    for inner in ("modelVersions", "images"):
        found = [x for holder in found if isinstance(holder, dict) and isinstance(holder.get(inner), list) for x in holder[inner]]
    return found


def _pages(url: str, path: str, query: dict, unpack):
    async def pages(desk: Desk) -> AsyncIterator[tuple[list, str | None]]:
        """(pictures, None) of page after page; ([], reason and address) where it cannot go on, and then no more."""
        token, asked, seen, empty = os.environ.get("CIVITAI_TOKEN"), query, set(), 0
        while asked:
            address = f"{url}/{path}?{urlencode(asked)}"
            page, why = await desk.page(address, "items", {"Authorization": f"Bearer {token}"} if token else None)
            if why and not seen:
                raise ValueError(f"{url} gave no first page ({why}): {_cure(why)}")
            items = [] if why else unpack(page["items"])
            empty = 0 if items else empty + 1
            if items:
                yield items, None
            onward, why = (None, why) if why else _onward(page, seen)
            why = why or (f"no picture on {empty} pages" if onward and empty == EMPTY_PAGES else None)
            if why:
                yield [{"url": address}], f"page: {why}"
                return
            asked = onward and query | onward

    return pages


def _cure(why: str) -> str:
    if why in ("http 401", "http 403"):
        return "set CIVITAI_TOKEN in the environment"
    if why == "private address":
        return "name its host:port in sources.civitai.private"
    return "try later, or mend the url in sources"


def _onward(page: dict, seen: set) -> tuple[dict | None, str | None]:
    """({"cursor": …} or {"page": …}, None); (None, None) at the end; (None, reason) where it leads nowhere."""
    metadata = page["metadata"] if isinstance(page.get("metadata"), dict) else {}
    cursor, following = metadata.get("nextCursor"), metadata.get("nextPage")
    if cursor is None and isinstance(following, str):  # the older shape; its host is not asked, only its number believed
        try:
            found = parse_qs(urlsplit(following).query)
        except ValueError:
            return None, "malformed cursor"
        onward = {key: found[key][0] for key in ("cursor", "page") if key in found}
    elif cursor is None or cursor == "":
        return None, None
    else:
        onward = {"cursor": cursor} if isinstance(cursor, str | int) and not isinstance(cursor, bool) else {}
    if not onward:
        return None, "malformed cursor"
    mark = tuple(onward.items())
    if mark in seen:
        return None, "the cursor repeats"
    seen.add(mark)
    return onward, None


async def _rows(pages: AsyncIterator, url: str, highest: str) -> AsyncIterator[dict]:
    async for items, why in pages:
        for item in items:
            item = item if isinstance(item, dict) else {}
            row = _row(item, url)
            yield row | {"dropped": why or _no_use(item, row, highest)}


def _no_use(item: dict, row: dict, highest: str) -> str | None:
    """Why a picture is not even asked for."""
    if item.get("type", "image") != "image":
        return "not an image"
    if row["url"] is None:
        return "no address"
    return f"flagged {row['nsfw']}" if row["nsfw"] in ORDER[ORDER.index(highest) + 1 :] else None


def _row(item: dict, url: str) -> dict:
    meta = item.get("meta") if isinstance(item.get("meta"), dict) else {}
    return {
        "source": "civitai",
        "url": _text(item.get("url")),
        "user": _text(item.get("username")),
        "complex_prompt": _text(meta.get("prompt")),
        "negative_prompt": _text(meta.get("negativePrompt")),
        "width": _size(item.get("width")),
        "height": _size(item.get("height")),
        "nsfw": _level(item),
        "licence": f"terms of {urlsplit(url).hostname}",
    }


def _text(value) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _size(value) -> int | None:
    return value if isinstance(value, int) and 0 < value < 2**31 else None


def _level(item: dict) -> str:
    """None | Soft | Mature | X; Unknown if the item does not say: no filter should let that through unasked."""
    level, flag = item.get("nsfwLevel"), item.get("nsfw")  # an older shape says the level in `nsfw`
    for value in (level, flag):
        if isinstance(value, str) and value in LEVELS.values():
            return value
    if type(level) is int and level in LEVELS:
        return LEVELS[level]
    return "X" if flag is True else "None" if flag is False else "Unknown"
