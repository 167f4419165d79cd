"""Codes that are mailed during an enrolment: who types one reads the account's verified address, and knows a password.

Eight digits, for ten minutes, five tries, once. A code is bound to the account's `auth_epoch`, as links are.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from authn.mail_queue import Seals
from authn.throttles import Limit, count_attempt
from authn.users import StoredUser
from tenancy.encrypted_columns import ENROLMENT_CODES
from tenancy.unit_of_work import TenantUnitOfWork

DIGITS = 8
LIFETIME = timedelta(minutes=10)
MAX_TRIES = 5
MAIL_LIMIT = Limit("enrolment-code", 5, timedelta(hours=1))
"""Mails to one account; with five tries each, guessing finds one of a hundred million codes in centuries."""

_MINE = "tenant_id = :tenant_id AND user_id = :user_id"
_ISSUE = text(
    "INSERT INTO enrolment_codes (tenant_id, user_id, sealed, auth_epoch, expires_at) "
    "VALUES (:tenant_id, :user_id, :sealed, :auth_epoch, clock_timestamp() + :lifetime) "
    "ON CONFLICT (tenant_id, user_id) DO UPDATE SET sealed = excluded.sealed, auth_epoch = excluded.auth_epoch, "
    "tries = 0, expires_at = excluded.expires_at RETURNING expires_at"
)
_TRY = text(
    f"UPDATE enrolment_codes SET tries = tries + 1 WHERE {_MINE} AND tries < {MAX_TRIES} "  # noqa: S608 - constants
    "AND expires_at > clock_timestamp() AND auth_epoch = :auth_epoch RETURNING sealed"
)
_SPEND = text(f"DELETE FROM enrolment_codes WHERE {_MINE}")  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """A code to be mailed."""

    code: str
    expires_at: datetime

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return "EnrolmentCode(...)"


async def issue_enrolment_code(work: TenantUnitOfWork, ring: Seals, held: StoredUser) -> EnrolmentCode | timedelta:
    """Make a code in place of any other of the account; or return how long to wait, when there were too many.

    The caller holds the account's lock, and commits also what is refused.
    """
    user_id = held.user.id
    wait = await count_attempt(work, MAIL_LIMIT, str(user_id))
    if wait is not None:
        return wait
    code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "auth_epoch": held.auth_epoch, "lifetime": LIFETIME}
    sealed = await ring.seal(work, ENROLMENT_CODES.place([user_id]), code.encode())
    expires_at = (await work.session.execute(_ISSUE, named | {"sealed": sealed})).scalar_one()
    return EnrolmentCode(code, expires_at)


async def spend_enrolment_code(work: TenantUnitOfWork, ring: Seals, held: StoredUser, given: str) -> bool:
    """Judge a code and spend it when it is right. The caller commits also what is refused: the try counts.

    SECURITY: the row is locked from the try to the commit, so codes are judged one after the other.
    """
    user_id = held.user.id
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    sealed = (await work.session.execute(_TRY, named | {"auth_epoch": held.auth_epoch})).scalar_one_or_none()
    if sealed is None:
        return False
    code = await ring.open(work, ENROLMENT_CODES.place([user_id]), bytes(sealed))
    if not hmac.compare_digest(code, given.replace(" ", "").encode("utf-8", "surrogatepass")):
        return False
    await work.session.execute(_SPEND, named)
    return True
