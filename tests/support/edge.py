"""The HTTP edge over small policies in memory: the real application and server, with fakes behind the ports."""

import asyncio
import contextlib
import io
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import aiohttp
from aiohttp import web

from authn.api_keys import KeyLimit, hash_token
from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authz.errors import StaleError, TenantNotFoundError
from authz.offline import OfflinePolicy
from authz.ports import SubjectRecord, TenantHead
from authz.request import Ref
from authz.snapshot import Facts
from authz.tracked import Changes, Tracked
from service.app import build_app
from service.callers import Callers, FoundApiKey, TokenKind
from service.cross_check import Sampler
from service.decision_log import DecisionLog
from service.health import Readiness
from service.http_settings import HttpSettings
from service.key_rates import KeyRates
from service.keys import (
    CALLERS,
    DECISION_LOG,
    METRICS,
    NODE,
    PAGE_TOKENS,
    PASSWORDS,
    READER,
    READINESS,
    SAMPLER,
    TENANTS,
)
from service.metrics import Metrics
from service.page_tokens import PageTokens
from service.routes import Route
from service.server import DeadlineHandler, KasbahRunner
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, Slug, TenantId, TenantStatus
from tests.support.policies import NOW, policy

ALL_SCOPES = frozenset(
    {"decision:check", "decision:assert", "decision:explain", "policy:read", "policy:write", "tenant:read"}
    | {"tenant:write", "key:read", "key:write", "metrics:read"}
)


