"""Pictures and their prompts from Lexica's search: fifty for each query, no paging. Off unless params.yaml names it.

Nothing is known of the service since 2024, when it often timed out: a query that fails is a row with its reason, and the next one is asked.
"""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlencode, urlsplit

from sur_adapter.data.crawl.fetcher import Desk, Unless, gather
from sur_adapter.io.urls import reject_credentials
from sur_adapter.io.work_cache import WorkCache


def rows(
    work: WorkCache | None = None,
    after: int = 0,
    unless: Unless = None,
    *,
    queries: list[str],
    url: str = "https://lexica.art",
    limit: int | None = None,
    rate: float | None = 2.0,
    workers: int = 4,
    tries: int = 3,
    timeout: float = 30.0,
    max_bytes: int = 32 * 2**20,
    private: list[str] | None = None,
) -> Iterator[dict]:
    """A row for each picture found, query by query, at most `limit`; one that an earlier query found is not fetched again.

    rate: requests a second to one host. workers: at a time to one host. private: hosts on this machine, as host:port.
    Raises ValueError without a query, or if the first one fails.
    """
    reject_credentials("sources.lexica.url", url)
    if not queries:
        raise ValueError("params.yaml: sources.lexica.queries is empty: name what to search for")
    manners = {"rate": rate, "per_host": workers, "tries": tries, "timeout": timeout, "max_bytes": max_bytes, "private": private or ()}
    return gather(lambda desk: _rows(desk, url, queries), work, after, limit, unless, **manners)


async def _rows(desk: Desk, url: str, queries: list[str]) -> AsyncIterator[dict]:
    seen: set[str] = set()
    for number, query in enumerate(queries):
        address = f"{url}/api/v1/search?{urlencode({'q': query})}"
        page, why = await desk.page(address, "images")
        if why and number == 0:
            raise ValueError(f"{url} gave no answer to the first query ({why}): try later, or remove sources.lexica from params.yaml")
        if why:
            yield _row({"src": address}, url) | {"dropped": f"page: {why}"}
            continue
        for item in page["images"]:
            item = item if isinstance(item, dict) else {}
            row = _row(item, url)
            again = row["url"] in seen
            seen.add(row["url"])
            grid = "a grid of pictures" if item.get("grid") else None
            yield row | {"dropped": "no address" if row["url"] is None else grid or ("duplicate" if again else None)}


def _row(item: dict, url: str) -> dict:
    flag = item.get("nsfw")
    return {
        "source": "lexica",
        "url": _text(item.get("src")),
        "complex_prompt": _text(item.get("prompt")),
        "negative_prompt": None,
        "width": None,  # measured by whoever decodes the picture
        "height": None,
        "nsfw": "X" if flag is True else "None" if flag is False else "Unknown",
        "licence": f"terms of {urlsplit(url).hostname}",
    }


def _text(value) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
