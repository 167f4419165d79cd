"""The first administrator's token: 256 random bits, stored as their SHA-256, for one use within a day.

Whoever can make one has the database's own credentials, and could read the tables anyway. There is no default account.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import text

from tenancy.unit_of_work import TenantUnitOfWork

ADMINISTRATOR = "role:platform-admin"
"""The role that the token's holder gets, in `_platform`."""

TOKEN_LIFE = timedelta(hours=24)
TOKEN_PATTERN = re.compile(r"kasbah-bootstrap_[A-Za-z0-9_-]{43}\Z")

_COUNT = "(SELECT count(*) FROM memberships WHERE tenant_id = :tenant_id AND role = :role)"
_MAKE = text(
    "INSERT INTO bootstrap_tokens (tenant_id, token_hash, administrators, expires_at) "  # noqa: S608 - constants
    f"VALUES (:tenant_id, :token_hash, {_COUNT}, clock_timestamp() + :life) RETURNING expires_at"
)
_GOOD = (
    "tenant_id = :tenant_id AND token_hash = :token_hash AND spent_at IS NULL AND expires_at > clock_timestamp() "
    f"AND administrators >= {_COUNT}"
)
_LOOK = text(f"SELECT 1 FROM bootstrap_tokens WHERE {_GOOD}")  # noqa: S608 - constants
_SPEND = text(
    f"UPDATE bootstrap_tokens SET spent_at = clock_timestamp() WHERE {_GOOD} RETURNING 1"  # noqa: S608 - constants
)
_ADMINISTRATED = text(f"SELECT {_COUNT} > 0 AS found")


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """A token as it is shown, once."""

    token: str = field(repr=False)
    expires_at: datetime


async def make_bootstrap_token(work: TenantUnitOfWork) -> BootstrapToken:
    """Store a new token; whoever calls is bound to the platform."""
    token = f"kasbah-bootstrap_{secrets.token_urlsafe(32)}"
    row = (await work.session.execute(_MAKE, _named(work, token) | {"life": TOKEN_LIFE})).one()
    return BootstrapToken(token, row.expires_at)


async def is_administrated(work: TenantUnitOfWork) -> bool:
    """Whether the platform has an administrator already."""
    found: bool = (await work.session.execute(_ADMINISTRATED, _named(work, ""))).one().found
    return found


async def is_good(work: TenantUnitOfWork, token: str) -> bool:
    """Whether a token would be taken, without spending it: what follows is costly."""
    if TOKEN_PATTERN.match(token) is None:
        return False
    return (await work.session.execute(_LOOK, _named(work, token))).one_or_none() is not None


async def spend_bootstrap_token(work: TenantUnitOfWork, token: str) -> bool:
    """Spend a token; false for one that is unknown, spent, expired, or overtaken by another administrator.

    The platform's lock is held, so that of two tokens that were made for the first administrator one is taken.
    """
    return (await work.session.execute(_SPEND, _named(work, token))).one_or_none() is not None


def _named(work: TenantUnitOfWork, token: str) -> dict[str, object]:
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    return {"tenant_id": work.tenant_id, "token_hash": digest, "role": ADMINISTRATOR}
