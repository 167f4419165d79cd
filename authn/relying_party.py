"""Whose keys a deployment's are: RP id and origins (W3C Web Authentication Level 3, sections 4 and 13.4.9)."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

LOCAL = "localhost"
_ORIGIN = re.compile(r"(https?)://([^/?#@:\[\]\s]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?\Z")
_USUAL = {"http": "80", "https": "443"}
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")


class UserVerification(StrEnum):
    """Whether a key must ask for a PIN or a fingerprint of its own, beside being touched (section 5.8.6)."""

    REQUIRED = "required"
    PREFERRED = "preferred"
    DISCOURAGED = "discouraged"


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """To whom keys are bound.

    Attributes:
        id: The domain that keys are made for; they work on its subdomains, too, and nowhere else.
        name: What a browser shows while it asks for a key.
        origins: `https://login.example:8443`: the pages that may ask for one, compared as they are.
        user_verification: What is asked of keys.
    """

    id: str
    name: str
    origins: tuple[str, ...]
    user_verification: UserVerification = UserVerification.PREFERRED


def origin_fault(origin: str) -> str | None:
    """Return why no browser would name `origin` in an answer of a key, or None.

    A browser offers keys to secure contexts alone: `https://`, or this machine under its name. An address by number is
    no domain, so that no RP id fits to it (section 5.1.3, step 8).
    """
    found = _ORIGIN.match(origin)
    if found is None or found[3] == _USUAL[found[1]]:
        return "is no origin as browsers write it (scheme, name in lower case, port unless it is the scheme's)"
    scheme, host = found[1], host_of(origin)
    if _is_address(host) or _DOMAIN.match(host) is None:
        return "must name its host by a domain name"
    if scheme == "http" and not _is_local(host):
        return "must begin with `https://`: browsers offer keys to nothing else but `http://localhost`"
    return None


def rp_id_fault(rp_id: str, origins: tuple[str, ...]) -> str | None:
    """Return why keys for `rp_id` cannot be used on one of `origins`, or None."""
    if _DOMAIN.match(rp_id) is None or _is_address(rp_id):
        return "must be a domain name in lower case, without scheme and port"
    for origin in origins:
        host = host_of(origin)
        if host != rp_id and not host.endswith(f".{rp_id}"):
            return f"`{rp_id}` is neither the host of `{origin}` nor a domain above it"
        if host != rp_id and "." not in rp_id and not _is_local(host):
            return f"`{rp_id}` is a domain of everybody's"
    return None


def host_of(origin: str) -> str:
    """Return the host of an origin."""
    found = _ORIGIN.match(origin)
    return "" if found is None else found[2].strip("[]")


def origin_at(scheme: str, host: str, port: int | None) -> str:
    """Return the origin of a server, with this machine by its name where the host is its loopback address."""
    if _is_address(host) and ip_address(host).is_loopback:
        host = LOCAL
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port is None or str(port) == _USUAL.get(scheme) else f"{scheme}://{shown}:{port}"


def _is_local(host: str) -> bool:
    return host == LOCAL or host.endswith(f".{LOCAL}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
