"""Enter an account that an administrator asks for."""

from authn.user_storage import UserResult, UserStore
from authn.users import NewUser, normalize_display_name, normalize_email, normalize_username
from tenancy.ids import TenantId
from tenancy.once import Once
from tenancy.tenant import ChangeMeta


async def create_user(
    tenant_id: TenantId,
    username: str,
    *,
    email: str | None = None,
    display_name: str | None = None,
    mfa_required: bool = False,
    meta: ChangeMeta,
    users: UserStore,
    expected_revision: int | None = None,
    once: Once[UserResult] | None = None,
) -> UserResult:
    """Make an account without a password; its address is not verified, whoever says so.

    Args:
        tenant_id: Whose account.
        username: As typed.
        email: As typed.
        display_name: For people.
        mfa_required: Whether its person must use a second factor, whatever the tenant demands.
        meta: Who and why.
        users: The store.
        expected_revision: Where the tenant must stand.
        once: Has it act once for a request that may be sent twice.

    Raises:
        InvalidUsernameError, InvalidEmailError, InvalidPersonNameError: a name that cannot be.
        UsernameTakenError, EmailTakenError, UserLimitExceededError, UserRevisionConflictError: as the store says.
    """
    new = NewUser(
        normalize_username(username),
        None if email is None else normalize_email(email),
        None if display_name is None else normalize_display_name(display_name),
        mfa_required=mfa_required,
    )
    return await users.create(tenant_id, new, meta=meta, expected_revision=expected_revision, once=once)
