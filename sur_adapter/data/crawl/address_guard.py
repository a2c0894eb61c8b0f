"""Where strangers may send us: to public addresses, over http and https.

The address of a picture comes from a stranger, and so does a redirect. A name is resolved once, what it stands for is checked, and the
connection goes to the very address that was checked. What may be private, a source on this machine, is named: "127.0.0.1:8000".

Addresses may carry secrets, too: what is asked for is not what is written down (`bare`).
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

NAT64 = int(IPv6Address("64:ff9b::")) >> 32  # RFC 6052: the last 32 bits are an IPv4 address


class PrivateAddress(OSError):
    """A name that stands for an address no stranger should send us to."""


def public(address: str) -> bool:
    """Whether an address belongs to the open network, and every IPv4 address inside it too. Raises ValueError if it is none."""
    ip = ip_address(address.partition("%")[0])
    inner = _inner(ip) if isinstance(ip, IPv6Address) else []
    return all(x.is_global and not x.is_multicast and not x.is_reserved for x in inner or [ip])


def _inner(ip: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses an IPv6 one is a door to: mapped, 6to4, Teredo, NAT64."""
    if ip.ipv4_mapped:
        return [ip.ipv4_mapped]
    if int(ip) >> 32 == NAT64:
        return [IPv4Address(int(ip) & 0xFFFFFFFF)]
    return [x for x in (ip.sixtofour, *(ip.teredo or ())) if x]


def named(url: URL) -> str:
    """host:port, as a private source is named."""
    return f"{url.host}:{url.port}"


def problem(url: URL, private: Collection[str]) -> str | None:
    """ "no address" | "private address" | None, as far as the address itself tells; a name is the resolver's to check."""
    if url.scheme not in ("http", "https") or not url.host:
        return "no address"
    if named(url) in private or not (":" in url.host or url.host.replace(".", "").isdigit()):  # aiohttp resolves no such name
        return None
    try:
        return None if public(url.host) else "private address"
    except ValueError:  # 2130706433 and 127.1 mean this machine to some, and are no address to us
        return "no address"


class PublicResolver(AbstractResolver):
    """Names to addresses, each of them public unless the name is among `private`. Raises PrivateAddress."""

    def __init__(self, private: Collection[str]):
        self.private, self.inner = private, ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list:
        found = await self.inner.resolve(host, port, family)
        if f"{host}:{port}" not in self.private and not all(public(f["host"]) for f in found):
            raise PrivateAddress(f"{host} is a private address")
        return found

    async def close(self) -> None:
        await self.inner.close()
