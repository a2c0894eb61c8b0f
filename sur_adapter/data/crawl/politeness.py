"""Politeness towards one host: request rate, pauses, robots.txt, opt-out headers."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime

from protego import Protego

NAME = "sur-adapter"  # the product token that robots.txt may name
AGENT = f"{NAME}/0.1 (crawler of captioned pictures for research; one polite client)"
BUSY = (429, 500, 502, 503, 504)  # only these statuses are tried again
LONGEST_WAIT = 60.0  # seconds; a host that asks for a longer pause is not requested again
MAX_FAILURES = 50  # URLs in a row that failed after all attempts: the host is down
USER_AGENT_LINE = re.compile(r"\s*user(?:-|\s*)agent(?:\s*:|\s)(.*)", re.IGNORECASE)


class Host:
    """Limits the requests to one host: `max_concurrent` at a time, `gap` seconds between their starts, and the pauses it asks for."""

    def __init__(self, max_concurrent: int, gap: float):
        self.gap = gap
        self.users = 0  # URLs in progress
        self.robots: asyncio.Future | None = None  # of None (everything is allowed), a RobotsTxt, or the reason of a failure
        self.refused: str | None = None  # why it is not requested again
        self._slots = asyncio.Semaphore(max_concurrent)
        self._next_start = self._paused_until = 0.0  # on the monotonic clock
        self._failures = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits until a request may start and holds one of the slots during the block."""
        async with self._slots:
            while (wait := max(self._next_start, self._paused_until) - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._next_start = time.monotonic() + self.gap
            yield

    def back_off(self, seconds: float, reason: str) -> None:
        """Pauses all requests to this host, as Retry-After asks; beyond LONGEST_WAIT the host is not requested again."""
        if seconds > LONGEST_WAIT:
            self.refused = reason
        else:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def record_success(self) -> None:
        self._failures = 0

    def record_failure(self, reason: str) -> None:
        """Counts a URL that failed after all attempts; the host is refused after MAX_FAILURES in a row."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self.refused = f"host given up: {reason}"

    def apply_robots(self, robots: "RobotsTxt") -> str | None:
        """Widens the gap to the crawl delay. Returns a reason if the delay exceeds LONGEST_WAIT."""
        self.gap = max(self.gap, min(robots.crawl_delay, LONGEST_WAIT))
        return "robots.txt: crawl-delay" if robots.crawl_delay > LONGEST_WAIT else None


class RobotsTxt:
    """Reads a robots.txt file (RFC 9309) for this crawler: `allows(url)` and `crawl_delay` in seconds, 0 if it sets none.

    `*` and `$` are special in paths, and the longest matching rule decides. A name that begins ours ("sur") means us, too.
    """

    def __init__(self, data: bytes):
        self._rules = Protego.parse(_merge_other_agents(data.decode("utf-8-sig", "replace")))
        self.crawl_delay = self._rules.crawl_delay(NAME) or 0.0

    def allows(self, url: str) -> bool:
        return self._rules.can_fetch(url, NAME)


def _merge_other_agents(text: str) -> str:
    """Gives all other crawlers one name: Protego copies each rule to every agent of its group, so a hostile file could exhaust memory."""
    lines = []
    for line in text.splitlines():
        match = USER_AGENT_LINE.match(line.partition("#")[0])
        if match and (value := match[1].strip()):
            agent = value.lower().replace("*", "")
            line = f"User-agent: {(agent or '*') if NAME.startswith(agent) else 'another'}"
        lines.append(line)
    return "\n".join(lines)


def opted_out(headers: Mapping) -> str | None:
    """Returns the reason if the response forbids use for training: X-Robots-Tag: noai or noimageai, tdm-reservation: 1."""
    for value in headers.getall("X-Robots-Tag", []):
        directives = {directive.strip().lower() for directive in value.replace(":", ",").split(",")}
        for tag in ("noai", "noimageai"):
            if tag in directives:
                return f"opted out: {tag}"
    return "opted out: tdm-reservation" if headers.get("tdm-reservation", "").strip() == "1" else None


def retry_after(value: str | None) -> float | None:
    """Converts a Retry-After header, seconds or a date, to seconds; None if it is neither."""
    try:
        return max(0.0, float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time())
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
