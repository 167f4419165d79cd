"""Identifiers of tenants. The UUID goes into keys, MACs, cursors and claims; the slug is what people write."""

import re
from enum import StrEnum
from typing import NewType
from uuid import UUID

TenantId = NewType("TenantId", UUID)
Slug = NewType("Slug", str)

BASE_TENANT_ID = TenantId(UUID("00000000-0000-7000-8000-000000000001"))
"""Owner of the base rows (`dom` = `*`); slug `_base`. Every tenant may read its rows, only the platform writes them."""

PLATFORM_TENANT_ID = TenantId(UUID("00000000-0000-7000-8000-000000000002"))
PLATFORM_SLUG = "_platform"
"""The platform itself; slug `_platform`. Platform keys belong to it."""

SLUG_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
RESERVED_SLUGS = frozenset({"admin", "api", "base", "kasbah", "login", "platform", "public", "static", "system", "www"})
"""No directory of policies and no tenant has these names."""

NEVER_GIVEN = RESERVED_SLUGS | frozenset(
    {"access", "account", "accounts", "assets", "auth", "autoconfig", "autodiscover", "cdn", "dns", "ftp", "healthz"}
    | {"hydra", "identity", "imap", "internal", "isatap", "localhost", "mail", "metrics", "mta-sts", "mx", "ns"}
    | {"oauth", "oidc", "openid", "pop", "readyz", "root", "security", "signin", "signup", "smtp", "sso"}
    | {"well-known", "wpad"}
)
"""Nor is a new tenant called so: as a subdomain it would pose as the platform, or be found by clients on their own."""

_POSED_AS = frozenset({"accounts", "admin", "kasbah", "login", "platform", "security", "signin", "system"})
"""What a name with digits for letters could be taken for, and nobody's product or region is called."""

_LOOK_ALIKE = str.maketrans("013457l", "oieasti")
_DIGITS_ONLY = re.compile(r"[0-9-]+\Z")
_LIKE_A_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\Z")


class TenantStatus(StrEnum):
    """Life cycle of a tenant."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETING = "deleting"
    """Suspended, and removed once its grace is over."""
    DELETED = "deleted"


class InvalidSlugError(ValueError):
    """A slug that cannot name a tenant."""


def parse_slug(text: str) -> Slug:
    """Return `text` as a slug: a lower-case DNS label that is not reserved.

    Raises:
        InvalidSlugError: anything else.
    """
    if SLUG_PATTERN.match(text) is None:
        raise InvalidSlugError(f"`{text}` is not a slug: 1 to 63 of a-z, 0-9 and `-`, not at the ends")
    if text in RESERVED_SLUGS:
        raise InvalidSlugError(f"`{text}` is reserved")
    return Slug(text)


def parse_new_slug(text: str) -> Slug:
    """Return `text` as the slug of a tenant to come: stricter than `parse_slug`, which knows those that are there.

    Raises:
        InvalidSlugError: no slug; one that poses as the platform, also written with digits for letters; one that
            people or programs would read as an id, a number or an address.
    """
    slug = parse_slug(text)
    # SECURITY: hyphens at the third and fourth place mark encoded labels (RFC 5891 section 4.2.3.1): `xn--…` is shown
    # as letters of other scripts, and can look like any other name.
    if text[2:4] == "--":
        raise InvalidSlugError(f"`{text}` would be an encoded name: no `--` at the third place")
    if _DIGITS_ONLY.match(text) is not None:
        raise InvalidSlugError(f"`{text}` would be read as a number: have a letter in it")
    if _LIKE_A_UUID.match(text) is not None:
        raise InvalidSlugError(f"`{text}` would be read as an id")
    if text in NEVER_GIVEN or _skeleton(text) in _POSED_AS_SKELETONS:
        raise InvalidSlugError(f"`{text}` is reserved, or looks like what is")
    return slug


def _skeleton(text: str) -> str:
    """Return what is left of a name when look-alikes are one character."""
    return text.translate(_LOOK_ALIKE)


_POSED_AS_SKELETONS = frozenset(_skeleton(slug) for slug in _POSED_AS)
