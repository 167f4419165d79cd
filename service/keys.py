"""What lives in the application and in a request: typed keys, nothing by string."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING

from aiohttp import web

from service.caller import Caller
from service.callers import Callers
from service.routes import Route
from service.tenant_of_request import TenantDirectory
from tenancy.ids import TenantId

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from authn.challenge_storage import ChallengeStore
    from authn.end_sessions import SessionEnds
    from authn.factors import FactorKind, FactorMethod, SecondFactor
    from authn.new_factors import NewFactor
    from authn.new_passwords import NewPasswords
    from authn.password_hashing import PasswordHasher
    from authn.register_webauthn import NewSecurityKey
    from authn.session_storage import SessionStore
    from authn.volatile_values import VolatileValues
    from authz.node import Node
    from authz.policy_limits import PolicyLimits
    from authz.ports import PolicyReader
    from service.answer_seal import AnswerSeal
    from service.bulk import BulkForwarder
    from service.cross_check import Sampler
    from service.decision_log import DecisionLog
    from service.health import Readiness
    from service.http_settings import HttpSettings
    from service.jobs import Jobs
    from service.metrics import Metrics
    from service.page_tokens import PageTokens
    from service.refusals import Refusals
    from tenancy.audit_batches import AuditBatches
    from tenancy.audit_checkpoints import AuditKeys
    from tenancy.key_ring import KeyRing
    from tenancy.rotate_keys import KeyRotator
    from tenancy.tenant_settings import TenantLimits

HTTP_SETTINGS: web.AppKey["HttpSettings"] = web.AppKey("HTTP_SETTINGS")
POLICY_LIMITS: web.AppKey["PolicyLimits"] = web.AppKey("POLICY_LIMITS")
TENANT_LIMITS: web.AppKey["TenantLimits"] = web.AppKey("TENANT_LIMITS")
SESSIONS: web.AppKey["async_sessionmaker[AsyncSession]"] = web.AppKey("SESSIONS")
SESSION_STORE: web.AppKey["SessionStore"] = web.AppKey("SESSION_STORE")
"""Where sign-ins are remembered; `SESSIONS` are those of the database."""
SESSION_ENDS: web.AppKey["SessionEnds"] = web.AppKey("SESSION_ENDS")
NODE: web.AppKey["Node"] = web.AppKey("NODE")
READER: web.AppKey["PolicyReader"] = web.AppKey("READER")
PASSWORDS: web.AppKey["PasswordHasher"] = web.AppKey("PASSWORDS")
NEW_PASSWORDS: web.AppKey["NewPasswords"] = web.AppKey("NEW_PASSWORDS")
VOLATILE: web.AppKey["VolatileValues"] = web.AppKey("VOLATILE")
"""Valkey as authentication uses it: challenges, sessions."""
CHALLENGES: web.AppKey["ChallengeStore"] = web.AppKey("CHALLENGES")
FACTORS: web.AppKey[MutableMapping["FactorMethod", "SecondFactor"]] = web.AppKey("FACTORS")
"""What proves each method; a part that brings one adds it."""
NEW_FACTORS: web.AppKey[MutableMapping["FactorKind", "NewFactor"]] = web.AppKey("NEW_FACTORS")
"""What binds each kind; a part that brings one adds it."""
SECURITY_KEYS: web.AppKey["NewSecurityKey"] = web.AppKey("SECURITY_KEYS")
"""Binds security keys; there where browsers offer them on an origin of this deployment."""
REFUSALS: web.AppKey["Refusals"] = web.AppKey("REFUSALS")
CALLERS: web.AppKey[Callers] = web.AppKey("CALLERS")
TENANTS: web.AppKey[TenantDirectory] = web.AppKey("TENANTS")
PAGE_TOKENS: web.AppKey["PageTokens"] = web.AppKey("PAGE_TOKENS")
ANSWER_SEAL: web.AppKey["AnswerSeal"] = web.AppKey("ANSWER_SEAL")
KEY_RING: web.AppKey["KeyRing"] = web.AppKey("KEY_RING")
KEY_ROTATOR: web.AppKey["KeyRotator"] = web.AppKey("KEY_ROTATOR")
METRICS: web.AppKey["Metrics"] = web.AppKey("METRICS")
DECISION_LOG: web.AppKey["DecisionLog"] = web.AppKey("DECISION_LOG")
SAMPLER: web.AppKey["Sampler"] = web.AppKey("SAMPLER")
AUDIT_KEYS: web.AppKey["AuditKeys"] = web.AppKey("AUDIT_KEYS")
SIGN_IN_AUDIT: web.AppKey["AuditBatches"] = web.AppKey("SIGN_IN_AUDIT")
"""Where failed sign-ins are recorded."""
JOBS: web.AppKey["Jobs"] = web.AppKey("JOBS")
"""There in every process; which of them runs what is added, `service/jobs.py` says."""
BULK: web.AppKey["BulkForwarder"] = web.AppKey("BULK")
"""There when another process answers the routes that are marked `bulk`."""
READINESS: web.AppKey["Readiness"] = web.AppKey("READINESS")
DRAINING: web.AppKey[asyncio.Event] = web.AppKey("DRAINING")
"""Set when the process was told to end: /readyz answers 503 from then on."""
ROUTES: web.AppKey[tuple[Route, ...]] = web.AppKey("ROUTES")

ROUTE: web.RequestKey[Route] = web.RequestKey("ROUTE")
REQUEST_ID: web.RequestKey[str] = web.RequestKey("REQUEST_ID")
BODY: web.RequestKey[bytes] = web.RequestKey("BODY")
"""There when the whole body was read before its handler reads it."""
CALLER: web.RequestKey[Caller] = web.RequestKey("CALLER")
TENANT: web.RequestKey[TenantId] = web.RequestKey("TENANT")
READMIT: web.RequestKey[Callable[[], Awaitable[None]]] = web.RequestKey("READMIT")
"""Asks anew who calls and whether they may, once a body is there that was not when this was first asked."""
