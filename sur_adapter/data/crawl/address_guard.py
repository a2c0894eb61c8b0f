"""Limits the crawler to public addresses over http and https.

URLs of images and redirects are untrusted. A name is resolved once, its addresses are checked, and the connection goes to the very address
that was checked. A source on this machine must be named in `private`, as "127.0.0.1:8000".
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

NAT64 = int(IPv6Address("64:ff9b::")) >> 32  # RFC 6052: the last 32 bits are an IPv4 address


class PrivateAddressError(OSError):
    """Raised for a host name that resolves to an address which is not public."""


def is_public(address: str) -> bool:
    """Tells whether an IP address, and every IPv4 address embedded in it, is public. Raises ValueError for other text."""
    ip = ip_address(address.partition("%")[0])
    embedded = _embedded_ipv4(ip) if isinstance(ip, IPv6Address) else []
    return all(x.is_global and not x.is_multicast and not x.is_reserved for x in embedded or [ip])


def _embedded_ipv4(ip: IPv6Address) -> list[IPv4Address]:
    """Lists the IPv4 addresses that an IPv6 address contains: mapped, 6to4, Teredo, NAT64."""
    if ip.ipv4_mapped:
        return [ip.ipv4_mapped]
    if int(ip) >> 32 == NAT64:
        return [IPv4Address(int(ip) & 0xFFFFFFFF)]
    return [x for x in (ip.sixtofour, *(ip.teredo or ())) if x]


def check_url(url: URL, private: Collection[str]) -> str | None:
    """Returns "no address" or "private address" if the URL itself shows it, else None; names are checked by PublicResolver."""
    if url.scheme not in ("http", "https") or not url.host:
        return "no address"
    if f"{url.host}:{url.port}" in private or not (":" in url.host or url.host.replace(".", "").isdigit()):
        return None
    try:
        return None if is_public(url.host) else "private address"
    except ValueError:  # some clients read 2130706433 and 127.1 as this machine; here they are invalid
        return "no address"


class PublicResolver(AbstractResolver):
    """Resolves host names to public addresses; only "host:port" in `private` may have others. Raises PrivateAddressError."""

    def __init__(self, private: Collection[str]):
        self.private, self.resolver = private, ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list:
        results = await self.resolver.resolve(host, port, family)
        if f"{host}:{port}" not in self.private and not all(is_public(result["host"]) for result in results):
            raise PrivateAddressError(f"{host} is a private address")
        return results

    async def close(self) -> None:
        await self.resolver.close()
