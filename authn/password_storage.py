"""What a flow that sets a password reads and writes, within its own transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text

from authn.credential_failures import forgive_everywhere
from authn.known_devices import forget_devices
from authn.passwords import context_words_of
from authn.user_rows import set_password_hash
from authn.users import StoredUser, User
from tenancy.password_deviations import MAX_HISTORY, read_deviations
from tenancy.settings_storage import read_settings
from tenancy.tenant_settings import MfaDemand, TenantLimits, TenantSettings
from tenancy.tenant_settings import PasswordSettings as PasswordPolicy
from tenancy.unit_of_work import TenantUnitOfWork

_NAMES = text("SELECT slug, display_name FROM tenants WHERE tenant_id = :tenant_id")
_FORMER = text(
    "SELECT password_hash FROM former_passwords WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "ORDER BY replaced_at DESC LIMIT :number"
)
_REMEMBER = text(
    "INSERT INTO former_passwords (tenant_id, user_id, replaced_at, password_hash) "
    "VALUES (:tenant_id, :user_id, clock_timestamp(), :password_hash)"
)
_FORGET = text(
    "DELETE FROM former_passwords WHERE tenant_id = :tenant_id AND user_id = :user_id AND replaced_at NOT IN ("
    "SELECT replaced_at FROM former_passwords WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "ORDER BY replaced_at DESC LIMIT :kept)"
)


@dataclass(frozen=True, slots=True)
class PasswordRules:
    """What a new password of one account is judged by: arguments of `NewPasswords.choose`."""

    policy: PasswordPolicy
    context_words: Sequence[str]
    mfa_required: bool
    previous: Sequence[str] = field(default=(), repr=False)
    """Stored hashes that may not come again; empty unless the tenant's rules ask for it."""


async def read_password_rules(
    work: TenantUnitOfWork,
    user: User,
    *,
    limits: TenantLimits | None,
    settings: TenantSettings | None = None,
    present: str | None = None,
) -> PasswordRules:
    """Return the rules for a password of this account.

    Args:
        work: Bound to the account's tenant.
        user: Whose password; of an invitation, the account that it will make.
        limits: The platform's bounds, which every way to a new password goes by; None for the defaults.
        settings: If they were read in this transaction already.
        present: The stored hash that would be replaced.
    """
    settings = settings or await read_settings(work, limits)
    tenant = (await work.session.execute(_NAMES, {"tenant_id": work.tenant_id})).one()
    words = context_words_of(
        slug=tenant.slug,
        tenant_names=(tenant.display_name, settings.branding.name),
        username=user.username,
        email=user.email,
        display_name=user.display_name,
    )
    history = read_deviations(settings.password.deviations).history
    previous: list[str] = []
    if history:
        key = {"tenant_id": work.tenant_id, "user_id": user.id, "number": history}
        former = (await work.session.execute(_FORMER, key)).scalars().all()
        previous = [*([] if present is None else [present]), *former][:history]
    return PasswordRules(settings.password, words, demands_mfa(user, settings), previous)


def demands_mfa(user: User, settings: TenantSettings) -> bool:
    """Whether the account can never sign in with its password alone.

    A demand of some roles may end with the role, so it makes no password shorter.
    """
    return user.mfa_required or settings.mfa.demand is MfaDemand.REQUIRED


async def replace_password(
    work: TenantUnitOfWork, held: StoredUser, new_hash: str, *, policy: PasswordPolicy, set_by: str = "user"
) -> bool:
    """Give an account another password, which ends its sign-ins, voids its links and forgives failed tries.

    Args:
        work: Holds the tenant's lock and the account's.
        held: As `lock_user` returned it.
        new_hash: Of a password that `NewPasswords.choose` accepted.
        policy: The tenant's; with the deviation `history` the old hash is kept.
        set_by: Who chose it.

    Returns:
        Whether it was replaced; not when the account is gone or its password is another by now.
    """
    old = held.password_hash
    if not await set_password_hash(work, held.user.id, new_hash, read=old, set_by=set_by):
        return False
    await forgive_everywhere(work, held.user.id)
    history = read_deviations(policy.deviations).history
    key = {"tenant_id": work.tenant_id, "user_id": held.user.id}
    if history and old is not None:
        await work.session.execute(_REMEMBER, key | {"password_hash": old})
    await work.session.execute(_FORGET, key | {"kept": max(0, min(history, MAX_HISTORY) - 1)})
    return True


async def forget_passwords(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Remove what is kept of an account's passwords and devices when it goes; who deletes it clears its row."""
    await forgive_everywhere(work, user_id)
    await forget_devices(work, user_id)
    await work.session.execute(_FORGET, {"tenant_id": work.tenant_id, "user_id": user_id, "kept": 0})
