"""What a page shows to the holder of a link before it is spent. Looking spends nothing, however often."""

from dataclasses import dataclass

from sqlalchemy import text

from authn.accept_invitation import find_open
from authn.account_flows import AccountFlows, home_of
from authn.links import LinkPurpose, hash_link_token, peek_link
from authn.user_rows import read_user
from tenancy.ids import Slug
from tenancy.settings_storage import read_settings
from tenancy.tenant_settings import BrandingSettings, TenantLimits
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

_NAME = text("SELECT display_name FROM tenants WHERE tenant_id = :tenant_id")


@dataclass(frozen=True, slots=True)
class Shown:
    """Whose link it is. `email` is the address that an invitation was sent to."""

    slug: Slug
    tenant_name: str
    branding: BrandingSettings
    min_length: int
    username: str | None = None
    email: str | None = None
    display_name: str | None = None


async def look_at_link(
    flows: AccountFlows,
    token: str,
    purpose: LinkPurpose,
    *,
    named: str | None = None,
    limits: TenantLimits | None = None,
) -> Shown | None:
    """Return what a link that could be spent is about; None for every other."""
    home = await home_of(flows, token, named=named)
    if home is None:
        return None
    async with tenant_unit_of_work(flows.sessions, home.tenant_id) as work:
        settings = await read_settings(work, limits)
        name = (await work.session.execute(_NAME, {"tenant_id": home.tenant_id})).scalar_one()
        people = await _people(work, token, purpose)
    if people is None:
        return None
    username, email, display_name = people
    branding = settings.branding
    return Shown(
        home.slug, branding.name or name, branding, settings.password.min_length, username, email, display_name
    )


async def _people(
    work: TenantUnitOfWork, token: str, purpose: LinkPurpose
) -> tuple[str | None, str | None, str | None] | None:
    if purpose is LinkPurpose.INVITATION:
        stored = await find_open(work, token)
        return None if stored is None else (None, stored.invitation.email, stored.invitation.display_name)
    link = await peek_link(work, hash_link_token(token), purpose)
    held = None if link is None or link.user_id is None else await read_user(work, link.user_id)
    return None if held is None else (held.user.username, None, held.user.display_name)
