"""Fetches the images of a web source: many at a time, returned in the order of the source.

    def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
        return fetch_rows(lambda fetcher: listing(fetcher, config), config, config.limit, state)

`listing(fetcher)` yields a row for each candidate image, as in data/sources/base.py but without data; `dropped` is set where it need not be
fetched. Fetching runs in its own thread, so that writing a large image delays no response.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from queue import SimpleQueue
from threading import Event, Thread

from sur_adapter.data.crawl.crawl_state import CrawlState
from sur_adapter.data.crawl.http_client import HttpClient, HttpConfig
from sur_adapter.io.schema import record_id
from sur_adapter.io.urls import strip_credentials
from sur_adapter.io.work_cache import WorkCache

MAX_IN_FLIGHT = 400  # rows that are being fetched or wait for the consumer; many, so that a busy host does not block the others
MAX_WAITING_BYTES = 256 * 2**20  # of fetched images that wait for the consumer

Listing = Callable[["Fetcher"], AsyncIterator[dict]]


def row_key(number: int) -> str:
    """Returns the key of a fetched row in the work cache."""
    return f"row-{number:09d}"


class Fetcher:
    """Fetches pages and images, except those that the work cache already has."""

    def __init__(self, client: HttpClient, work: WorkCache | None):
        self.client, self.work = client, work

    async def fetch_page(self, url: str, list_key: str, headers: dict[str, str] | None = None) -> tuple[dict | None, str | None]:
        """Returns (JSON object, None) if it has a list under `list_key`, else (None, reason).

        A valid page is cached, so that a resumed crawl sees the same listing; an invalid one is fetched again.
        """
        key = f"page-{record_id(url.encode())}"
        data, reason = self.work.get(key) if self.work else None, None
        cached = data is not None
        if not cached:
            data, reason = await self.client.get(url, {"Accept-Encoding": "gzip"} | (headers or {}))
        if reason:
            return None, reason
        try:
            page = json.loads(data)
        except (ValueError, RecursionError):  # hostile JSON may nest a million brackets
            return None, "not JSON"
        if not isinstance(page, dict) or not isinstance(page.get(list_key), list):
            return None, f"no list of {list_key}"
        if self.work and not cached:
            self.work.set(key, data)
        return page, None

    async def fetch_image(self, number: int, row: dict) -> dict:
        """Returns the row with `data`, the bytes as received, or with the reason in `dropped`.

        The cache holds "1" + bytes or "0" + reason.
        """
        if row["dropped"]:
            return row | {"data": None}
        cached = self.work.get(row_key(number)) if self.work else None
        if cached is not None:
            data, reason = (cached[1:], None) if cached[:1] == b"1" else (None, cached[1:].decode())
        else:
            data, reason = await self.client.get(row["url"])
            if self.work:
                self.work.set(row_key(number), b"1" + data if reason is None else b"0" + reason.encode())
        return row | {"data": data, "dropped": reason}


class BoundedQueue:
    """Passes rows in order from the event loop's thread to the consumer's, limited by MAX_IN_FLIGHT and MAX_WAITING_BYTES."""

    def __init__(self):
        self._items, self._started = SimpleQueue(), Event()
        self._loop = self._task = None
        self._rows = self._bytes = 0
        self._has_room = asyncio.Event()

    # on the event loop

    def open(self) -> None:
        """Binds the queue to the running task, which `cancel` stops."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._started.set()

    async def reserve(self) -> None:
        """Waits until another row may be fetched."""
        while self._rows >= MAX_IN_FLIGHT or self._bytes >= MAX_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        self._rows += 1

    def add_bytes(self, size: int) -> None:
        """Counts the bytes of a fetched image that waits."""
        self._bytes += size

    def put(self, item: dict | BaseException | None) -> None:
        """Passes on a row, an exception for the consumer to raise, or None at the end."""
        self._items.put(item)

    def _release(self, size: int) -> None:
        self._rows, self._bytes = self._rows - 1, self._bytes - size
        self._has_room.set()

    # in the consumer's thread

    def wait_until_open(self) -> None:
        """Waits until `open` was called, so that `cancel` has a task to stop."""
        self._started.wait()

    def take(self) -> Iterator[dict]:
        """Yields the rows; raises an exception that was put."""
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._call_on_loop(self._release, len(item["data"] or b""))
            yield item

    def cancel(self) -> None:
        """Stops the task that opened the queue."""
        self._call_on_loop(self._task.cancel)

    def _call_on_loop(self, function: Callable, *args) -> None:
        with suppress(RuntimeError):  # the loop has already ended
            self._loop.call_soon_threadsafe(function, *args)


def fetch_rows(listing: Listing, config: HttpConfig, limit: int | None, state: CrawlState) -> Iterator[dict]:
    """Yields rows `state.start` to `limit` of a listing with their bytes or reasons.

    Raises what the listing raises, after the rows before it.
    """
    queue = BoundedQueue()
    thread = Thread(target=asyncio.run, args=(_run(queue, listing, config, limit, state),), name="fetcher", daemon=True)
    thread.start()
    queue.wait_until_open()
    try:
        yield from queue.take()
    finally:
        queue.cancel()
        thread.join()


async def _run(queue: BoundedQueue, listing: Listing, config: HttpConfig, limit: int | None, state: CrawlState) -> None:
    queue.open()
    in_order: asyncio.Queue = asyncio.Queue()  # tasks, then None
    try:
        async with HttpClient(config) as client:
            feeder = asyncio.create_task(_feed(queue, in_order, listing, Fetcher(client, state.work), limit, state))
            while (task := await in_order.get()) is not None:
                queue.put(await task)
            await feeder
        queue.put(None)
    except BaseException as error:  # the consumer raises it
        queue.put(error)


async def _feed(
    queue: BoundedQueue, in_order: asyncio.Queue, listing: Listing, fetcher: Fetcher, limit: int | None, state: CrawlState
) -> None:
    """Starts a task for each row, in order; puts None at the end, also after an error."""
    try:
        number = 0
        if limit == 0:
            return
        async with aclosing(listing(fetcher)) as rows:
            async for row in rows:
                if number >= state.start:
                    if state.skip and not row["dropped"] and (state.skip(row) or state.skip(_without_credentials(row))):
                        row = row | {"dropped": "forgotten"}
                    await queue.reserve()
                    in_order.put_nowait(task := asyncio.create_task(_fetch(queue, fetcher, number, row)))
                    task.add_done_callback(_mark_exception_retrieved)
                number += 1
                if number == limit:
                    return
    finally:
        in_order.put_nowait(None)


async def _fetch(queue: BoundedQueue, fetcher: Fetcher, number: int, row: dict) -> dict:
    row = _without_credentials(await fetcher.fetch_image(number, row))
    queue.add_bytes(len(row["data"] or b""))
    return row


def _without_credentials(row: dict) -> dict:
    return row | {"url": strip_credentials(row["url"])}


def _mark_exception_retrieved(task: asyncio.Task) -> None:
    """Keeps asyncio from logging errors of rows in flight: only the first error in order is raised."""
    if not task.cancelled():
        task.exception()
