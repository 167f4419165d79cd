"""People with personal keys on the application of `tests/support/administration.py`, and the base that is shipped."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from authn.api_keys import SCOPES
from authn.key_rows import insert_personal_key
from authn.user_rows import insert_user
from authn.users import NewUser, UserId, normalize_email, normalize_username
from authz.policy_files import read_directory
from authz.request import Ref
from authz.rules import Owner, RoleLink, Row
from authz.storage_write import PostgresPolicyWriter
from tenancy.audit import AuditEntry
from tenancy.database import open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work
from tests.support.administration import META, Service
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Person:
    """An account with a key; `tenant` is its slug, None for people of the platform."""

    id: UUID
    tenant_id: TenantId
    tenant: str | None
    key: str

    @property
    def ref(self) -> Ref:
        """What rules call it."""
        return Ref(f"user:{self.id}")


class People:
    """Makes people in the database, as no route would: what they may do is decided by their roles alone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.sessions: Sessions = open_sessions(service._engine)
        self._writer = PostgresPolicyWriter(self.sessions)

    async def base(self) -> None:
        """Give the installation the base that is shipped."""
        await self.write(BASE_TENANT_ID, shipped_base(), Owner.FILES)

    async def tenant_id(self, slug: str | None) -> TenantId:
        """Return a tenant's id, made if it is not there; without a slug the platform's."""
        if slug is None:
            return PLATFORM_TENANT_ID
        return await self._service.bootstrap.ensure_tenant(slug, slug, meta=META)

    async def write(self, tenant_id: TenantId, rows: Iterable[Row], owner: Owner = Owner.API) -> None:
        """Put rows into a policy without asking anybody."""
        await self._writer.change_rows(tenant_id, add=list(rows), remove=[], owner=owner, meta=ChangeMeta("test"))

    async def take(self, tenant_id: TenantId, rows: Iterable[Row]) -> None:
        """Take rows of the API out of a policy without asking anybody."""
        keys = [row.key for row in rows]
        await self._writer.change_rows(tenant_id, add=[], remove=keys, owner=Owner.API, meta=ChangeMeta("test"))

    async def person(
        self, slug: str | None, name: str, *roles: str, scopes: frozenset[str] = SCOPES, days: int = 30
    ) -> Person:
        """Return a new person with these roles and a key with these scopes."""
        tenant_id = await self.tenant_id(slug)
        async with tenant_unit_of_work(self.sessions, tenant_id) as work:
            await lock_head(work)
            new = NewUser(normalize_username(name), normalize_email(f"{name}@example.com"))
            user = await insert_user(work, new, created_by="test")
            head = await raise_head(work, counts={"users": 1})
            entry = AuditEntry("user.create", user.ref)
            await record_change(work.session, head, "user", META, audit=[entry], touched=[user.ref])
        if roles:
            await self.write(tenant_id, [RoleLink(Ref(user.ref), Ref(role)) for role in roles])
        return Person(user.id, tenant_id, slug, await self.key(tenant_id, user.id, scopes=scopes, days=days))

    async def key(self, tenant_id: TenantId, user_id: UUID, *, scopes: frozenset[str] = SCOPES, days: int = 30) -> str:
        """Return one more key of a person."""
        async with tenant_unit_of_work(self.sessions, tenant_id) as work:
            await lock_head(work)
            made = await insert_personal_key(
                work,
                UserId(user_id),
                "test",
                now=datetime.now(UTC),
                created_by="test",
                scopes=scopes,
                ttl=timedelta(days=days),
            )
            head = await raise_head(work, keys=True)
            await record_change(work.session, head, "key", META, added=1)
        return made[0]


@lru_cache(maxsize=1)
def shipped_base() -> tuple[Row, ...]:
    """Return the rows of `policies/_base`."""
    files = read_directory(ROOT / "policies").base
    return (*files.rules, *files.links)
