"""Something new is bound to an account: the port of each kind, and the kind that is a shared secret."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Protocol
from uuid import UUID

import segno
from sqlalchemy import text

from authn.factor_storage import confirm_authenticator, find_authenticator, find_totp, insert_totp, require_room
from authn.factors import PENDING_LIFETIME, Authenticator, FactorKind, FactorProven, FactorWrong
from authn.mail_queue import Seals
from authn.prove_totp import TotpJudge
from authn.totp import SECRET_BYTES, provisioning_uri, read_code, secret_text
from authn.tries import LockedOut, MustWait
from authn.users import StoredUser
from tenancy.encrypted_columns import TOTP_SECRETS
from tenancy.settings_storage import read_settings
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

_NAME = text("SELECT display_name FROM tenants WHERE tenant_id = :tenant_id")


class NewFactor(Protocol):
    """How one kind of authenticator is bound, in two steps. The caller holds the tenant's lock and the account's."""

    @property
    def kind(self) -> FactorKind:
        """Which."""

    async def begin(
        self, work: TenantUnitOfWork, held: StoredUser, name: str
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return what the client needs, told once, and what is to be kept for the second step.

        Raises:
            FactorLimitExceededError: the account has as many as it may.
        """

    async def finish(
        self, work: TenantUnitOfWork, held: StoredUser, kept: Mapping[str, Any], given: str | Mapping[str, Any]
    ) -> Authenticator | FactorWrong | MustWait | LockedOut:
        """Judge the first proof with it, and bind it when that is right. The caller commits also what is refused."""


class NewTotp:
    """`NewFactor` of time-based authenticators: the first code confirms that both sides have the same secret."""

    kind = FactorKind.TOTP

    def __init__(self, ring: Seals, *, limits: TenantLimits | None = None) -> None:
        """Keep what seals secrets, and the platform's bounds on settings."""
        self._ring = ring
        self._limits = limits

    async def begin(
        self, work: TenantUnitOfWork, held: StoredUser, name: str
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Make a secret; it is shown in this answer and never again."""
        user = held.user
        await require_room(work, user.id)
        now = datetime.now(UTC)
        authenticator_id, secret = make_uuid7(now, secrets.token_bytes(10)), secrets.token_bytes(SECRET_BYTES)
        sealed = await self._ring.seal(work, TOTP_SECRETS.place([user.id, authenticator_id]), secret)
        await insert_totp(work, user.id, authenticator_id, name=name, sealed=sealed)
        settings = await read_settings(work, self._limits)
        issuer = (await work.session.execute(_NAME, {"tenant_id": work.tenant_id})).scalar_one()
        uri = provisioning_uri(secret, account=user.username or str(user.id), issuer=settings.branding.name or issuer)
        shown = {
            "id": str(authenticator_id),
            "secret": secret_text(secret),
            "uri": uri,
            "qr_svg": qr_svg(uri),
            "expires_at": now + PENDING_LIFETIME,
        }
        return shown, {"authenticator": str(authenticator_id)}

    async def finish(
        self, work: TenantUnitOfWork, held: StoredUser, kept: Mapping[str, Any], given: str | Mapping[str, Any]
    ) -> Authenticator | FactorWrong | MustWait | LockedOut:
        """Judge a code, which spends its step; `kept` names an authenticator, which may be bound already."""
        user_id, authenticator_id = held.user.id, UUID(kept["authenticator"])
        stored = await find_totp(work, user_id, authenticator_id)
        if stored is None:
            return FactorWrong()
        limits = (await read_settings(work, self._limits)).sign_in
        code = read_code(given) if isinstance(given, str) else None
        outcome = await TotpJudge(work, self._ring, user_id, limits).judge([stored], code)
        if not isinstance(outcome, FactorProven):
            return outcome
        confirmed = await confirm_authenticator(work, user_id, authenticator_id)
        return confirmed or await find_authenticator(work, user_id, authenticator_id) or FactorWrong()


def qr_svg(uri: str) -> str:
    """Return a QR code as an SVG document: paths alone, nothing of the text stands in it as text."""
    out = BytesIO()
    segno.make(uri, error="m", micro=False).save(out, kind="svg", scale=4, xmldecl=False, nl=False)
    return out.getvalue().decode()
