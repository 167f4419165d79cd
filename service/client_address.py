"""From which address a request comes: that of the connection, or what trusted proxies say of it."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

from service.keys import HTTP_SETTINGS

FORWARDED_FOR = "X-Forwarded-For"
BULK_ADDRESS = "X-Kasbah-Client-Address"
"""How a public worker tells the bulk worker; believed on its private socket alone."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def address_of(request: web.Request) -> str | None:
    """Return the address that calls, or None where there is none to tell."""
    transport = request.transport
    if transport is None:
        return None
    if isinstance(transport.get_extra_info("sockname"), str):
        return request.headers.get(BULK_ADDRESS)
    peer = transport.get_extra_info("peername")
    if not peer:
        return None
    networks = _networks(request.app[HTTP_SETTINGS].trusted_proxies)
    return client_address(peer[0], request.headers.getall(FORWARDED_FOR, []), networks)


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the nearest address that no trusted proxy has.

    Args:
        peer: The other end of the connection.
        forwarded: All `X-Forwarded-For` values; each proxy adds the address that it saw at the end.
        trusted: Whose word counts. What stands before the first stranger, anybody could have written.
    """
    address = _parse(peer)
    if address is None:
        return peer
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    while hops and any(address in network for network in trusted):
        hop = _parse(hops.pop())
        if hop is None:
            break
        address = hop
    return str(address)


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=8)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)
