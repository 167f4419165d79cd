"""Accounts with second factors, and what their people hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Any
from uuid import UUID, uuid4

from pyotp import TOTP, parse_uri

from authn.challenges import CHALLENGE_LIFE, Challenge, ChallengeStep
from authn.factor_storage import confirm_authenticator, insert_totp
from authn.mail_queue import Seals
from authn.relying_party import RelyingParty
from authn.totp import SECRET_BYTES, secret_text, step_at
from authn.webauthn_keys import CHALLENGE_BYTES, NewKey, creation_options, verify_attestation
from authn.webauthn_storage import insert_key
from tenancy.encrypted_columns import TOTP_SECRETS
from tenancy.ids import TenantId
from tenancy.unit_of_work import Sessions, tenant_unit_of_work
from tests.support.software_authenticator import SoftwareAuthenticator


def waiting(
    tenant_id: TenantId, user_id: UUID, *, step: ChallengeStep = ChallengeStep.MFA, device_id: UUID | None = None
) -> Challenge:
    """Return a sign-in that waits for its second factor."""
    now = datetime.now(UTC)
    return Challenge(
        challenge_id=uuid4(),
        tenant_id=tenant_id,
        user_id=user_id,
        auth_epoch=1,
        password_hash_digest=b"",
        step=step,
        methods=(),
        client=b"",
        issued_at=now,
        expires_at=now + CHALLENGE_LIFE,
        device_id=device_id,
    )


@dataclass(frozen=True)
class Phone:
    """An authenticator application: it has the secret and a clock, and nothing else."""

    id: UUID
    secret: bytes

    @classmethod
    def scan(cls, shown: Mapping[str, Any]) -> "Phone":
        """Return a phone that read the address of an enrolment, as a real library reads it."""
        return cls(UUID(str(shown["id"])), parse_uri(shown["uri"]).byte_secret())

    def code(self, step: int = 0, *, now: datetime | None = None) -> str:
        """Return the code of the present time step, or of one that many later."""
        return TOTP(secret_text(self.secret)).generate_otp(step_at(now or datetime.now(UTC)) + step)


async def bind_phone(sessions: Sessions, ring: Seals, tenant_id: TenantId, user_id: UUID, name: str = "phone") -> Phone:
    """Bind a time-based authenticator, as no route would: nobody is asked, and no step is spent."""
    phone = Phone(uuid4(), token_bytes(SECRET_BYTES))
    async with tenant_unit_of_work(sessions, tenant_id) as work:
        sealed = await ring.seal(work, TOTP_SECRETS.place([user_id, phone.id]), phone.secret)
        await insert_totp(work, user_id, phone.id, name=name, sealed=sealed)
        assert await confirm_authenticator(work, user_id, phone.id) is not None
    return phone


def wrong_code(phone: Phone) -> str:
    """Return six digits that are the code of no step near now."""
    near = {phone.code(step) for step in range(-3, 4)}
    return next(code for code in (f"{number:06}" for number in range(10)) if code not in near)


async def bind_security_key(
    sessions: Sessions,
    tenant_id: TenantId,
    user_id: UUID,
    authenticator: SoftwareAuthenticator,
    *,
    party: RelyingParty,
    name: str = "key",
) -> UUID:
    """Bind a key of a software authenticator, as no route would; return the id of what was bound."""
    challenge, authenticator_id = token_bytes(CHALLENGE_BYTES), uuid4()
    options = creation_options(
        party, user_id=user_id, username="somebody", display_name=None, challenge=challenge, present=()
    )
    made = verify_attestation(party, authenticator.create(options), challenge=challenge)
    assert isinstance(made, NewKey)
    async with tenant_unit_of_work(sessions, tenant_id) as work:
        await insert_key(work, user_id, authenticator_id, name=name, key=made)
    return authenticator_id
