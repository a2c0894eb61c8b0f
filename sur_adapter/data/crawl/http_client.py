"""A polite and careful HTTP client: every address ends in bytes or in a reason, never in an exception, never without end.

    async with Web(rate=10) as web:
        data, why = await web.get("https://example.org/a.png")

TLS is verified, no proxy is used (it would resolve names past our check), no cookie is kept, bytes are handed on as received.
"""

import asyncio
import ssl
import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import aiohttp
from yarl import URL

from sur_adapter.data.crawl.address_guard import PrivateAddress, PublicResolver, problem
from sur_adapter.data.crawl.politeness import AGENT, BUSY, LONGEST_WAIT, NAME, Host, Robots, opted_out, retry_after

HOPS = 5  # redirects followed
ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for 500 KiB at least
SHORT = 4096  # bytes: a refusal's words are read to their end
MOST_HOSTS = 5000  # known at a time; those that nobody waits for are forgotten first
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": AGENT, "Accept-Encoding": "identity"}

Answer = tuple[bytes | None, str | None]  # (bytes, None) or (None, reason)


class Try(NamedTuple):
    """What one try came to: bytes, or a reason, or the address to go on with."""

    data: bytes | None = None
    why: str | None = None
    again: bool = False  # whether another try may help
    wait: float | None = None  # seconds that the host wants to be left alone for, if it says so
    onward: URL | None = None


class Web:
    """tries: of one address. timeout: seconds of one try as a whole, body and all. rate: requests a second to one host, None for
    no limit. per_host: requests at a time. private: sources on this machine or its network, as host:port; all others are refused."""

    def __init__(
        self,
        *,
        tries: int = 5,
        timeout: float = 30.0,
        max_bytes: int = 32 * 2**20,
        rate: float | None = None,
        per_host: int = 8,
        at_once: int = 64,
        private: Collection[str] = (),
    ):
        self.tries, self.timeout, self.max_bytes = tries, timeout, max_bytes
        self.gap, self.per_host, self.private = 1 / rate if rate else 0.0, per_host, frozenset(private)
        self.at_once = asyncio.Semaphore(at_once)
        self.hosts: dict[URL, Host] = {}

    async def __aenter__(self) -> "Web":
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=PublicResolver(self.private)),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None),  # a try has a limit of its own
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS,
            auto_decompress=False,  # capped here instead
        )
        return self

    async def __aexit__(self, *_) -> None:
        await self.session.close()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The bytes of an address. `headers` (a token) go to its own host and to no other, whatever redirects say."""
        try:
            start = URL(url)
        except (ValueError, TypeError):
            return None, "no address"
        return await self._tries(start, headers or {}, self.max_bytes)

    async def _tries(self, url: URL, headers: Mapping[str, str], most: int, robots: bool = True) -> Answer:
        for attempt in range(self.tries):
            answer, host = await self._follow(url, headers, most, robots)
            if not answer.again:
                break
            wait = min(30.0, 2.0**attempt) if answer.wait is None else answer.wait
            if answer.wait is not None or answer.why == "http 429":  # it has had enough of us, whatever the address
                host.leave_alone(wait, answer.why)
            if wait > LONGEST_WAIT or attempt == self.tries - 1:
                break
            await asyncio.sleep(wait)
        if host and (answer.again or answer.why == "timeout"):
            host.came_to_nothing(answer.why)
        elif host and not host.refused:
            host.came()
        return answer.data, answer.why

    async def _follow(self, url: URL, headers: Mapping[str, str], most: int, robots: bool) -> tuple[Try, Host | None]:
        """One try and the host it ended at; redirects are followed, each as if it had been asked for at first."""
        start, host = url, None
        for _ in range(HOPS + 1):
            if why := problem(url, self.private):
                return Try(why=why), None
            host = self._host(url)
            host.users += 1
            try:
                if why := host.refused or (await self._forbidden(host, url) if robots else None):
                    return Try(why=why), None
                async with host.turn(), self.at_once:
                    if host.refused:  # while we waited
                        return Try(why=host.refused), None
                    answer = await self._request(url, headers if url.origin() == start.origin() else {}, most)
            finally:
                host.users -= 1
            if answer.onward is None:
                return answer, host
            url = answer.onward
        return Try(why="too many redirects"), host

    def _host(self, url: URL) -> Host:
        origin = url.origin()
        if origin not in self.hosts:
            if len(self.hosts) >= MOST_HOSTS:
                self.hosts = {key: host for key, host in self.hosts.items() if host.users or host.refused}
            self.hosts[origin] = Host(self.per_host, self.gap)
        return self.hosts[origin]

    async def _forbidden(self, host: Host, url: URL) -> str | None:
        """The reason if robots.txt says no, or cannot be had (RFC 9309: 4xx allows everything, no answer allows nothing)."""
        if host.robots is None:
            host.robots = asyncio.ensure_future(self._robots(host, url.origin() / "robots.txt"))
        rules = await asyncio.shield(host.robots)
        if rules is None or isinstance(rules, str):
            return rules
        return None if rules.can_fetch(NAME, str(url)) else "robots.txt forbids"

    async def _robots(self, host: Host, url: URL):
        data, why = await self._tries(url, {}, ROBOTS_BYTES, robots=False)
        if why is None:
            rules = Robots(data)
            return host.obey(rules) or rules
        if why.startswith("http 4") and why != "http 429":
            return None
        return f"robots.txt: {why}" if why.startswith(("http", "too")) else why

    async def _request(self, url: URL, headers: Mapping[str, str], most: int) -> Try:
        try:
            async with asyncio.timeout(self.timeout), self.session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status in REDIRECTS and "Location" in answer.headers:
                    return Try(onward=url.join(URL(answer.headers["Location"])))
                if answer.status != 200:
                    if (answer.content_length or SHORT + 1) <= SHORT:  # then the connection can be used again
                        await answer.read()
                    busy = answer.status in BUSY
                    return Try(
                        why=f"http {answer.status}", again=busy, wait=retry_after(answer.headers.get("Retry-After")) if busy else None
                    )
                why = opted_out(answer.headers)
                return Try(why=why) if why else await body(answer, most)
        except Exception as error:  # whatever a stranger's host makes of the protocol
            return _reason(error)


async def body(answer: aiohttp.ClientResponse, most: int) -> Try:
    """The bytes of an answer, at most `most` of them, counted after unpacking."""
    packing, data = answer.headers.get("Content-Encoding", "").strip().lower() or "identity", bytearray()
    if packing not in ("identity", "gzip", "x-gzip", "deflate"):
        return Try(why="unknown encoding")
    if (answer.content_length or 0) > most:
        return Try(why="too many bytes")
    unpack = None if packing == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    async for chunk in answer.content.iter_any():
        data += unpack.decompress(chunk, most + 1 - len(data)) if unpack else chunk
        if len(data) > most:
            return Try(why="too many bytes")
    if unpack and not unpack.eof:
        return Try(why="cut short", again=True)
    return Try(bytes(data))


def _reason(error: Exception) -> Try:
    if isinstance(getattr(error, "os_error", error), PrivateAddress):
        return Try(why="private address")
    if isinstance(error, TimeoutError):
        return Try(why="timeout")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Try(why="certificate refused")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Try(why="cut short", again=True)
    if isinstance(error, zlib.error):
        return Try(why="broken encoding")
    if isinstance(error, aiohttp.InvalidURL | ValueError | TypeError):
        return Try(why="no address")
    return Try(why="connection failed", again=True)
