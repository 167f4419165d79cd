"""A security key is bound to an account: what its browser is asked, and what is stored of the answer."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from authn.factor_storage import require_room
from authn.relying_party import RelyingParty
from authn.users import User
from authn.webauthn_keys import CHALLENGE_BYTES, NewKey, WebauthnRefused, creation_options, verify_attestation
from authn.webauthn_storage import insert_key, list_keys
from tenancy.unit_of_work import TenantUnitOfWork


@dataclass(frozen=True, slots=True)
class KeyOffer:
    """What the browser is given, and the bytes in it that the new key must sign."""

    options: Mapping[str, Any]
    nonce: bytes


class SecurityKeyBinding:
    """Binds keys within the transaction of whoever calls, who holds the locks of the tenant and the account."""

    def __init__(self, party: RelyingParty) -> None:
        """Keep to whom keys are bound."""
        self._party = party

    async def offer(self, work: TenantUnitOfWork, user: User) -> KeyOffer:
        """Ask for a key that the account does not have yet.

        Raises:
            FactorLimitExceededError: the account has as many authenticators as it may have.
        """
        await require_room(work, user.id)
        present = await list_keys(work, user.id, disabled=True)
        nonce = secrets.token_bytes(CHALLENGE_BYTES)
        options = creation_options(
            self._party,
            user_id=user.id,
            username=user.username or user.email or str(user.id),
            display_name=user.display_name,
            challenge=nonce,
            present=[stored.key for stored in present],
        )
        return KeyOffer(options, nonce)

    async def bind(
        self,
        work: TenantUnitOfWork,
        user_id: UUID,
        authenticator_id: UUID,
        given: Mapping[str, Any],
        *,
        name: str,
        nonce: bytes,
    ) -> NewKey | WebauthnRefused:
        """Bind the key that answered, at once: it has signed, so it needs no confirmation.

        Raises:
            FactorLimitExceededError: others were bound meanwhile.
            SecurityKeyTakenError: an account of the tenant has it.
        """
        made = verify_attestation(self._party, given, challenge=nonce)
        if isinstance(made, NewKey):
            await require_room(work, user_id)
            await insert_key(work, user_id, authenticator_id, name=name, key=made)
        return made
