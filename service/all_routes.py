"""Everything that is served."""

from service import health
from service.http import (
    account_address,
    account_factors,
    account_invitation,
    account_keys,
    account_links,
    account_password,
    account_reset,
    account_sessions,
    account_webauthn,
    admin_audit,
    admin_encryption,
    admin_factors,
    admin_invitations,
    admin_service_account_keys,
    admin_service_accounts,
    admin_sessions,
    admin_sign_in,
    admin_tenant_life,
    admin_tenant_settings,
    admin_user_import,
    admin_users,
    authzen,
    first_administrator,
    forward_auth,
    pages,
    sign_in,
    sign_in_enrolment,
)
from service.http.admin_routes import ADMIN_ROUTES
from service.routes import Route


def all_routes() -> tuple[Route, ...]:
    """Return the whole route table."""
    return (
        *authzen.ROUTES,
        *forward_auth.ROUTES,
        *first_administrator.ROUTES,
        *health.ROUTES,
        *ADMIN_ROUTES,
        *account_keys.ROUTES,
        *account_address.ROUTES,
        *account_factors.ROUTES,
        *account_invitation.ROUTES,
        *account_links.ROUTES,
        *account_reset.ROUTES,
        *account_webauthn.ROUTES,
        *pages.ROUTES,
        *admin_invitations.ROUTES,
        *admin_encryption.ROUTES,
        *admin_service_accounts.ROUTES,
        *admin_service_account_keys.ROUTES,
        *admin_factors.ROUTES,
        *admin_tenant_life.ROUTES,
        *admin_tenant_settings.ROUTES,
        *sign_in.ROUTES,
        *sign_in_enrolment.ROUTES,
        *admin_sign_in.ROUTES,
        *account_password.ROUTES,
        *account_sessions.ROUTES,
        *admin_sessions.ROUTES,
        *admin_audit.ROUTES,
        *admin_user_import.ROUTES,
        *admin_users.ROUTES,
    )
