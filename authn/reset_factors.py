"""Administrators look at the second factors of others, revoke one, and reset all: for who lost what they had.

SECURITY: a reset never makes the password enough. From then on nobody is signed in to the account before a new
authenticator is bound, and that takes the password and the ticket that was mailed to the verified address. Password
and factors are never both reset within a day, so that a mailbox alone does not take an account over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import text

from authn.account_flows import BOTH_FACTORS_WAIT, AccountFlows, can_be_mailed, holder_of, tell
from authn.address_changes import may_be_taken_back
from authn.enrol_factor import factor_entry
from authn.errors import UserNotFoundError, UserStorageUnavailableError
from authn.factor_storage import (
    find_authenticator,
    forget_factors,
    list_authenticators,
    read_factors,
    remove_authenticator,
)
from authn.factors import Authenticator, Factors
from authn.known_devices import forget_trusted_devices
from authn.links import LinkPurpose, issue_link
from authn.mail_queue import queue_mail
from authn.mail_texts import moment_text
from authn.mails import Mail, MailKind
from authn.recovery_code_storage import drop_codes
from authn.session_rows import end_all_rows
from authn.throttles import Limit, count_attempt
from authn.user_rows import lock_user, read_user
from authn.users import StoredUser, UserStatus
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

RESET_LIMIT = Limit("factor-reset-account", 3, timedelta(hours=1))

_MINE = "tenant_id = :tenant_id AND user_id = :user_id"
_DEMAND = text(f"UPDATE users SET enrolment_demanded = true WHERE {_MINE} RETURNING auth_epoch")  # noqa: S608
_MARK = text(f"UPDATE users SET factors_reset_at = clock_timestamp() WHERE {_MINE}")  # noqa: S608 - constants
_PASSWORD_RESET_LATELY = text(
    f"SELECT password_reset_at > clock_timestamp() - :wait FROM users WHERE {_MINE}"  # noqa: S608 - constants
)


class NoFactorReset(StrEnum):
    """Why factors were not reset. Told to administrators, who may read the account anyway."""

    NOTHING = "no_factors"
    UNVERIFIED = "no_verified_address"
    NEW_ADDRESS = "address_changed_lately"
    PASSWORD = "password_was_reset_within_a_day"  # noqa: S105 - a reason
    THROTTLED = "throttled"


@dataclass(frozen=True, slots=True)
class FactorsReset:
    """The authenticators are gone, all sign-ins ended, and a ticket is on its way."""

    head: TenantHead


@dataclass(frozen=True, slots=True)
class NotReset:
    """Nothing changed."""

    reason: NoFactorReset


class FactorAdministration:
    """Looks after the factors of other people's accounts. The edge asks for power over the account.

    Every method raises `UserNotFoundError`, for a deleted account too, and `UserStorageUnavailableError`.
    """

    def __init__(self, flows: AccountFlows) -> None:
        """Keep where units of work come from, and what seals."""
        self._flows = flows

    async def look(self, tenant_id: TenantId, user_id: UUID) -> tuple[Sequence[Authenticator], Factors]:
        """Return what is bound to an account, and what that can prove."""
        try:
            async with tenant_unit_of_work(self._flows.sessions, tenant_id) as work:
                held = await read_user(work, user_id)
                if held is None or held.user.status is UserStatus.DELETED:
                    raise UserNotFoundError
                return await list_authenticators(work, user_id), await read_factors(work, user_id)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def revoke(
        self, tenant_id: TenantId, user_id: UUID, authenticator_id: UUID, *, meta: ChangeMeta
    ) -> TenantHead | None:
        """End one authenticator, at once and on every node; None when the account has no such one.

        With the last one the recovery codes go, too, and nobody is signed in before a reset's ticket bound another.
        """
        try:
            async with tenant_unit_of_work(self._flows.sessions, tenant_id) as work:
                held = await _locked(work, user_id)
                found = await find_authenticator(work, user_id, authenticator_id)
                if found is None:
                    return None
                await remove_authenticator(work, user_id, authenticator_id)
                if found.confirmed_at is not None and not (await read_factors(work, user_id)).enrolled:
                    await drop_codes(work, user_id)
                    await work.session.execute(_DEMAND, _named(work, user_id))
                entry = await factor_entry(work, self._flows, "factor.revoke", held, found)
                return await self._changed(work, held, entry, meta)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def reset(self, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta) -> FactorsReset | NotReset:
        """End all authenticators and recovery codes, and mail a ticket that binds a new one beside the password."""
        try:
            async with tenant_unit_of_work(self._flows.sessions, tenant_id) as work:
                held = await _locked(work, user_id)
                reason = await self._why_not(work, held)
                if reason is not None:
                    detail = {"reason": reason.value}
                    entry = AuditEntry("factor.reset", held.user.ref, AuditOutcome.REFUSED, detail=detail)
                    await append_audit(work, meta, [entry])
                    return NotReset(reason)
                return FactorsReset(await self._reset(work, held, meta))
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _reset(self, work: TenantUnitOfWork, held: StoredUser, meta: ChangeMeta) -> TenantHead:
        user = held.user
        await forget_factors(work, user.id)
        await forget_trusted_devices(work, user.id)
        await end_all_rows(work, user.id)
        epoch = (await work.session.execute(_DEMAND, _named(work, user.id))).scalar_one()
        await work.session.execute(_MARK, _named(work, user.id))
        # The link is bound to the account as it is after this: what ends its sign-ins later, ends the ticket.
        ticket = await issue_link(work, LinkPurpose.FACTOR_RESET, holder=holder_of(replace(held, auth_epoch=epoch)))
        values = {
            "username": user.username or "",
            "when": moment_text(datetime.now(UTC)),
            "ticket": ticket.token,
            "until": moment_text(ticket.expires_at),
        }
        mail = Mail(MailKind.FACTORS_RESET, user.email or "", values, user.id, ticket.expires_at)
        await queue_mail(work, self._flows.ring, mail)
        head = await raise_head(work)
        await record_change(
            work.session, head, "user", meta, audit=[AuditEntry("factor.reset", user.ref)], touched=[user.ref]
        )
        return head

    async def _why_not(self, work: TenantUnitOfWork, held: StoredUser) -> NoFactorReset | None:
        if not (await read_factors(work, held.user.id)).ever_bound:
            return NoFactorReset.NOTHING
        if not can_be_mailed(held):
            return NoFactorReset.UNVERIFIED
        # SECURITY: whoever stole a password could else give the account an address of theirs, have somebody ask for a
        # reset, and get the ticket.
        if await may_be_taken_back(work, held.user.id):
            return NoFactorReset.NEW_ADDRESS
        named = _named(work, held.user.id) | {"wait": BOTH_FACTORS_WAIT}
        if (await work.session.execute(_PASSWORD_RESET_LATELY, named)).scalar_one_or_none():
            return NoFactorReset.PASSWORD
        if await count_attempt(work, RESET_LIMIT, str(held.user.id)) is not None:
            return NoFactorReset.THROTTLED
        return None

    async def _changed(
        self, work: TenantUnitOfWork, held: StoredUser, entry: AuditEntry, meta: ChangeMeta
    ) -> TenantHead:
        user = held.user
        await end_all_rows(work, user.id)
        await tell(work, self._flows.ring, MailKind.FACTOR_CHANGED, held)
        head = await raise_head(work)
        await record_change(work.session, head, "user", meta, audit=[entry], touched=[user.ref])
        return head


async def _locked(work: TenantUnitOfWork, user_id: UUID) -> StoredUser:
    held = None if await lock_head(work) is None else await lock_user(work, user_id)
    if held is None or held.user.status is UserStatus.DELETED:
        raise UserNotFoundError(f"the tenant has no account `{user_id}`")
    return held


def _named(work: TenantUnitOfWork, user_id: UUID) -> dict[str, object]:
    return {"tenant_id": work.tenant_id, "user_id": user_id}
