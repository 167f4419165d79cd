"""Enter a new tenant."""

from tenancy.ids import parse_new_slug
from tenancy.once import Once
from tenancy.ports import TenantRegistry
from tenancy.tenant import ChangeMeta, Tenant, TenantHead

MAX_DISPLAY_NAME_LENGTH = 200


class InvalidDisplayNameError(ValueError):
    """A display name that cannot be shown."""


def check_display_name(text: str) -> str:
    """Return a name for people without blanks around it; raises `InvalidDisplayNameError`."""
    shown = text.strip()
    if not shown or len(shown) > MAX_DISPLAY_NAME_LENGTH or not shown.isprintable():
        raise InvalidDisplayNameError(f"a display name has 1 to {MAX_DISPLAY_NAME_LENGTH} printable characters")
    return shown


async def create_tenant(
    slug: str,
    display_name: str | None = None,
    *,
    meta: ChangeMeta,
    tenants: TenantRegistry,
    once: Once[Tenant] | None = None,
) -> TenantHead:
    """Create a tenant that starts with the base rules.

    Args:
        slug: Lower-case DNS label, never used before and not reserved.
        display_name: For people; the slug when None or blank.
        meta: Who and why, for its history.
        tenants: The registry.
        once: Has it act once for a request that may be sent twice.

    Raises:
        InvalidSlugError: not a slug.
        InvalidDisplayNameError: too long, or with control characters.
        SlugTakenError: names a tenant, or named one.
    """
    parsed = parse_new_slug(slug)
    shown = check_display_name((display_name or "").strip() or slug)
    return (await tenants.create(parsed, shown, meta=meta, once=once)).head
