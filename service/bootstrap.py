"""The first key of an installation, and the keys of a development server: made in the database, without a server.

Every other key is made through the API, by the holder of a key. This is the one step that needs the database's own
credentials, so whoever can take it could read the tables anyway.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from authn.api_keys import SCOPES, hash_token, new_api_key
from authn.bootstrap import BootstrapToken, is_administrated, is_good, make_bootstrap_token
from authn.storage import ApiKeyStore
from authz.storage_write import PostgresPolicyWriter
from authz.write_ports import ChangeKind
from service.shipped_base import shipped_base
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.create_tenant import create_tenant
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.errors import SlugTakenError
from tenancy.heads import lock_head
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId, TenantStatus
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tenancy.uuid7 import make_uuid7

PATIENCE_SECONDS = 30.0
PATIENT = DatabaseLimits(
    pool_wait_seconds=PATIENCE_SECONDS,
    connect_seconds=int(PATIENCE_SECONDS),
    statement_seconds=PATIENCE_SECONDS,
    lock_seconds=PATIENCE_SECONDS,
)
"""Nobody waits behind these statements, and a machine that is just starting everything is slow."""

BOOTSTRAP = ChangeMeta("bootstrap", "made in the database, without a server")
DEVELOPMENT = ChangeMeta("kasbah dev", "sample tenant of the development server")


class Bootstrap:
    """Creates tenants and keys on an open database."""

    def __init__(self, engine: AsyncEngine) -> None:
        sessions = self._sessions = open_sessions(engine)
        self._policy = PostgresPolicyWriter(sessions, request_seconds=PATIENCE_SECONDS)
        self._keys = ApiKeyStore(sessions, request_seconds=PATIENCE_SECONDS)
        self._tenants = TenantStore(sessions, request_seconds=PATIENCE_SECONDS)

    async def create_key(
        self, tenant_id: TenantId, name: str, *, scopes: frozenset[str] = SCOPES, meta: ChangeMeta = BOOTSTRAP
    ) -> str:
        """Create a key and return its token, which nobody can read again."""
        now = datetime.now(UTC)
        token, key, key_hash = new_api_key(
            tenant_id,
            name,
            scopes,
            key_id=make_uuid7(now, secrets.token_bytes(10)),
            entropy=secrets.token_bytes(36),
            now=now,
            created_by=meta.actor,
        )
        await self._keys.create(key, key_hash, meta=meta)
        return token

    async def keep_key(self, tenant_id: TenantId, name: str, held: str | None, *, meta: ChangeMeta) -> str:
        """Return `held` while it is a live key of this tenant with every scope, or a new one."""
        if held is not None:
            found = await self._keys.find_by_hash(hash_token(held))
            if (
                found is not None
                and found.key.tenant_id == tenant_id
                and found.key.is_live(datetime.now(UTC))
                and found.key.scopes >= SCOPES
            ):
                return held
        return await self.create_key(tenant_id, name, meta=meta)

    async def seed_base(self, *, meta: ChangeMeta = BOOTSTRAP) -> bool:
        """Give the installation the shipped base if nobody ever wrote one; return whether it did."""
        for kind in (ChangeKind.APPLY, ChangeKind.API, ChangeKind.ROLLBACK):
            if await self._tenants.was_changed_by(BASE_TENANT_ID, kind):
                return False
        head = (await self._policy.hierarchy(BASE_TENANT_ID)).head
        await self._policy.replace_file_rows(BASE_TENANT_ID, shipped_base(), meta=meta, expected_revision=head.revision)
        return True

    async def administrator_token(self, *, again: bool = False, meta: ChangeMeta = BOOTSTRAP) -> BootstrapToken | None:
        """Return a new one-time token for an administrator of the platform.

        None where there is an administrator already, unless `again`: whoever lost every way in makes another one.
        """
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            await lock_head(work)
            if not again and await is_administrated(work):
                return None
            made = await make_bootstrap_token(work)
            detail = {"expires_at": made.expires_at.isoformat()}
            await append_audit(work, meta, [AuditEntry("bootstrap.token", detail=detail)])
            return made

    async def keep_administrator_token(self, held: str | None, *, meta: ChangeMeta) -> str | None:
        """Return `held` while it still makes the first administrator, or a new one; None where there is one."""
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            if held is not None and not await is_administrated(work) and await is_good(work, held):
                return held
        made = await self.administrator_token(meta=meta)
        return None if made is None else made.token

    async def was_applied(self, tenant_id: TenantId) -> bool:
        """Whether policy files were ever applied to this tenant."""
        return await self._tenants.was_changed_by(tenant_id, "apply")

    async def ensure_tenant(self, slug: str, display_name: str, *, meta: ChangeMeta) -> TenantId:
        """Return the tenant with this slug, created if there is none; raises `SlugTakenError` when it was deleted."""
        tenant = await self._tenants.find_by_slug(slug)
        if tenant is not None:
            if tenant.head.status in {TenantStatus.DELETING, TenantStatus.DELETED}:
                raise SlugTakenError(slug)
            return tenant.head.tenant_id
        return (await create_tenant(slug, display_name, meta=meta, tenants=self._tenants)).tenant_id


async def create_platform_key(database_url: str, name: str) -> str:
    """Create a platform key with every scope and return its token."""
    engine = open_engine(database_url, PATIENT)
    try:
        return await Bootstrap(engine).create_key(PLATFORM_TENANT_ID, name)
    finally:
        await engine.dispose()


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """What a new installation is begun with."""

    platform_key: str | None = field(repr=False)
    administrator: BootstrapToken | None
    seeded_base: bool


async def begin(database_url: str, key_name: str | None, *, administrator_again: bool = False) -> FirstSteps:
    """Give an installation its base, a platform key (if it has a name), and a token for its first administrator."""
    engine = open_engine(database_url, PATIENT)
    try:
        bootstrap = Bootstrap(engine)
        seeded = await bootstrap.seed_base()
        key = None if key_name is None else await bootstrap.create_key(PLATFORM_TENANT_ID, key_name)
        return FirstSteps(key, await bootstrap.administrator_token(again=administrator_again), seeded)
    finally:
        await engine.dispose()


@dataclass(frozen=True, slots=True)
class Prepared:
    """The keys of a development server, and whether policy files were ever applied to one of its tenants.

    `administrator_token` works once, where the platform has no administrator yet.
    """

    platform_key: str = field(repr=False)
    tenant_keys: dict[str, str] = field(repr=False)
    was_applied: bool
    administrator_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Held:
    """What an earlier start of the development server was given."""

    platform_key: str | None = field(repr=False)
    tenant_keys: dict[str, str] = field(repr=False)
    administrator_token: str | None = field(repr=False)


async def prepare_development(database_url: str, slugs: Sequence[str], held: Held) -> Prepared:
    """Create the sample tenants and the keys of a development server, where they are missing."""
    engine = open_engine(database_url, PATIENT)
    try:
        bootstrap = Bootstrap(engine)
        platform_key = await bootstrap.keep_key(
            PLATFORM_TENANT_ID, "development platform key", held.platform_key, meta=DEVELOPMENT
        )
        keys = {}
        was_applied = False
        for slug in slugs:
            try:
                tenant_id = await bootstrap.ensure_tenant(slug, slug.replace("-", " ").title(), meta=DEVELOPMENT)
            except SlugTakenError:
                continue  # somebody tried deletion
            keys[slug] = await bootstrap.keep_key(
                tenant_id, "development key", held.tenant_keys.get(slug), meta=DEVELOPMENT
            )
            was_applied = was_applied or await bootstrap.was_applied(tenant_id)
        token = await bootstrap.keep_administrator_token(held.administrator_token, meta=DEVELOPMENT)
        return Prepared(platform_key, keys, was_applied, token)
    finally:
        await engine.dispose()
