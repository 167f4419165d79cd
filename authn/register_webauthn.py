"""A security key is bound to an account: what its browser is asked, and what is stored of the answer."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from authn.factor_storage import find_authenticator, require_room
from authn.factors import PENDING_LIFETIME, Authenticator, FactorKind, FactorWrong
from authn.relying_party import RelyingParty
from authn.users import StoredUser
from authn.webauthn_keys import CHALLENGE_BYTES, NewKey, creation_options, verify_attestation
from authn.webauthn_storage import insert_key, list_keys
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7


class NewSecurityKey:
    """How a security key is bound, in two steps; the caller holds the locks of the tenant and the account.

    Nothing stands in the table of authenticators before the key has answered: whoever calls keeps what `begin` says.
    """

    kind = FactorKind.WEBAUTHN

    def __init__(self, party: RelyingParty) -> None:
        """Keep to whom keys are bound."""
        self._party = party

    async def begin(
        self, work: TenantUnitOfWork, held: StoredUser, name: str
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return what `navigator.credentials.create` is given, for a key that the account does not have yet.

        Raises:
            FactorLimitExceededError: the account has as many authenticators as it may have.
        """
        user = held.user
        await require_room(work, user.id)
        present = await list_keys(work, user.id, disabled=True)
        now = datetime.now(UTC)
        authenticator_id, nonce = make_uuid7(now, secrets.token_bytes(10)), secrets.token_bytes(CHALLENGE_BYTES)
        options = creation_options(
            self._party,
            user_id=user.id,
            username=user.username or user.email or str(user.id),
            display_name=user.display_name,
            challenge=nonce,
            present=[stored.key for stored in present],
        )
        shown = {"id": str(authenticator_id), "public_key": options, "expires_at": now + PENDING_LIFETIME}
        return shown, {"authenticator": str(authenticator_id), "name": name, "nonce": nonce}

    async def finish(
        self, work: TenantUnitOfWork, held: StoredUser, kept: Mapping[str, Any], given: str | Mapping[str, Any]
    ) -> Authenticator | FactorWrong:
        """Bind the key that answered, at once: it has signed, so it needs no other confirmation.

        Raises:
            FactorLimitExceededError: others were bound meanwhile.
            SecurityKeyTakenError: an account of the tenant has it.
        """
        user_id, authenticator_id = held.user.id, UUID(kept["authenticator"])
        if not isinstance(given, Mapping):
            return FactorWrong()
        made = verify_attestation(self._party, given, challenge=kept["nonce"])
        if not isinstance(made, NewKey):
            return FactorWrong()
        await require_room(work, user_id)
        await insert_key(work, user_id, authenticator_id, name=kept["name"], key=made)
        return await find_authenticator(work, user_id, authenticator_id) or FactorWrong()
