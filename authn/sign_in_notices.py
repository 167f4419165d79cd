"""What is told of sign-ins that failed: to the audit each, to the person what they must know. Never to who asked."""

from datetime import timedelta

from authn.account_flows import tell
from authn.mails import MailKind
from authn.sign_in import Reason, SignInRefused
from authn.throttles import Limit, count_attempt
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_batches import AuditBatches
from tenancy.audit_log import append_audit
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID
from tenancy.key_ring import KeyRing
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work

FACTOR_NOTICE = Limit("factor-notice", 1, timedelta(hours=1))
"""Mails of one account about a right password with a wrong factor."""


class SignInNotices:
    """Tells of failures, after they were answered: so that no answer waits for what only some of them need."""

    def __init__(self, sessions: Sessions, audit: AuditBatches, ring: KeyRing) -> None:
        """Keep where rows and events go, and what seals mails."""
        self._sessions = sessions
        self._audit = audit
        self._ring = ring

    async def tell(self, refused: SignInRefused, meta: ChangeMeta) -> bool:
        """Record a failure; return whether a mail was queued.

        Raises:
            AuditUnavailableError, DatabaseUnavailableError: it was not recorded, or nobody was told.
        """
        held = refused.held
        detail: dict[str, object] = {"reason": refused.reason.value, "method": refused.method}
        if refused.known_device:
            detail["device"] = "known"
        if refused.wait_until is not None:
            detail["wait_until"] = refused.wait_until.isoformat(timespec="seconds")
        target = None if held is None else held.user.ref
        # What belongs to no tenant stands in the platform's chain.
        tenant_id = PLATFORM_TENANT_ID if refused.tenant_id == BASE_TENANT_ID else refused.tenant_id
        entry = AuditEntry("sign_in.refuse", target, AuditOutcome.REFUSED, detail=detail)
        await self._audit.record(tenant_id, meta, entry)
        if held is None:
            return False
        if refused.locked:
            await self._locked(refused, meta)
            return True
        return refused.reason is Reason.WRONG_FACTOR and await self._wrong_factor(refused)

    async def _locked(self, refused: SignInRefused, meta: ChangeMeta) -> None:
        if refused.held is None:
            return
        async with tenant_unit_of_work(self._sessions, refused.tenant_id) as work:
            detail = {"method": refused.method, "device": "known" if refused.known_device else "unknown"}
            await append_audit(work, meta, [AuditEntry("sign_in.lock", refused.held.user.ref, detail=detail)])
            if not refused.known_device:
                await tell(work, self._ring, MailKind.SIGN_IN_LOCKED, refused.held)

    async def _wrong_factor(self, refused: SignInRefused) -> bool:
        if refused.held is None:
            return False
        async with tenant_unit_of_work(self._sessions, refused.tenant_id) as work:
            if await count_attempt(work, FACTOR_NOTICE, str(refused.held.user.id)) is not None:
                return False
            await tell(work, self._ring, MailKind.SIGN_IN_REFUSED, refused.held)
            return True
