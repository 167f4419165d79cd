"""What a sign-in needs to know of an account, in one trip to the database, whoever is named and whether they exist."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from authn.errors import InvalidEmailError, InvalidUsernameError
from authn.known_devices import device_hash
from authn.user_names import normalize_email, normalize_username
from authn.user_rows import STORED_COLUMNS, stored_user_of
from authn.users import StoredUser
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import BASE_TENANT_ID, PLATFORM_SLUG, SLUG_PATTERN, TenantId, TenantStatus
from tenancy.one_trip import fetch_row_of_named
from tenancy.settings_storage import settings_of
from tenancy.tenant_settings import TenantLimits, TenantSettings
from tenancy.unit_of_work import Sessions, within

REQUEST_SECONDS = 2.5

_NOBODY = "!"
"""Is no key of a name or address, and is looked for all the same."""


def _statement(key: str) -> str:
    return (
        "SELECT t.tenant_id AS home, t.slug, t.status AS tenant_status, t.revision, s.settings, "  # noqa: S608 - constants
        "clock_timestamp() AS now, d.device_id, u.* FROM tenants AS t "
        "LEFT JOIN tenant_settings AS s ON s.tenant_id = t.tenant_id "
        f"LEFT JOIN LATERAL (SELECT {STORED_COLUMNS} FROM users WHERE tenant_id = t.tenant_id AND {key} = :key) AS u "
        "ON true LEFT JOIN known_devices AS d ON d.tenant_id = t.tenant_id AND d.user_id = u.user_id "
        "AND d.token_hash = :device AND d.expires_at > clock_timestamp() "
        "WHERE t.tenant_id = CAST(current_setting('app.tenant_id') AS uuid)"
    )


_BY_USERNAME, _BY_EMAIL = text(_statement("username_key")), text(_statement("email_key"))


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """Whom a sign-in is about.

    `tenant_id` is where tries are counted: that of `_base`, where nobody is, unless the tenant exists and is active
    (`open`). `held` is the account there, whatever its state, and `device_id` a device that it knows. `name` is what
    the identifier is counted by when it is nobody's; whatever is counted together goes with the `slug`.
    """

    tenant_id: TenantId
    open: bool
    revision: int
    settings: TenantSettings
    held: StoredUser | None
    device_id: UUID | None
    slug: str
    name: str
    now: datetime


async def find_account(
    sessions: Sessions, slug: str, identifier: str, device: str | None, limits: TenantLimits | None
) -> FoundAccount:
    """Return whom an identifier names in a tenant.

    SECURITY: one trip and one statement, whether there is such a tenant or account or not.

    Raises:
        DatabaseUnavailableError: PostgreSQL did not answer.
    """
    statement = _BY_EMAIL if "@" in identifier else _BY_USERNAME
    asked = possible_slug(slug)
    key = key_of(identifier)
    parameters = {"key": _NOBODY if key is None else key, "device": device_hash(device)}
    row = await within(REQUEST_SECONDS, lambda: fetch_row_of_named(sessions, asked, statement, parameters))
    if row is None:
        raise DatabaseUnavailableError("the entry of the base is not there")
    is_it = row.slug == asked and TenantStatus(row.tenant_status) is TenantStatus.ACTIVE
    return FoundAccount(
        tenant_id=TenantId(row.home) if is_it else BASE_TENANT_ID,
        open=is_it,
        revision=row.revision,
        settings=settings_of(row.settings, limits),
        held=stored_user_of(row) if is_it and row.user_id is not None else None,
        device_id=row.device_id if is_it else None,
        slug=slug,
        name=identifier if key is None else key,
        now=row.now,
    )


def possible_slug(slug: str) -> str:
    """Return a tenant's name as it is looked for and counted by; of what no tenant can be called, one name for all."""
    return slug if slug == PLATFORM_SLUG or SLUG_PATTERN.match(slug) is not None else ""


def key_of(identifier: str) -> str | None:
    """Return the key that a username or an address is found by; None when it can be nobody's."""
    normalize = normalize_email if "@" in identifier else normalize_username
    try:
        return normalize(identifier)[1]
    except (InvalidUsernameError, InvalidEmailError):
        return None
