"""An authenticator is bound to an account: what that changes besides, whoever asked for it and however."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import text

from authn.account_flows import AccountFlows, tell
from authn.factors import Authenticator, FactorKind
from authn.mails import MailKind
from authn.prove_totp import AMR as TOTP_AMR
from authn.prove_webauthn import AMR as WEBAUTHN_AMR
from authn.recovery_code_storage import codes_left, renew_codes
from authn.session_rows import end_all_rows
from authn.users import StoredUser
from tenancy.audit import AuditEntry, SealedPersonal
from tenancy.heads import raise_head, record_change
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork

PROVES: Mapping[FactorKind, tuple[str, ...]] = {FactorKind.TOTP: TOTP_AMR, FactorKind.WEBAUTHN: WEBAUTHN_AMR}
"""What the first proof with an authenticator adds to the password, as every later one does."""

_MARK = text(
    "UPDATE users SET factors_bound_at = coalesce(factors_bound_at, clock_timestamp()), enrolment_demanded = false "
    "WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING auth_epoch"
)


@dataclass(frozen=True, slots=True)
class Bound:
    """It is bound, and all sign-ins ended. `held` is the account afterwards.

    `recovery_codes` are new ones, told once; empty where those that the account has go on working.
    """

    head: TenantHead
    held: StoredUser
    authenticator: Authenticator
    recovery_codes: tuple[str, ...]

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return f"Bound({self.authenticator.id})"


async def bind(
    work: TenantUnitOfWork,
    flows: AccountFlows,
    held: StoredUser,
    authenticator: Authenticator,
    *,
    meta: ChangeMeta,
    renew: bool = False,
) -> Bound:
    """Let an authenticator count that was proven in this transaction; its person is told by mail.

    Args:
        work: Holds the tenant's lock and the account's.
        flows: What seals.
        held: The account as it was when its lock was taken.
        authenticator: As `NewFactor.finish` returned it, or one that was proven again.
        meta: Who, from where.
        renew: Give new recovery codes, also when there are some left: one of them was used.
    """
    user = held.user
    await end_all_rows(work, user.id)
    epoch = (await work.session.execute(_MARK, {"tenant_id": work.tenant_id, "user_id": user.id})).scalar_one()
    codes = () if not renew and await codes_left(work, user.id) else await renew_codes(work, user.id)
    await tell(work, flows.ring, MailKind.FACTOR_CHANGED, held)
    head = await raise_head(work)
    entry = await factor_entry(work, flows, "factor.enrol", held, authenticator)
    entries = [entry, AuditEntry("factor.recovery_codes", user.ref)] if codes else [entry]
    await record_change(work.session, head, "user", meta, audit=entries, touched=[user.ref])
    return Bound(head, replace(held, auth_epoch=epoch), authenticator, codes)


async def factor_entry(
    work: TenantUnitOfWork, flows: AccountFlows, action: str, held: StoredUser, authenticator: Authenticator
) -> AuditEntry:
    """Return what the audit says of a change of an authenticator; the name that its person gave it is personal."""
    personal: SealedPersonal = await flows.ring.seal_personal(work, held.user.id, {"name": authenticator.name})
    detail = {"authenticator": str(authenticator.id), "kind": authenticator.kind.value}
    return AuditEntry(action, held.user.ref, personal=personal, detail=detail)