@dataclass
class FakeNode:
    """Tenants in memory; also the reader of candidates and the directory of tenants."""

    changes: Changes = field(default_factory=Changes)
    tenants: dict[TenantId, OfflinePolicy] = field(init=False)
    heads: dict[TenantId, TenantHead] = field(init=False)
    failure: Exception | None = None
    is_fresh: bool = True
    fresh_until: float = float("inf")
    followed: list[tuple[TenantId, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tenants, self.heads = Tracked(self.changes), Tracked(self.changes)

    def now(self) -> datetime:
        return NOW

    def elapsed(self) -> float:
        return time.monotonic()

    def warm_until(self, tenant_id: TenantId) -> float:
        return self.fresh_until

    def recall(self, state: OfflinePolicy, subject: Ref) -> Facts | None:
        return None

    def fresh(self, tenant_id: TenantId) -> bool:
        return self.is_fresh and self.elapsed() <= self.fresh_until

    def confirm_until(self, moment: float) -> None:
        """Say by when, by `elapsed`, nothing is known to be true any more."""
        self.fresh_until = moment
        self.changes.count += 1  # for a real node the moment never comes nearer

    async def watch(self, tenant_id: TenantId) -> TenantHead:
        if tenant_id == PLATFORM_TENANT_ID:
            self.heads[tenant_id] = head_of(PLATFORM_TENANT_ID, "_platform")
        return self.heads[tenant_id]

    async def follow_write(self, tenant_id: TenantId, revision: int) -> None:
        self.followed.append((tenant_id, revision))

    def warm(self, tenant_id: TenantId) -> OfflinePolicy | None:
        return self.tenants.get(tenant_id) if self.elapsed() <= self.fresh_until else None

    async def load(
        self, tenant_id: TenantId, subjects: Iterable[Any], resources: Iterable[Any], min_revision: int | None = None
    ) -> OfflinePolicy:
        if self.failure is not None:
            raise self.failure
        small = self.tenants.get(tenant_id)
        if small is None:
            raise TenantNotFoundError(str(tenant_id))
        if self.elapsed() > self.fresh_until:
            raise StaleError("not confirmed")
        if min_revision is not None and min_revision > small.head.revision:
            raise StaleError("not there yet")
        for ref in subjects:
            small.subjects[ref] = small.snapshot.facts(ref, small.records.get(ref, SubjectRecord()), self.now())
        for ref in resources:
            small.resources[ref] = small.stored_resources.get(ref, {})
        return small

    async def find_tenant(self, tenant_id: TenantId) -> TenantHead | None:
        return self.heads.get(tenant_id)

    async def find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        if self.failure is not None:
            raise self.failure
        reserved = {"_base": head_of(BASE_TENANT_ID, "_base"), "_platform": head_of(PLATFORM_TENANT_ID, "_platform")}
        if slug in reserved:
            return reserved[slug]
        return next((head for head in self.heads.values() if head.slug == slug), None)

    async def list_subject_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        return _page(self.tenants[tenant_id].records, kind, after, limit)

    async def list_resource_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        return _page(self.tenants[tenant_id].stored_resources, kind, after, limit)


def _page(refs: Iterable[str], kind: str, after: str, limit: int) -> list[str]:
    ids = sorted(ref.partition(":")[2] for ref in refs if ref.startswith(f"{kind}:"))
    return [identifier for identifier in ids if identifier > after][:limit]


def head_of(tenant_id: UUID, slug: str, revision: int = 7) -> TenantHead:
    """Return a head of an active tenant."""
    return TenantHead(TenantId(tenant_id), Slug(slug), TenantStatus.ACTIVE, revision, revision, 1)


@dataclass
class FakeKeys:
    """API keys by hash."""

    found: dict[bytes, FoundApiKey] = field(default_factory=dict)
    failure: Exception | None = None

    async def find_by_hash(self, key_hash: bytes) -> FoundApiKey | None:
        if self.failure is not None:
            raise self.failure
        return self.found.get(key_hash)


class Edge:
    """An edge under construction: add tenants and keys, then serve it."""

    def __init__(self, settings: HttpSettings | None = None, routes: Sequence[Route] | None = None) -> None:
        self.settings = settings or HttpSettings(public_url="https://pdp.example")
        self.node = FakeNode()
        self.keys = FakeKeys()
        self.rates: KeyRates | None = KeyRates()
        self.metrics = Metrics()
        self.log = DecisionLog(self.settings.decision_log)
        self.readiness = Readiness()
        self._routes = routes
        self.token_kinds: list[TokenKind] = []
        self.handler_class: type[DeadlineHandler] = DeadlineHandler
        self.url = ""
        self.client: aiohttp.ClientSession

    def tenant(self, slug: str, text: str = "", *, revision: int = 7, **entities: dict[str, object]) -> TenantId:
        """Add a tenant with the policy that `text` writes (`tests/support/policies.py`); keywords are `type__id`."""
        tenant_id = TenantId(uuid4())
        small = policy(text, entities={name.replace("__", ":"): value for name, value in entities.items()})
        small.head = head_of(tenant_id, slug, revision)
        self.node.tenants[tenant_id] = small
        self.node.heads[tenant_id] = small.head
        return tenant_id

    def platform(self, text: str = "") -> None:
        """Give the platform itself a policy, for its people."""
        small = policy(text)
        small.head = head_of(PLATFORM_TENANT_ID, "_platform")
        self.node.tenants[PLATFORM_TENANT_ID] = small
        self.node.heads[PLATFORM_TENANT_ID] = small.head

    def suspend(self, tenant_id: TenantId, status: TenantStatus = TenantStatus.SUSPENDED) -> None:
        """Change a tenant's status."""
        small = self.node.tenants[tenant_id]
        small.head = self.node.heads[tenant_id] = replace(small.head, status=status)
        for key_hash, found in self.keys.found.items():
            if found.head.tenant_id == tenant_id:
                self.keys.found[key_hash] = replace(found, head=small.head)

    def key(
        self,
        tenant_id: TenantId | None,
        *scopes: str,
        expires_at: datetime | None = None,
        owner: UUID | None = None,
        limit: KeyLimit | None = None,
        account: UUID | None = None,
    ) -> str:
        """Add a key of a tenant, or of the platform; without scopes it carries them all. Returns the token."""
        token = f"kasbah_{len(self.keys.found):08x}_{uuid4().hex}{'A' * 11}"
        head = head_of(PLATFORM_TENANT_ID, "_platform") if tenant_id is None else self.node.heads[tenant_id]
        carried = frozenset(scopes) or ALL_SCOPES
        found = FoundApiKey(uuid4(), token[7:15], carried, expires_at, head, owner, account, limit)
        self.keys.found[hash_token(token)] = found
        return token

    def app(self) -> web.Application:
        """Return the application."""

        async def parts(app: web.Application) -> AsyncIterator[None]:
            app[NODE] = self.node  # type: ignore[misc]  # a fake has what the edge uses of a node
            app[READER] = self.node  # type: ignore[misc]  # as above
            app[TENANTS] = self.node
            app[CALLERS] = Callers(self.keys, self.node, others=self.token_kinds, rates=self.rates)
            app[PAGE_TOKENS] = PageTokens(b"0" * 32)
            app[METRICS] = self.metrics
            app[DECISION_LOG] = self.log
            app[READINESS] = self.readiness
            app[SAMPLER] = Sampler(None, 0)
            app[PASSWORDS] = PasswordHasher(PasswordSettings())  # whose process starts with the first hash
            self.log.start()
            yield
            app[PASSWORDS].close()
            self.log.close()

        if self._routes is None:
            from service.all_routes import all_routes

            self._routes = all_routes()
        return build_app(self.settings, [parts], self._routes)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Edge"]:
        """Serve on a free port of loopback; `url` and `client` are then usable."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        runner = KasbahRunner(self.app(), self.settings, self.handler_class, shutdown_timeout=1)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with aiohttp.ClientSession(self.url) as self.client:
                yield self
        finally:
            await runner.cleanup()

    async def post(
        self, path: str, body: Any, key: str | None = None, headers: dict[str, str] | None = None
    ) -> "Answer":
        """Send JSON (or bytes as they are) and return the answer."""
        sent = {"Content-Type": "application/json"} | (headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        data = io.BytesIO(body) if isinstance(body, bytes) else aiohttp.payload.JsonPayload(body)
        return await self._answer(self.client.post(path, data=data, headers=sent))

    async def get(self, path: str, key: str | None = None, headers: dict[str, str] | None = None) -> "Answer":
        """Send a GET and return the answer."""
        sent = dict(headers or {}) | ({} if key is None else {"Authorization": f"Bearer {key}"})
        return await self._answer(self.client.get(path, headers=sent))

    async def raw_get(self, path: str, authorization: str) -> bytes:
        """Send a GET whose `Authorization` may hold any bytes (as surrogates), and return what comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n\r\n"
        writer.write(head.encode("utf-8", "surrogateescape"))
        try:
            async with asyncio.timeout(60):
                return await reader.read()
        finally:
            writer.close()

    async def _answer(self, request: Any) -> "Answer":
        async with request as response:
            return Answer(response.status, dict(response.headers), await response.read())


@dataclass(frozen=True)
class Answer:
    """Status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        import json

        return json.loads(self.body)


def question(subject: str, action: str, resource: str, **more: Any) -> dict[str, Any]:
    """Return the body of one evaluation."""
    kind, _, name = subject.partition(":")
    other, _, thing = resource.partition(":")
    return {
        "subject": {"type": kind, "id": name},
        "action": {"name": action},
        "resource": {"type": other, "id": thing},
    } | more
