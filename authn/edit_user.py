"""Change an account as an administrator asks."""

from uuid import UUID

from authn.user_edits import UNCHANGED, Unchanged, UserEdit
from authn.user_storage import UserResult, UserStore
from authn.users import normalize_display_name, normalize_email, normalize_username
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta


async def edit_user(
    tenant_id: TenantId,
    user_id: UUID,
    *,
    username: str | Unchanged = UNCHANGED,
    email: str | Unchanged | None = UNCHANGED,
    display_name: str | Unchanged | None = UNCHANGED,
    mfa_required: bool | Unchanged = UNCHANGED,
    meta: ChangeMeta,
    users: UserStore,
    expected_revision: int | None = None,
) -> UserResult:
    """Change names (as typed; None takes one away), address and demands.

    Another address is not verified, and ends sign-ins and links that were given out for the old one.

    Raises:
        InvalidUsernameError, InvalidEmailError, InvalidPersonNameError: a name that cannot be.
        UsernameTakenError, EmailTakenError, UserNotFoundError, UserDeletedError, UserRevisionConflictError: as the
            store says.
    """
    edit = UserEdit(
        username if isinstance(username, Unchanged) else normalize_username(username),
        email if isinstance(email, Unchanged) or email is None else normalize_email(email),
        display_name
        if isinstance(display_name, Unchanged) or display_name is None
        else normalize_display_name(display_name),
        mfa_required,
    )
    return await users.update(tenant_id, user_id, edit, meta=meta, expected_revision=expected_revision)
