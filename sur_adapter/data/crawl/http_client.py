"""HTTP client of the crawler: `get()` returns (bytes, None) or (None, reason); it never raises and always times out.

    async with HttpClient(HttpConfig(rate=10)) as client:
        data, reason = await client.get("https://example.org/a.png")

TLS is verified. No proxy is used, since it would resolve names past the address guard. No cookie is kept. Bytes are returned as received.
"""

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
from yarl import URL

from sur_adapter.data.crawl.address_guard import PrivateAddressError, PublicResolver, check_url
from sur_adapter.data.crawl.politeness import AGENT, BUSY, LONGEST_WAIT, Host, RobotsTxt, opted_out, retry_after

MAX_CONNECTIONS = 64  # over all hosts
MAX_REDIRECTS = 5
MAX_ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for at least 500 KiB
MAX_ERROR_BYTES = 4096  # a short error page is read to its end, so that the connection can be used again
MAX_HOSTS = 5000  # remembered at a time; idle ones are dropped first
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": AGENT, "Accept-Encoding": "identity"}

Response = tuple[bytes | None, str | None]  # (bytes, None) or (None, reason)


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """How hosts are requested; a web source inherits these keys and may set other defaults.

    rate: requests per second to one host; null: no limit. workers: concurrent requests to one host. tries: attempts per URL. timeout:
    seconds of one attempt, body included. max_bytes: of one file. private: hosts on this machine or its network that may be requested, as
    host:port.
    """

    rate: float | None = None
    workers: int = 8
    tries: int = 5
    timeout: float = 30.0
    max_bytes: int = 32 * 2**20
    private: tuple[str, ...] = ()

    def __post_init__(self):
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"rate is {self.rate:g}: give requests per second above 0, or null for no limit")
        if self.timeout <= 0:
            raise ValueError(f"timeout is {self.timeout:g}: give seconds above 0")
        for name in ("workers", "tries", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")


class Attempt(NamedTuple):
    """Result of one attempt: the data, a reason why there is none, or the URL of a redirect."""

    data: bytes | None = None
    reason: str | None = None
    retryable: bool = False
    wait: float | None = None  # seconds until the next attempt, if the host says so
    redirect: URL | None = None


class HttpClient:
    """Fetches URLs within the limits of `config`. Use it as an async context manager."""

    def __init__(self, config: HttpConfig):
        self.config = config
        self.private = frozenset(config.private)
        self.hosts: dict[URL, Host] = {}
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)

    async def __aenter__(self) -> "HttpClient":
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=PublicResolver(self.private)),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None),  # each attempt has its own limit
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS,
            auto_decompress=False,  # read_body decompresses up to a limit
        )
        return self

    async def __aexit__(self, *_) -> None:
        await self.session.close()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """Fetches a URL. `headers`, such as a token, are sent to its own host only, wherever redirects lead."""
        try:
            parsed = URL(url)
        except (ValueError, TypeError):
            return None, "no address"
        return await self._get_with_retries(parsed, headers or {}, self.config.max_bytes)

    async def _get_with_retries(self, url: URL, headers: Mapping[str, str], max_bytes: int, check_robots: bool = True) -> Response:
        for number in range(self.config.tries):
            attempt, host = await self._follow_redirects(url, headers, max_bytes, check_robots)
            if not attempt.retryable:
                break
            wait = min(30.0, 2.0**number) if attempt.wait is None else attempt.wait
            if attempt.wait is not None or attempt.reason == "http 429":  # the host asks for a pause, whatever the URL
                host.back_off(wait, attempt.reason)
            if wait > LONGEST_WAIT or number == self.config.tries - 1:
                break
            await asyncio.sleep(wait)
        if host and (attempt.retryable or attempt.reason == "timeout"):
            host.record_failure(attempt.reason)
        elif host and not host.refused:
            host.record_success()
        return attempt.data, attempt.reason

    async def _follow_redirects(
        self, url: URL, headers: Mapping[str, str], max_bytes: int, check_robots: bool
    ) -> tuple[Attempt, Host | None]:
        """Makes one attempt; returns it with the host where it ended. Every redirect is checked like the first URL."""
        start, host = url, None
        for _ in range(MAX_REDIRECTS + 1):
            if reason := check_url(url, self.private):
                return Attempt(reason=reason), None
            host = self._host(url)
            host.users += 1
            try:
                if reason := host.refused or (await self._check_robots(host, url) if check_robots else None):
                    return Attempt(reason=reason), None
                async with host.slot(), self._connections:
                    if host.refused:  # while this request waited
                        return Attempt(reason=host.refused), None
                    attempt = await self._request(url, headers if url.origin() == start.origin() else {}, max_bytes)
            finally:
                host.users -= 1
            if attempt.redirect is None:
                return attempt, host
            url = attempt.redirect
        return Attempt(reason="too many redirects"), host

    def _host(self, url: URL) -> Host:
        origin = url.origin()
        if origin not in self.hosts:
            if len(self.hosts) >= MAX_HOSTS:
                self.hosts = {key: host for key, host in self.hosts.items() if host.users or host.refused}
            self.hosts[origin] = Host(self.config.workers, 1 / self.config.rate if self.config.rate else 0.0)
        return self.hosts[origin]

    async def _check_robots(self, host: Host, url: URL) -> str | None:
        """Returns the reason if robots.txt disallows the URL or cannot be fetched. It is fetched once per host."""
        if host.robots is None:
            host.robots = asyncio.ensure_future(self._fetch_robots(host, url.origin() / "robots.txt"))
        robots = await asyncio.shield(host.robots)
        if robots is None or isinstance(robots, str):
            return robots
        return None if robots.allows(str(url)) else "robots.txt forbids"

    async def _fetch_robots(self, host: Host, url: URL) -> RobotsTxt | str | None:
        """Returns the rules, None if there are none, or a reason (RFC 9309: 4xx allows everything, no answer allows nothing)."""
        data, reason = await self._get_with_retries(url, {}, MAX_ROBOTS_BYTES, check_robots=False)
        if reason is None:
            robots = RobotsTxt(data)
            return host.apply_robots(robots) or robots
        if reason.startswith("http 4") and reason != "http 429":
            return None
        return f"robots.txt: {reason}" if reason.startswith(("http", "too")) else reason

    async def _request(self, url: URL, headers: Mapping[str, str], max_bytes: int) -> Attempt:
        try:
            async with (
                asyncio.timeout(self.config.timeout),
                self.session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status in REDIRECTS and "Location" in response.headers:
                    return Attempt(redirect=url.join(URL(response.headers["Location"])))
                if response.status != 200:
                    if (response.content_length or MAX_ERROR_BYTES + 1) <= MAX_ERROR_BYTES:
                        await response.read()
                    busy = response.status in BUSY
                    wait = retry_after(response.headers.get("Retry-After")) if busy else None
                    return Attempt(reason=f"http {response.status}", retryable=busy, wait=wait)
                reason = opted_out(response.headers)
                return Attempt(reason=reason) if reason else await read_body(response, max_bytes)
        except Exception as error:  # a hostile host can break the protocol in any way
            return _failed_attempt(error)


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> Attempt:
    """Reads the body, decompressed; more than `max_bytes` after decompression is refused."""
    encoding, data = response.headers.get("Content-Encoding", "").strip().lower() or "identity", bytearray()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        return Attempt(reason="unknown encoding")
    if (response.content_length or 0) > max_bytes:
        return Attempt(reason="too many bytes")
    decompressor = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    async for chunk in response.content.iter_any():
        data += decompressor.decompress(chunk, max_bytes + 1 - len(data)) if decompressor else chunk
        if len(data) > max_bytes:
            return Attempt(reason="too many bytes")
    if decompressor and not decompressor.eof:
        return Attempt(reason="cut short", retryable=True)
    return Attempt(bytes(data))


def _failed_attempt(error: Exception) -> Attempt:
    if isinstance(getattr(error, "os_error", error), PrivateAddressError):
        return Attempt(reason="private address")
    if isinstance(error, TimeoutError):
        return Attempt(reason="timeout")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Attempt(reason="certificate refused")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Attempt(reason="cut short", retryable=True)
    if isinstance(error, zlib.error):
        return Attempt(reason="broken encoding")
    if isinstance(error, aiohttp.InvalidURL | ValueError | TypeError):
        return Attempt(reason="no address")
    return Attempt(reason="connection failed", retryable=True)
