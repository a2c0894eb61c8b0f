"""Manners towards one host: how often it is asked, how long it is left alone, what it forbids, and who opted out."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote, urlsplit
from urllib.robotparser import RobotFileParser

NAME = "sur-adapter"
AGENT = f"{NAME}/0.1 (crawler of captioned pictures for research; one polite client)"
BUSY = (429, 500, 502, 503, 504)  # worth another try; no other status is
LONGEST_WAIT = 60.0  # seconds that are waited for; a host that asks for more is left alone
GIVEN_UP = 50  # addresses in a row that came to nothing, all tries spent: the host is down, and asking on helps nobody


class Host:
    """One host: `places` requests at a time, `gap` seconds from one to the next, quiet for as long as it asked."""

    def __init__(self, places: int, gap: float):
        self.places, self.gap = asyncio.Semaphore(places), gap
        self.next = self.quiet = 0.0  # monotonic seconds: when the next request may start, until when none may
        self.users = 0
        self.robots: asyncio.Future | None = None  # of None (everything is allowed), a parser, or a reason
        self.refused: str | None = None  # the reason for which it is asked no more
        self._failures = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until a request may start; holds a place while it lasts."""
        async with self.places:
            while (wait := max(self.next, self.quiet) - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self.next = time.monotonic() + self.gap
            yield

    def leave_alone(self, seconds: float, why: str) -> None:
        """As Retry-After asks, for all that wait for this host; for good if it asks for too long."""
        if seconds > LONGEST_WAIT:
            self.refused = why
        else:
            self.quiet = max(self.quiet, time.monotonic() + seconds)

    def came(self) -> None:
        self._failures = 0

    def came_to_nothing(self, why: str) -> None:
        self._failures += 1
        if self._failures >= GIVEN_UP:
            self.refused = f"host given up: {why}"

    def obey(self, rules: RobotFileParser) -> str | None:
        """Crawl-delay becomes the gap; a reason if it is longer than we wait."""
        delay = float(rules.crawl_delay(NAME) or 0)
        self.gap = max(self.gap, min(delay, LONGEST_WAIT))
        return "robots.txt: crawl-delay" if delay > LONGEST_WAIT else None


class Robots(RobotFileParser):
    """robots.txt as RFC 9309 reads it: * and $ in paths, the longest rule decides. Python's own parser knows prefixes alone."""

    def __init__(self, text: bytes):
        super().__init__()
        self.parse(text.decode("utf-8-sig", "replace").splitlines())

    def can_fetch(self, useragent: str, url: str) -> bool:
        entry = next((e for e in self.entries if e.applies_to(useragent)), self.default_entry)
        parts = urlsplit(url)
        path = quote(unquote(parts.path or "/") + (f"?{unquote(parts.query)}" if parts.query else ""))
        rules = [(len(r.path), r.allowance) for r in (entry.rulelines if entry else []) if _matches(r.path, path)]
        return max(rules, default=(0, True))[1]


def _matches(pattern: str, path: str) -> bool:
    """Piece by piece, so that no pattern takes long. The parser has quoted both: %2A is *, %24 at the end is $."""
    start, *pieces = pattern.removesuffix("%24").split("%2A")
    if not path.startswith(start):
        return False
    at = len(start)
    for piece in pieces:
        if (found := path.find(piece, at)) < 0:
            return False
        at = found + len(piece)
    return not pattern.endswith("%24") or (path.endswith(pieces[-1]) if pieces else at == len(path))


def opted_out(headers: Mapping) -> str | None:
    """The reason if whoever serves it wants no model to learn from it: X-Robots-Tag: noai | noimageai, tdm-reservation: 1."""
    for value in headers.getall("X-Robots-Tag", []):
        words = {word.strip().lower() for word in value.replace(":", ",").split(",")}
        for tag in ("noai", "noimageai"):
            if tag in words:
                return f"opted out: {tag}"
    return "opted out: tdm-reservation" if headers.get("tdm-reservation", "").strip() == "1" else None


def retry_after(value: str | None) -> float | None:
    """Seconds, from seconds or from a date; None if it says neither."""
    try:
        return max(0.0, float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time())
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
