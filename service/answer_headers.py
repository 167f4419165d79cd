"""What every answer carries, whatever it is: nothing of it is kept, framed, sniffed, or told to other sites.

Sources: OWASP ASVS 5.0 section 3.4 and 14.3.2; RFC 6797 section 7.2 (HSTS is said over TLS only).
"""

from collections.abc import Mapping
from functools import lru_cache

from aiohttp import web

from service.keys import HTTP_SETTINGS, REQUEST_ID

HSTS = "max-age=63072000; includeSubDomains"

CLOSED: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Server": "kasbah",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""Unless an answer says otherwise: public documents may be cached, pages have a style."""


@lru_cache(maxsize=8)
def closed_under(public_url: str) -> Mapping[str, str]:
    """Return `CLOSED`, with HSTS where the service is reached over TLS."""
    return {**CLOSED, "Strict-Transport-Security": HSTS} if public_url.startswith("https://") else CLOSED


def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set what every answer carries. A streaming handler calls this before it prepares its response."""
    headers = response.headers
    headers["X-Request-ID"] = request[REQUEST_ID]
    for name, value in closed_under(request.app[HTTP_SETTINGS].public_url).items():
        headers.setdefault(name, value)
