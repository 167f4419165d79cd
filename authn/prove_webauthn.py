"""Somebody proves with a security key that they hold an authenticator of an account."""

import secrets
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from authn.account_flows import can_be_mailed, tell
from authn.challenges import Challenge
from authn.credential_failures import forgive_tries, take_try
from authn.errors import UserStorageUnavailableError
from authn.factors import FactorKind, FactorMethod, FactorOutcome, FactorProven, FactorWrong, counter_of
from authn.mail_queue import waiting_mails
from authn.mails import MailKind
from authn.relying_party import RelyingParty
from authn.tries import TryTaken
from authn.user_rows import read_user
from authn.webauthn_keys import (
    CHALLENGE_BYTES,
    Asserted,
    named_credential,
    request_options,
    verify_assertion,
)
from authn.webauthn_storage import StoredKey, count_on, list_keys
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.errors import DatabaseUnavailableError
from tenancy.key_ring import KeyRing
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

AMR = ("hwk", "mfa")
KEPT = "webauthn"
"""Under which name a challenge keeps the bytes that a key must sign."""
MAX_NOTICES = 3
"""Notices of one account that wait at once."""


class WebauthnProofs:
    """Judges assertions of security keys: a `SecondFactor`."""

    method = FactorMethod.WEBAUTHN

    def __init__(
        self, sessions: Sessions, ring: KeyRing, party: RelyingParty, *, limits: TenantLimits | None = None
    ) -> None:
        """Keep where units of work come from, what seals notices, to whom keys are bound, and the platform's bounds."""
        self._sessions = sessions
        self._ring = ring
        self._party = party
        self._limits = limits

    async def options(self, challenge: Challenge) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return request options for the account's keys, and fresh bytes that one of them must sign.

        Raises:
            UserStorageUnavailableError: PostgreSQL did not answer.
        """
        try:
            async with tenant_unit_of_work(self._sessions, challenge.tenant_id) as work:
                keys = await list_keys(work, challenge.user_id)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error
        nonce = secrets.token_bytes(CHALLENGE_BYTES)
        options = request_options(self._party, challenge=nonce, present=[stored.key for stored in keys])
        return options, {KEPT: nonce}

    async def prove(self, challenge: Challenge, given: str | Mapping[str, Any], *, meta: ChangeMeta) -> FactorOutcome:
        """Judge an assertion; see `SecondFactor`. Trying, judging and counting on are one transaction."""
        name = named_credential(given) if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or name is None:
            return FactorWrong()
        try:
            async with tenant_unit_of_work(self._sessions, challenge.tenant_id) as work:
                keys = await list_keys(work, challenge.user_id)
                stored = next((one for one in keys if one.key.credential_id == name), None)
                if stored is None:
                    return FactorWrong()
                return await self._judge(work, challenge, stored, given, meta=meta)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _judge(
        self,
        work: TenantUnitOfWork,
        challenge: Challenge,
        stored: StoredKey,
        given: Mapping[str, Any],
        *,
        meta: ChangeMeta,
    ) -> FactorOutcome:
        user_id, nonce = challenge.user_id, challenge.data.get(KEPT)
        counter = counter_of(FactorKind.WEBAUTHN, stored.id, challenge.device_id)
        limits = (await read_settings(work, self._limits)).sign_in
        taken = await take_try(work, user_id, limits, authenticator=counter)
        if not isinstance(taken, TryTaken):
            return taken
        if not isinstance(nonce, bytes):  # nobody asked for options
            return FactorWrong()
        outcome = verify_assertion(self._party, given, challenge=nonce, key=stored.key, user_id=user_id)
        if not isinstance(outcome, Asserted):
            return FactorWrong()
        if not await count_on(work, user_id, stored.id, outcome.sign_count):
            await self._tell_of_copy(work, user_id, stored.id, meta)
            return FactorWrong()
        await forgive_tries(work, user_id, authenticator=counter)
        return FactorProven(AMR, counter)

    async def _tell_of_copy(
        self, work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID, meta: ChangeMeta
    ) -> None:
        """Tell of a key whose signature is right and whose counter did not grow: most likely there are two of it."""
        held = await read_user(work, user_id)
        if held is None:
            return
        detail = {"authenticator": str(authenticator_id)}
        entry = AuditEntry("factor.counter", held.user.ref, AuditOutcome.REFUSED, detail=detail)
        await append_audit(work, meta, [entry])
        if can_be_mailed(held) and await waiting_mails(work, user_id, MailKind.SECURITY_KEY_COPIED) < MAX_NOTICES:
            await tell(work, self._ring, MailKind.SECURITY_KEY_COPIED, held)
