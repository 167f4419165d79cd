"""The whole application on a real database, with a node of its own: what administration is tested on.

Its rule sets are not kept in Valkey; its sign-ins are.
"""

import asyncio
import contextlib
import io
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from authn.key_uses import KeyUses
from authn.mail_settings import MailSettings
from authn.password_settings import PasswordSettings
from authn.sign_in_settings import SignInLimits
from authn.storage import ApiKeyStore
from authz.compile_model import compile_model
from authz.node import Node
from authz.ports import RuleSet, TenantHead
from authz.settings import AuthzSettings, CacheSettings
from authz.snapshot_loader import build_giving_way
from authz.storage import PostgresPolicyReader
from service.access_tokens import access_tokens
from service.all_routes import all_routes
from service.answer_seal import AnswerSeal
from service.app import build_app
from service.audit_part import auditing
from service.bootstrap import Bootstrap
from service.callers import Callers
from service.composition import StoredKeys
from service.decision_log import DecisionLog
from service.factors_part import factor_flows, second_factors
from service.health import Readiness
from service.http.account_links import accounts_by_link
from service.http.admin_part import administration
from service.http_settings import HttpSettings
from service.key_rates import KeyRates
from service.keys import (
    ANSWER_SEAL,
    CALLERS,
    DECISION_LOG,
    KEY_RING,
    KEY_ROTATOR,
    METRICS,
    NODE,
    PAGE_TOKENS,
    READER,
    READINESS,
    SESSIONS,
    TENANT_LIMITS,
    TENANTS,
)
from service.mail_part import mailing
from service.metrics import Metrics
from service.oauth_settings import OAuthSettings
from service.page_tokens import PageTokens
from service.passwords import password_part
from service.server import KasbahRunner
from service.sessions_part import sessions_part
from service.sign_in_part import signing_in, volatile
from service.webauthn_part import security_keys
from service.webauthn_settings import WebauthnSettings, origin_of
from tenancy.audit_settings import AuditSettings
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_maker import KeyMaker
from tenancy.key_ring import KeyRing
from tenancy.rotate_keys import KeyRotator
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits
from tests.support import process_logs
from tests.support.documented import check_documented
from tests.support.servers import patient, patient_units, session_servers

META = ChangeMeta("key:test")

CHEAP_PASSWORDS = PasswordSettings(memory_mib=19, iterations=2, niceness=0, wait_seconds=30)
"""The least that settings allow: about twenty milliseconds a hash."""


class NoCache:
    """A Valkey that is down."""

    async def find_rules(self, *_: Any) -> RuleSet | None:
        return None

    async def store_rules(self, *_: Any) -> None:
        return None

    async def stage_rules(self, *_: Any) -> None:
        return None

    async def release_rules(self, *_: Any) -> None:
        return None

    async def publish(self, head: TenantHead) -> None:
        return None

    async def notices(self) -> AsyncIterator[TenantId]:
        await asyncio.Event().wait()
        yield PLATFORM_TENANT_ID


@dataclass(frozen=True)
class Answer:
    """Status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The problem's slug."""
        return str(self.json["type"]).rpartition(":")[2]


