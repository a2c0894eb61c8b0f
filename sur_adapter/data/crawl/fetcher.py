"""Candidates of a web source to rows with their bytes: many fetched at a time, handed on in the order of the source.

    def rows(work=None, after=0, *, limit):
        return gather(listing, work, after, limit, rate=10)

`listing(desk)` yields a row for each candidate: records.RAW without id, `dropped` set where there is no use in fetching. The fetching runs
in a thread of its own, so that a picture that takes long to write holds up no answer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from queue import SimpleQueue
from threading import Event, Thread

from sur_adapter.data.crawl.http_client import Web
from sur_adapter.io.schema import record_id
from sur_adapter.io.urls import strip_credentials
from sur_adapter.io.work_cache import WorkCache

Unless = Callable[[dict], bool] | None  # which rows are never fetched, as `forgotten`
AHEAD = 400  # rows under way: a busy one holds up no other
AHEAD_BYTES = 256 * 2**20  # waiting to be taken, beside those that are under way


def row_key(number: int) -> str:
    """What the work cache calls the answer for a row of a source, so that a stage may drop those it has put elsewhere."""
    return f"row-{number:09d}"


class Desk:
    """Fetches pages and pictures, none that the work cache has already."""

    def __init__(self, web: Web, work: WorkCache | None):
        self.web, self.work = web, work

    async def page(self, url: str, holds: str, headers: dict[str, str] | None = None) -> tuple[dict | None, str | None]:
        """(the JSON object, None) if it has a list called `holds`, else (None, reason).

        A page that came whole is kept: after a kill the source is as it was. A spoilt one is asked for again.
        """
        key = f"page-{record_id(url.encode())}"
        data, why = self.work.get(key) if self.work else None, None
        kept = data is not None
        if not kept:
            data, why = await self.web.get(url, {"Accept-Encoding": "gzip"} | (headers or {}))
        if why:
            return None, why
        try:
            page = json.loads(data)
        except (ValueError, RecursionError):  # a stranger's JSON may be a million brackets deep
            return None, "not JSON"
        if not isinstance(page, dict) or not isinstance(page.get(holds), list):
            return None, f"no list of {holds}"
        if self.work and not kept:
            self.work.set(key, data)
        return page, None

    async def picture(self, number: int, row: dict) -> dict:
        """The row with `data`, the bytes as received, or with the reason why there are none."""
        if row["dropped"]:
            return row | {"data": None}
        kept = self.work.get(row_key(number)) if self.work else None
        if kept is None:
            data, why = await self.web.get(row["url"])
            if self.work:
                self.work.set(row_key(number), b"1" + data if why is None else b"0" + why.encode())
        else:
            data, why = (kept[1:], None) if kept[:1] == b"1" else (None, kept[1:].decode())
        return row | {"data": data, "dropped": why}


class _Line:
    """Rows in order from the fetching thread to whoever takes them, no more of them at a time than memory bears."""

    def __init__(self):
        self.ready, self.started = SimpleQueue(), Event()
        self.loop = self.task = None
        self.rows = self.bytes = 0
        self.room = asyncio.Event()

    async def enter(self) -> None:
        while self.rows >= AHEAD or self.bytes >= AHEAD_BYTES:
            self.room.clear()
            await self.room.wait()
        self.rows += 1

    def leave(self, size: int) -> None:
        self.rows, self.bytes = self.rows - 1, self.bytes - size
        self.room.set()

    async def fetch(self, desk: Desk, number: int, row: dict) -> dict:
        row = await desk.picture(number, row) | {"url": strip_credentials(row["url"])}
        self.bytes += len(row["data"] or b"")
        return row


def gather(
    listing: Callable[[Desk], AsyncIterator[dict]], work: WorkCache | None, after: int, limit: int | None, unless: Unless = None, **manners
) -> Iterator[dict]:
    """Rows `after` to `limit` of a listing; those that `unless` says yes to are not fetched.

    manners: as of web.Web. Raises what the listing raises, after the rows before it.
    """
    line = _Line()
    thread = Thread(target=asyncio.run, args=(_run(line, listing, work, after, limit, unless, manners),), name="gather", daemon=True)
    thread.start()
    line.started.wait()
    try:
        while (row := line.ready.get()) is not None:
            if isinstance(row, BaseException):
                raise row
            _tell(line, line.leave, len(row["data"] or b""))
            yield row
    finally:
        _tell(line, line.task.cancel)
        thread.join()


def _tell(line: _Line, what: Callable, *words) -> None:
    with suppress(RuntimeError):  # its loop has ended by itself
        line.loop.call_soon_threadsafe(what, *words)


async def _run(
    line: _Line, listing: Callable, work: WorkCache | None, after: int, limit: int | None, unless: Unless, manners: dict
) -> None:
    line.loop, line.task = asyncio.get_running_loop(), asyncio.current_task()
    line.started.set()
    waiting: asyncio.Queue = asyncio.Queue()
    try:
        async with Web(**manners) as web:
            feeder = asyncio.create_task(_feed(line, waiting, listing, Desk(web, work), after, limit, unless))
            while (task := await waiting.get()) is not None:
                line.ready.put(await task)
            await feeder
        line.ready.put(None)
    except BaseException as error:  # whoever takes the rows must hear of it
        line.ready.put(error)


def _heard(task: asyncio.Task) -> None:
    """What goes wrong is told once, of the first row in order; of the rows under way beside it nobody need hear."""
    task.cancelled() or task.exception()


async def _feed(line: _Line, waiting: asyncio.Queue, listing: Callable, desk: Desk, after: int, limit: int | None, unless: Unless) -> None:
    """A task for each row, in order; None at the end, however it comes."""
    try:
        number = 0
        if limit == 0:
            return
        async with aclosing(listing(desk)) as rows:
            async for row in rows:
                if number >= after:
                    if unless and not row["dropped"] and (unless(row) or unless(row | {"url": strip_credentials(row["url"])})):
                        row = row | {"dropped": "forgotten"}
                    await line.enter()
                    waiting.put_nowait(task := asyncio.create_task(line.fetch(desk, number, row)))
                    task.add_done_callback(_heard)
                number += 1
                if number == limit:
                    return
    finally:
        waiting.put_nowait(None)
