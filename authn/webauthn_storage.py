"""Rows of security keys, within the transaction of whoever calls; `factor_storage` has what all authenticators have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError

from authn.errors import SecurityKeyTakenError
from authn.webauthn_keys import KnownKey, NewKey
from tenancy.unit_of_work import TenantUnitOfWork

_MINE = "tenant_id = :tenant_id AND user_id = :user_id AND kind = 'webauthn'"
_COLUMNS = "authenticator_id, credential_id, public_key, transports"
_BOUND = text(f"SELECT {_COLUMNS} FROM authenticators WHERE {_MINE} ORDER BY authenticator_id")  # noqa: S608 - constants
_USABLE = text(
    f"SELECT {_COLUMNS} FROM authenticators WHERE {_MINE} "  # noqa: S608 - constants of this file
    "AND confirmed_at IS NOT NULL AND disabled_at IS NULL ORDER BY authenticator_id"
)
_INSERT = text(
    "INSERT INTO authenticators (tenant_id, user_id, authenticator_id, kind, name, credential_id, public_key, "
    "sign_count, transports, confirmed_at) VALUES (:tenant_id, :user_id, :authenticator_id, 'webauthn', :name, "
    ":credential_id, :public_key, :sign_count, :transports, clock_timestamp())"
)
_COUNT_ON = text(
    "UPDATE authenticators SET sign_count = :sign_count, last_used_at = clock_timestamp() "  # noqa: S608 - as above
    f"WHERE {_MINE} AND authenticator_id = :authenticator_id AND confirmed_at IS NOT NULL AND disabled_at IS NULL "
    "AND (sign_count < :sign_count OR (sign_count = 0 AND :sign_count = 0)) RETURNING 1"
)
_TAKEN = "authenticators_credential_id_key"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A security key of an account; `id` is the authenticator's."""

    id: UUID
    key: KnownKey


async def list_keys(work: TenantUnitOfWork, user_id: UUID, *, disabled: bool = False) -> Sequence[StoredKey]:
    """Return the security keys of an account that may prove something; with `disabled`, all that it has."""
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    return [_key(row) for row in await work.session.execute(_BOUND if disabled else _USABLE, named)]


async def insert_key(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID, *, name: str, key: NewKey) -> None:
    """Bind a security key that proved itself. The account is locked.

    Raises:
        SecurityKeyTakenError: an account of the tenant has it (W3C Web Authentication section 7.1, step 26).
    """
    parameters: dict[str, Any] = {
        "tenant_id": work.tenant_id,
        "user_id": user_id,
        "authenticator_id": authenticator_id,
        "name": name,
        "credential_id": key.credential_id,
        "public_key": key.public_key,
        "sign_count": key.sign_count,
        "transports": list(key.transports),
    }
    try:
        await work.session.execute(_INSERT, parameters)
    except IntegrityError as error:
        if getattr(getattr(error.orig, "diag", None), "constraint_name", None) != _TAKEN:
            raise
        raise SecurityKeyTakenError("the key is bound to an account already") from error


async def count_on(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID, sign_count: int) -> bool:
    """Accept a counter that grew, or that never counts; whether it did.

    INVARIANT: one statement compares and writes, so that of two assertions with one count, on however many nodes, one
    is accepted (W3C Web Authentication section 6.1.1).
    """
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "authenticator_id": authenticator_id}
    return (await work.session.execute(_COUNT_ON, named | {"sign_count": sign_count})).one_or_none() is not None


def _key(row: Row[Any]) -> StoredKey:
    known = KnownKey(bytes(row.credential_id), bytes(row.public_key), tuple(row.transports))
    return StoredKey(row.authenticator_id, known)