class Service:
    """One node on a database; `platform` is a platform key with every scope."""

    def __init__(
        self,
        database_url: str,
        *,
        mail: MailSettings | None = None,
        audit: AuditSettings | None = None,
        http: HttpSettings | None = None,
        limits: TenantLimits | None = None,
        redis_url: str | None = None,
        oauth: OAuthSettings | None = None,
        sign_in: SignInLimits | None = None,
        hasty: bool = False,
    ) -> None:
        """Prepare.

        Args:
            hasty: It gives PostgreSQL and Valkey up as soon as a node does; by default it waits for them on a machine
                that is busy.
        """
        self._sign_in = sign_in or SignInLimits()
        # Names in it carry a secret of this service's own, so that none meets another's.
        self._valkey = CacheSettings(
            url=redis_url or session_servers().redis_url,
            secret=secrets.token_hex(32),
            timeout=timedelta(milliseconds=500),
        )
        self._hasty = hasty
        bounds = DatabaseLimits if hasty else patient
        if not hasty:
            self._valkey = self._valkey.model_copy(update={"timeout": timedelta(seconds=30)})
        self._limits = limits
        self._oauth = oauth
        self._http = http or HttpSettings()
        self._mail = mail or MailSettings()
        self._audit = audit or AuditSettings()
        self._engine = open_engine(database_url, bounds(pool_size=6, max_overflow=4))
        self.bootstrap = Bootstrap(self._engine)
        self.seal = AnswerSeal(secrets.token_bytes(32))
        self.keks = KeyEncryptionKeys([LocalKeyEncryption("test", secrets.token_bytes(32))], "test")
        self.platform = ""
        self.url = ""
        self.client: aiohttp.ClientSession
        self.app: web.Application

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Service"]:
        """Serve on a free port of loopback."""
        # Commands run in this process: what the server logs must not stand in what they print.
        warnings = structlog.make_filtering_bound_logger(logging.WARNING)
        structlog.configure(wrapper_class=warnings, logger_factory=structlog.PrintLoggerFactory(process_logs.here))
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = self._http
        self.app = self._app(settings)
        runner = KasbahRunner(self.app, settings, shutdown_timeout=1)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self.platform = await self.bootstrap.create_key(PLATFORM_TENANT_ID, "test", meta=META)
        try:
            with contextlib.nullcontext() if self._hasty else patient_units():
                async with aiohttp.ClientSession(self.url) as self.client:
                    yield self
        finally:
            await runner.cleanup()
            await self._engine.dispose()
            structlog.reset_defaults()

    def _app(self, settings: HttpSettings) -> web.Application:
        async def parts(app: web.Application) -> AsyncIterator[None]:
            app[SESSIONS] = open_sessions(self._engine)
            if self._limits is not None:
                app[TENANT_LIMITS] = self._limits
            reader = app[READER] = app[TENANTS] = PostgresPolicyReader(app[SESSIONS])
            quick = AuthzSettings(poll_interval=timedelta(milliseconds=100))
            if not self._hasty:
                longer = ("poll_timeout", "read_timeout", "request_timeout", "max_staleness")
                quick = quick.model_copy(update={name: 10 * getattr(quick, name) for name in longer})
            demanded = self._limits is not None and self._limits.mfa_required
            build = partial(build_giving_way, mfa_of_everybody=demanded)
            node = app[NODE] = Node(reader, NoCache(), compile_model, quick, build=build)
            app[CALLERS] = Callers(
                StoredKeys(ApiKeyStore(app[SESSIONS])), node, rates=KeyRates(), uses=KeyUses(app[SESSIONS])
            )
            app[METRICS] = Metrics()
            app[DECISION_LOG] = DecisionLog(settings.decision_log)
            app[READINESS] = Readiness()
            app[ANSWER_SEAL] = self.seal
            app[PAGE_TOKENS] = PageTokens(secrets.token_bytes(32))
            app[KEY_RING] = KeyRing(app[SESSIONS], self.keks)
            maker = KeyMaker(app[SESSIONS], self.keks)
            self.rotator = app[KEY_ROTATOR] = KeyRotator(app[SESSIONS], app[KEY_RING], maker)
            await node.start()
            running = asyncio.create_task(node.run())
            yield
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

        opened = [
            parts,
            volatile(self._valkey),
            sessions_part,
            access_tokens(self._oauth),
            password_part(CHEAP_PASSWORDS),
            second_factors,
            security_keys(WebauthnSettings().relying_party(self.url)),
            auditing(self._audit),
            mailing(self._mail),
            accounts_by_link,
            signing_in(self._sign_in),
            factor_flows,
            administration,
        ]
        return build_app(settings, opened, all_routes())

    @property
    def origin(self) -> str:
        """The origin that security keys of this service work on."""
        return origin_of(self.url)

    async def tenant(self, slug: str, *scopes: str) -> str:
        """Create a tenant and return a key of it; without scopes it carries them all."""
        tenant_id = await self.bootstrap.ensure_tenant(slug, slug, meta=META)
        more = {"scopes": frozenset(scopes)} if scopes else {}
        return await self.bootstrap.create_key(tenant_id, "test", meta=META, **more)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send JSON (or bytes as they are) with the platform's key, or another; an empty key is none."""
        sent = dict(headers or {})
        if key != "":
            sent["Authorization"] = f"Bearer {key or self.platform}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        payload = None if data is None else io.BytesIO(data)
        async with self.client.request(method, path, data=payload, headers=sent) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check_documented(method, path, answer.status, answer.headers.get("Content-Type", ""), answer.body)
        return answer

    async def get(self, path: str, **more: Any) -> Answer:
        """GET."""
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any, **more: Any) -> Answer:
        """POST."""
        return await self.ask("POST", path, body, **more)

    async def allowed(self, key: str, subject: str, action: str, resource: str) -> bool:
        """Ask one question."""
        (kind, _, name), (other, _, thing) = subject.partition(":"), resource.partition(":")
        body = {
            "subject": {"type": kind, "id": name},
            "action": {"name": action},
            "resource": {"type": other, "id": thing},
        }
        answer = await self.post("/access/v1/evaluation", body, key=key)
        assert answer.status == 200, answer.body
        return bool(answer.json["decision"])


def rule(subject: str, resource: str, action: str = "read", **more: Any) -> dict[str, Any]:
    """A rule on the wire."""
    return {"type": "rule", "subject": subject, "resource": resource, "action": action} | more


def link(member: str, role: str, **more: Any) -> dict[str, Any]:
    """A link on the wire."""
    return {"type": "link", "member": member, "role": role} | more


def at(line: int, file: str = "policy.csv") -> dict[str, Any]:
    """The place of a file-owned row."""
    return {"source": {"file": file, "line": line}}
