"""Somebody who lost their authenticators proves with a recovery code who they are; they are told of it by mail."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from authn.account_flows import tell
from authn.challenges import Challenge
from authn.credential_failures import forgive_tries, take_try
from authn.errors import UserStorageUnavailableError
from authn.factors import RECOVERY, FactorMethod, FactorOutcome, FactorProven, FactorWrong
from authn.mails import MailKind
from authn.recovery_code_storage import codes_left, spend_code
from authn.recovery_codes import read_recovery_code
from authn.tries import TryTaken, counter_from
from authn.user_rows import read_user
from authn.users import subject_ref
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.errors import DatabaseUnavailableError
from tenancy.key_ring import KeyRing
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

AMR = ("mfa",)
"""RFC 8176 has no word for a code that was kept; several factors were used, and no more is said."""


class RecoveryCodeProofs:
    """Judges recovery codes: a `SecondFactor`. Who uses one must enrol or confirm authenticators next."""

    method = FactorMethod.RECOVERY_CODE

    def __init__(self, sessions: Sessions, ring: KeyRing, *, limits: TenantLimits | None = None) -> None:
        """Keep where units of work come from, what seals notices, and the platform's bounds on settings."""
        self._sessions = sessions
        self._ring = ring
        self._limits = limits

    async def options(self, challenge: Challenge) -> tuple[Mapping[str, Any], Mapping[str, Any]]:  # noqa: ARG002 - port
        """Return nothing: a code is typed."""
        return {}, {}

    async def prove(self, challenge: Challenge, given: str | Mapping[str, Any], *, meta: ChangeMeta) -> FactorOutcome:
        """Judge and spend a code in one transaction; see `SecondFactor`."""
        code = read_recovery_code(given) if isinstance(given, str) else None
        try:
            async with tenant_unit_of_work(self._sessions, challenge.tenant_id) as work:
                return await self._judge(work, challenge, code, meta)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _judge(
        self, work: TenantUnitOfWork, challenge: Challenge, code: bytes | None, meta: ChangeMeta
    ) -> FactorOutcome:
        user_id = challenge.user_id
        counter = counter_from(challenge.device_id, RECOVERY)
        held = await read_user(work, user_id)
        if held is None:
            return FactorWrong()
        limits = (await read_settings(work, self._limits)).sign_in
        taken = await take_try(work, user_id, limits, authenticator=counter)
        if not isinstance(taken, TryTaken):
            return taken
        if code is None or not await spend_code(work, user_id, code):
            return FactorWrong()
        await forgive_tries(work, user_id, authenticator=counter)
        await tell(work, self._ring, MailKind.RECOVERY_CODE_USED, held)
        entry = AuditEntry("factor.recover", subject_ref(user_id), detail={"left": await codes_left(work, user_id)})
        await append_audit(work, replace(meta, actor=subject_ref(user_id)), [entry])
        return FactorProven(AMR, counter, must_enrol=True)
