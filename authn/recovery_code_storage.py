"""Rows of recovery codes, within the transaction of whoever calls."""

import secrets
from uuid import UUID

from sqlalchemy import text

from authn.recovery_codes import CODE_BYTES, CODES, code_text, hash_recovery_code
from tenancy.unit_of_work import TenantUnitOfWork

_REMOVE = text("DELETE FROM recovery_codes WHERE tenant_id = :tenant_id AND user_id = :user_id")
_INSERT = text(
    "INSERT INTO recovery_codes (tenant_id, user_id, code_hash) "
    "SELECT :tenant_id, :user_id, unnest(CAST(:hashes AS bytea[]))"
)
_SPEND = text(
    "UPDATE recovery_codes AS r SET spent_at = clock_timestamp() WHERE r.tenant_id = :tenant_id "
    "AND r.user_id = :user_id AND r.code_hash = :code_hash AND r.spent_at IS NULL AND EXISTS (SELECT FROM "
    "authenticators AS a WHERE a.tenant_id = r.tenant_id AND a.user_id = r.user_id AND a.confirmed_at IS NOT NULL) "
    "RETURNING 1"
)
_LEFT = text(
    "SELECT count(*) FROM recovery_codes WHERE tenant_id = :tenant_id AND user_id = :user_id AND spent_at IS NULL"
)


async def renew_codes(work: TenantUnitOfWork, user_id: UUID) -> tuple[str, ...]:
    """Give an account ten new codes in place of all it had, and return them: they are stored hashed, and shown once.

    The caller holds the tenant's lock and the account's.
    """
    fresh = [secrets.token_bytes(CODE_BYTES) for _ in range(CODES)]
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    await work.session.execute(_REMOVE, named)
    await work.session.execute(_INSERT, named | {"hashes": [hash_recovery_code(code) for code in fresh]})
    return tuple(code_text(code) for code in fresh)


async def drop_codes(work: TenantUnitOfWork, user_id: UUID) -> None:
    """End all codes of an account that has nothing to recover any more."""
    await work.session.execute(_REMOVE, {"tenant_id": work.tenant_id, "user_id": user_id})


async def spend_code(work: TenantUnitOfWork, user_id: UUID, code: bytes) -> bool:
    """Spend a code of an account that has an authenticator to recover from; whether it was good.

    INVARIANT: one statement decides and writes, so that of any number at once one succeeds.
    """
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "code_hash": hash_recovery_code(code)}
    return (await work.session.execute(_SPEND, named)).one_or_none() is not None


async def codes_left(work: TenantUnitOfWork, user_id: UUID) -> int:
    """Return how many codes an account has to spend."""
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    return int((await work.session.execute(_LEFT, named)).scalar_one())
