"""Rows of policy tables and the values they stand for; what reading and writing share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from authz.errors import StorageUnavailableError
from authz.ports import EVERY_ROLE, RuleSet, StoredModel, TenantHead
from authz.request import Ref
from authz.rules import Effect, EntityKind, Owner, RoleLink, Rule, Source, StoredEntity
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.tenant_settings import MfaDemand
from tenancy.unit_of_work import TenantUnitOfWork, within

T = TypeVar("T")

ROWS_AT_ONCE = 500
"""Rows fetched and turned into values before the event loop runs again: some three milliseconds. Each portion is a
round trip."""

INDEXED_CHARACTERS = 256
"""How many characters of a name its index holds; see migration 0001."""

RULE_COLUMNS = "tenant_id, subject, resource, action, effect, condition, priority, owner, file, line"
LINK_COLUMNS = "tenant_id, kind, member, role, expires_at, owner, file, line"
MEMBERSHIP_COLUMNS = "tenant_id, 'g' AS kind, subject AS member, role, expires_at, owner, file, line"
ENTITY_COLUMNS = "kind, ref, properties, owner, file, line"
POLICY_ORDER = "ORDER BY (tenant_id <> CAST(:base AS uuid)), (owner <> 'files'), file, line, added_revision, position"


async def bounded(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`; every way in which PostgreSQL fails to answer in time is a `StorageUnavailableError`."""
    with policy_storage_errors():
        return await within(seconds, work)


@contextmanager
def policy_storage_errors() -> Iterator[None]:
    """Give failures of the database their name in this package."""
    try:
        yield
    except StorageUnavailableError:
        raise
    except DatabaseUnavailableError as error:
        raise StorageUnavailableError(str(error)) from error


async def read_model(session: AsyncSession) -> StoredModel:
    """Return the platform's model; any bound tenant may read it."""
    row = (await session.execute(text("SELECT text, digest FROM platform_model"))).one()
    return StoredModel(row.text, row.digest)


async def read_rule_set(work: TenantUnitOfWork, head: TenantHead) -> RuleSet:
    """Return what the bound tenant is decided by, as the transaction sees it; `head` is where it stands there."""
    model = await read_model(work.session)
    tenants = (BASE_TENANT_ID, work.tenant_id)
    rules = [rule async for rule in stream_rules(work, tenants)]
    links = [link async for link in stream_links(work, tenants)]
    return RuleSet(head, model, rules, links, await _read_mfa_roles(work))


async def _read_mfa_roles(work: TenantUnitOfWork) -> tuple[str, ...]:
    """Return the roles that demand a second factor; read as stored, so that all nodes read the same."""
    query = text("SELECT settings -> 'mfa' FROM tenant_settings WHERE tenant_id = :tenant_id")
    mfa = (await work.session.execute(query, {"tenant_id": work.tenant_id})).scalar_one_or_none() or {}
    if mfa.get("demand") == MfaDemand.REQUIRED:
        return (EVERY_ROLE,)
    return tuple(sorted(mfa.get("roles", ())))


async def stream_rules(work: TenantUnitOfWork, tenants: Sequence[TenantId]) -> AsyncIterator[Rule]:
    """Yield rules in policy order: base rows, file rows in line order, API rows as they came."""
    query = text(f"SELECT {RULE_COLUMNS} FROM rules WHERE tenant_id = ANY(:tenants) {POLICY_ORDER}")  # noqa: S608
    async for row in stream(work, query, {"tenants": list(set(tenants)), "base": BASE_TENANT_ID}):
        yield rule_of(row)


async def stream_links(work: TenantUnitOfWork, tenants: Sequence[TenantId]) -> AsyncIterator[RoleLink]:
    """Yield the hierarchy and `g2`, in the order of rules."""
    query = text(f"SELECT {LINK_COLUMNS} FROM role_links WHERE tenant_id = ANY(:tenants) {POLICY_ORDER}")  # noqa: S608
    async for row in stream(work, query, {"tenants": list(set(tenants)), "base": BASE_TENANT_ID}):
        yield link_of(row)


async def stream(work: TenantUnitOfWork, query: TextClause, parameters: Mapping[str, Any]) -> AsyncIterator[RowMapping]:
    """Yield the rows of a large result, letting the event loop run between portions."""
    options = {"stream_results": True, "max_row_buffer": ROWS_AT_ONCE}
    result = await work.session.stream(query, parameters, execution_options=options)
    try:
        async for partition in result.mappings().partitions(ROWS_AT_ONCE):
            for row in partition:
                yield row
            await asyncio.sleep(0)
    finally:
        await result.close()


def rule_of(row: RowMapping) -> Rule:
    """Return the rule in a result row that has `RULE_COLUMNS`."""
    return Rule(
        row["subject"],
        row["resource"],
        row["action"],
        Effect(row["effect"]),
        row["condition"],
        row["priority"],
        row["tenant_id"] == BASE_TENANT_ID,
        Owner(row["owner"]),
        source_of(row),
    )


def link_of(row: RowMapping) -> RoleLink:
    """Return the link in a result row that has `LINK_COLUMNS`."""
    return RoleLink(
        Ref(row["member"]),
        Ref(row["role"]),
        row["kind"],
        row["expires_at"],
        row["tenant_id"] == BASE_TENANT_ID,
        Owner(row["owner"]),
        source_of(row),
    )


def entity_of(row: RowMapping) -> StoredEntity:
    """Return the attributes in a result row that has `ENTITY_COLUMNS`."""
    return StoredEntity(
        EntityKind(row["kind"]), Ref(row["ref"]), row["properties"], Owner(row["owner"]), source_of(row)
    )


def source_of(row: RowMapping) -> Source | None:
    """Return where a file-owned row stands."""
    return None if row["file"] is None else Source(row["file"], row["line"])
