"""Pictures and their prompts from Civitai's public API, or from whatever answers in its shape.

`GET {url}/api/v1/images`, cursors followed to the end. What cannot be had ends in a reason, never in a lost row.
A token is optional and comes from the environment alone: CIVITAI_TOKEN.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from itertools import islice
from urllib.parse import urlsplit

import httpx2

AGENT = "sur-adapter/0.1 (crawler of captioned pictures for research; one polite client)"
LEVELS = {1: "None", 2: "Soft", 4: "Mature", 8: "X", 16: "X"}
BUSY = (429, 500, 502, 503, 504)  # worth another try; no other status is
AHEAD = 400  # pictures under way: a busy one holds up no other
LONGEST_WAIT = 60  # seconds of Retry-After that are waited for; a host that asks for more is left alone


def rows(
    *,
    limit: int,
    url: str = "https://civitai.com",
    nsfw: str = "None",
    sort: str = "Most Reactions",
    period: str = "AllTime",
    workers: int = 8,
    tries: int = 5,
    timeout: float = 30.0,
    max_bytes: int = 32 * 2**20,
) -> Iterator[dict]:
    """A row for each of the first `limit` items, in the order of the API: records.RAW without id, with `data`, the bytes as received.

    nsfw: the highest level asked for: None | Soft | Mature | X. timeout: seconds for a picture as a whole.
    Raises ValueError if the API gives no first page; a later page that fails is a row of its own, with the reason.
    """
    query = {"limit": min(200, limit), "withMeta": "true", "nsfw": nsfw, "sort": sort, "period": period}
    local = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")  # no proxy stands between a machine and itself
    with (
        httpx2.Client(headers={"User-Agent": AGENT}, timeout=timeout, trust_env=not local, follow_redirects=True) as client,
        ThreadPoolExecutor(workers) as pool,
    ):
        get, waiting = Getter(client, tries, timeout, max_bytes), deque()
        for item, why in islice(_items(get, url, query), limit):
            waiting.append((item, pool.submit(get.picture, item, why)))
            if len(waiting) > AHEAD:
                item, answer = waiting.popleft()
                yield _row(item, url) | answer.result()
        for item, answer in waiting:
            yield _row(item, url) | answer.result()


def _items(get: "Getter", url: str, query: dict) -> Iterator[tuple[dict, str | None]]:
    """(item, None) of page after page; (the page, reason) where one fails, and then no more."""
    token, seen = os.environ.get("CIVITAI_TOKEN"), set()
    while True:
        page, why = get.page(f"{url}/api/v1/images", query, {"Authorization": f"Bearer {token}"} if token else {})
        if why and not seen:
            cure = "set CIVITAI_TOKEN in the environment" if why in ("http 401", "http 403") else "try later, or mend the url in sources"
            raise ValueError(f"{url} gave no first page ({why}): {cure}")
        if why:
            yield {"url": f"{url}/api/v1/images?cursor={query['cursor']}"}, f"page: {why}"
            return
        yield from ((item if isinstance(item, dict) else {}, None) for item in page["items"])
        cursor = page["metadata"].get("nextCursor") if isinstance(page.get("metadata"), dict) else None
        if not isinstance(cursor, str | int) or cursor in seen:
            return
        seen.add(cursor)
        query = query | {"cursor": cursor}


def _row(item: dict, url: str) -> dict:
    meta = item.get("meta") if isinstance(item.get("meta"), dict) else {}
    return {
        "source": "civitai",
        "url": _text(item.get("url")),
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


class Getter:
    """GET with manners: Retry-After obeyed, bounded retries, caps on bytes and seconds. Reasons instead of exceptions."""

    def __init__(self, client: httpx2.Client, tries: int, timeout: float, max_bytes: int):
        self.client, self.tries, self.timeout, self.max_bytes = client, tries, timeout, max_bytes

    def page(self, url: str, query: dict, headers: dict) -> tuple[dict | None, str | None]:
        """(page, None), or (None, reason). A redirect to another host does not see the headers: httpx drops Authorization there."""
        data, why = self.file(url, params=query, headers=headers)
        if why:
            return None, why
        try:
            page = httpx2.Response(200, content=data).json()
        except ValueError:
            return None, "not JSON"
        return (page, None) if isinstance(page, dict) and isinstance(page.get("items"), list) else (None, "no list of items")

    def picture(self, item: dict, why: str | None) -> dict:
        """{"data": bytes or None, "dropped": reason or None}; nothing is fetched if there is a reason already."""
        if why:
            return {"data": None, "dropped": why}
        if item.get("type", "image") != "image":
            return {"data": None, "dropped": "not an image"}
        url = item.get("url")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            return {"data": None, "dropped": "no address"}
        data, why = self.file(url)
        return {"data": data, "dropped": why}

    def file(self, url: str, **request) -> tuple[bytes | None, str | None]:
        """(bytes, None), or (None, reason) when all tries are spent."""
        for attempt in range(self.tries):
            data, why, wait = self._once(url, request)
            if wait is None:
                break
            wait = wait or min(30, 2**attempt)
            if wait > LONGEST_WAIT or attempt == self.tries - 1:
                break
            time.sleep(wait)
        return data, why

    def _once(self, url: str, request: dict) -> tuple[bytes | None, str | None, float | None]:
        """(bytes, reason, seconds to wait before the next try, 0 if the host names none; None if there is no use in one)."""
        deadline, data = time.monotonic() + self.timeout, bytearray()
        try:
            with self.client.stream("GET", url, **request) as answer:
                for chunk in answer.iter_bytes():  # of a refusal too: the connection can be used again
                    data += chunk
                    if len(data) > self.max_bytes:
                        return None, "too many bytes", None
                    if time.monotonic() > deadline:
                        return None, "timeout", None
            if answer.status_code != 200:
                wait = _retry_after(answer.headers.get("Retry-After")) if answer.status_code in BUSY else None
                return None, f"http {answer.status_code}", wait
            return bytes(data), None, None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, ValueError):
            return None, "no address", None
        except httpx2.TimeoutException:
            return None, "timeout", 0
        except httpx2.HTTPError:
            return None, "connection failed", 0


def _retry_after(value: str | None) -> float:
    """Seconds, from seconds or from a date; 0 if it says neither."""
    try:
        return max(0.0, float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time())
    except (AttributeError, TypeError, ValueError):
        return 0.0
