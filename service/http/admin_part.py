"""Opens what the administration needs, on the application's database sessions and node."""

from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import web

from authn.change_password import PasswordChanges
from authn.import_users import UserImports
from authn.service_account_storage import ServiceAccountStore
from authn.storage import ApiKeyStore
from authn.user_storage import UserStore
from authz.compile_model import compile_model
from authz.policy_limits import PolicyLimits
from authz.storage_write import PostgresPolicyWriter
from authz.subject_rows import PostgresSubjectPolicy
from service.http.account_password import PASSWORD_CHANGES
from service.http.admin import ADMINISTRATION, Administration, Models, Work
from service.http.admin_audit import AUDIT
from service.http.admin_changes import STREAMS
from service.http.admin_service_accounts import SERVICE_ACCOUNTS
from service.http.admin_tenant_life import TENANT_CHANGES
from service.http.admin_tenant_settings import TENANT_SETTINGS
from service.http.admin_user_import import USER_IMPORTS
from service.http.admin_users import USERS
from service.http.exports import EXPORTS
from service.http.idempotency import KEPT_ANSWERS
from service.http.key_writes import API_KEYS
from service.keys import KEY_RING, NEW_PASSWORDS, NODE, POLICY_LIMITS, REFUSALS, SESSIONS, TENANT_LIMITS
from service.refusals import Refusals
from tenancy.audit_log import seal_personal_with
from tenancy.audit_reader import AuditReader
from tenancy.change_tenant import TenantChanges
from tenancy.kept_answers import KeptAnswers
from tenancy.settings_storage import TenantSettingsStore
from tenancy.storage import TenantStore
from tenancy.tenant_settings import TenantLimits


async def administration(app: web.Application) -> AsyncIterator[None]:
    """Part of the application: opens after the database and the node, closes before them."""
    sessions = app[SESSIONS]
    work = Work()
    app[ADMINISTRATION] = Administration(
        writer=PostgresPolicyWriter(sessions, limits=app.get(POLICY_LIMITS), shelf=app[NODE]),
        tenants=TenantStore(sessions),
        node=app[NODE],
        models=Models(compile_model),
        work=work,
    )
    seal_personal_with(sessions, app[KEY_RING])
    app[AUDIT] = AuditReader(sessions)
    app[EXPORTS] = Counter()
    app[API_KEYS] = ApiKeyStore(sessions, app[KEY_RING])
    app[PASSWORD_CHANGES] = PasswordChanges(sessions, app[NEW_PASSWORDS], app[KEY_RING], limits=app.get(TENANT_LIMITS))
    limits = app.get(POLICY_LIMITS) or PolicyLimits()
    app[SERVICE_ACCOUNTS] = ServiceAccountStore(sessions, PostgresSubjectPolicy())
    app[USERS] = UserStore(sessions, app[KEY_RING], PostgresSubjectPolicy(), max_users=limits.users)
    bounds = app.get(TENANT_LIMITS) or TenantLimits()
    app[TENANT_SETTINGS] = TenantSettingsStore(sessions, bounds)
    app[TENANT_CHANGES] = TenantChanges(sessions, bounds)
    app[USER_IMPORTS] = UserImports(sessions, max_users=limits.users)
    app[REFUSALS] = Refusals(sessions)
    app[KEPT_ANSWERS] = KeptAnswers(sessions)
    app[STREAMS] = Counter()
    yield
    work.close()
