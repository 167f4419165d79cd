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
"""The platform itself; slug `_platform`. Platform keys belong to it."""

SLUG_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
RESERVED_SLUGS = frozenset({"admin", "api", "base", "kasbah", "login", "platform", "public", "static", "system", "www"})


class TenantStatus(StrEnum):
    """Life cycle of a tenant."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
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
