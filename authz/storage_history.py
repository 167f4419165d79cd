"""Policies in PostgreSQL, as administration reads them: everything, page by page, and as it was."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import RowMapping, text

from authz.errors import RevisionNotFoundError, TenantNotFoundError
from authz.ports import StoredModel, TenantHead
from authz.request import Ref
from authz.row_changes import KINDS
from authz.row_codec import row_from_json
from authz.rules import Owner, Row, RuleId, Source, row_id
from authz.storage_rows import INDEXED_CHARACTERS, bounded, read_model, stream, stream_links, stream_rules
from authz.storage_tables import read_rows, value_of
from authz.write_ports import Change, ChangeItem, ChangeKind, CurrentRows, RowPage
from tenancy.heads import find_head
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

T = TypeVar("T")

REQUEST_SECONDS = 2.5
SECONDS_PER_ROW = 0.002

# Both halves are read in the order of their own index, so a page costs no more than its rows.
_RULES_AND_LINKS = """
SELECT * FROM (
    (SELECT rule_id AS id, 'p' AS ptype, tenant_id, subject, resource, action, effect, condition, priority,
            NULL AS kind, NULL AS member, NULL AS role, CAST(NULL AS timestamptz) AS expires_at, owner, file, line
     FROM rules WHERE tenant_id = :tenant_id AND rule_id > :after {owner} ORDER BY rule_id LIMIT :limit)
    UNION ALL
    (SELECT link_id, 'g', tenant_id, NULL, NULL, NULL, NULL, NULL, NULL, kind, member, role, expires_at,
            owner, file, line
     FROM role_links WHERE tenant_id = :tenant_id AND link_id > :after {owner} ORDER BY link_id LIMIT :limit)
) AS found ORDER BY id LIMIT :limit
"""

_MEMBERSHIPS = """
SELECT link_id AS id, tenant_id, 'g' AS kind, subject AS member, role, expires_at, owner, file, line
FROM memberships WHERE tenant_id = :tenant_id AND link_id > :after {filters} ORDER BY link_id LIMIT :limit
"""

_ENTITIES = """
SELECT entity_id AS id, kind, ref, properties, owner, file, line
FROM entities WHERE tenant_id = :tenant_id AND entity_id > :after ORDER BY entity_id LIMIT :limit
"""

_CHANGES = """
SELECT revision, rules_revision, kind, actor, reason, git_commit, request_id, at, added, removed, rolled_back_to
FROM changes WHERE tenant_id = :tenant_id AND {bound} ORDER BY revision {direction} LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class _Page:
    """Which page of whose rows."""

    tenant_id: TenantId
    after: str | None
    limit: int


class PostgresPolicyHistory:
    """The reading half of `PolicyWriter`."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Keep where units of work come from, and how long a page may take; reading everything may take longer."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def current_rows(self, tenant_id: TenantId) -> CurrentRows:
        """Return everything a plan needs, from one database snapshot."""
        return await self._read_all(tenant_id, lambda work, head: _current_rows(work, head, links_only=False))

    async def hierarchy(self, tenant_id: TenantId) -> CurrentRows:
        """Return hierarchy and `g2` links alone (the tenant's and the base's): no rules, memberships or entities."""
        return await self._read_all(tenant_id, lambda work, head: _current_rows(work, head, links_only=True))

    async def file_rows_at(self, tenant_id: TenantId, revision: int) -> Sequence[Row]:
        """Return the file-owned rows as they were at `revision`; raises `RevisionNotFoundError`."""
        return await self._read_all(tenant_id, lambda work, head: _file_rows_at(work, head, revision), since=revision)

    async def list_rules(
        self, tenant_id: TenantId, *, after: str | None, limit: int, owner: Owner | None = None
    ) -> RowPage:
        """Return rules and hierarchy links (`g` between roles and groups, `g2`)."""
        query = _RULES_AND_LINKS.format(owner="" if owner is None else "AND owner = :owner")
        parameters: dict[str, Any] = {} if owner is None else {"owner": owner.value}

        def value(row: RowMapping) -> Row:
            return value_of("rules" if row["ptype"] == "p" else "links", row)

        return await self._page(_Page(tenant_id, after, limit), query, parameters, value)

    async def list_memberships(
        self, tenant_id: TenantId, *, after: str | None, limit: int, subject: Ref | None = None, role: Ref | None = None
    ) -> RowPage:
        """Return memberships, filtered by subject or role when given."""
        filters = ""
        parameters: dict[str, Any] = {}
        for column, wanted in (("subject", subject), ("role", role)):
            if wanted is not None:
                filters += f" AND {column}_start = :{column}_start AND {column} = :{column}"
                parameters |= {column: wanted, f"{column}_start": wanted[:INDEXED_CHARACTERS]}
        query = _MEMBERSHIPS.format(filters=filters)
        page = _Page(tenant_id, after, limit)
        return await self._page(page, query, parameters, lambda row: value_of("memberships", row))

    async def list_entities(self, tenant_id: TenantId, *, after: str | None, limit: int) -> RowPage:
        """Return stored attributes."""
        page = _Page(tenant_id, after, limit)
        return await self._page(page, _ENTITIES, {}, lambda row: value_of("entities", row))

    async def list_changes(
        self, tenant_id: TenantId, *, after_revision: int, limit: int, newest_first: bool = False
    ) -> Sequence[Change]:
        """Return changes with a revision above `after_revision` (below it when `newest_first`; 0 starts at the end)."""
        bound = "revision > :after"
        if newest_first:
            bound = "revision < :after" if after_revision > 0 else "true"
        query = _CHANGES.format(bound=bound, direction="DESC" if newest_first else "ASC")
        parameters: dict[str, Any] = {"limit": limit}
        if ":after" in bound:
            parameters["after"] = after_revision

        async def read(work: TenantUnitOfWork, _: TenantHead) -> Sequence[Change]:
            rows = await work.session.execute(text(query), parameters | {"tenant_id": work.tenant_id})
            return [_change(row) for row in rows.mappings()]

        return await self._read(tenant_id, read)

    async def list_change_items(
        self, tenant_id: TenantId, revision: int, *, after: int, limit: int
    ) -> Sequence[ChangeItem]:
        """Return items of one change, leaving out the first `after`; raises `RevisionNotFoundError`."""
        query = text(
            'SELECT added, "row" FROM change_items WHERE tenant_id = :tenant_id AND revision = :revision '
            "AND position >= :after AND moved_from IS NULL ORDER BY position LIMIT :limit"
        )

        async def read(work: TenantUnitOfWork, head: TenantHead) -> Sequence[ChangeItem]:
            _require_revision(head, revision)
            parameters = {"tenant_id": tenant_id, "revision": revision, "after": after, "limit": limit}
            base = tenant_id == BASE_TENANT_ID
            rows = (await work.session.execute(query, parameters)).all()
            return [ChangeItem(row.added, row_from_json(row.row, base=base)) for row in rows]

        return await self._read(tenant_id, read)

    async def get_model(self) -> StoredModel:
        """Return the platform's model."""

        async def read(work: TenantUnitOfWork, _: TenantHead) -> StoredModel:
            return await read_model(work.session)

        return await self._read(BASE_TENANT_ID, read)

    async def _page(
        self, page: _Page, query: str, parameters: dict[str, Any], value: Callable[[RowMapping], Row]
    ) -> RowPage:
        limit = page.limit
        after = bytes.fromhex(page.after or "")
        named = parameters | {"tenant_id": page.tenant_id, "after": after, "limit": limit + 1}

        async def read(work: TenantUnitOfWork, head: TenantHead) -> RowPage:
            found = (await work.session.execute(text(query), named)).mappings().all()
            cursor = found[limit - 1]["id"].hex() if len(found) > limit else None
            return RowPage([value(row) for row in found[:limit]], cursor, head)

        return await self._read(page.tenant_id, read)

    async def _read(self, tenant_id: TenantId, read: Callable[[TenantUnitOfWork, TenantHead], Awaitable[T]]) -> T:
        return await bounded(self._seconds, lambda: self._in_one_snapshot(tenant_id, read, self._seconds))

    async def _read_all(
        self,
        tenant_id: TenantId,
        read: Callable[[TenantUnitOfWork, TenantHead], Awaitable[T]],
        *,
        since: int | None = None,
    ) -> T:
        seconds = self._seconds + SECONDS_PER_ROW * await self._count_rows(tenant_id, since=since)
        return await bounded(seconds, lambda: self._in_one_snapshot(tenant_id, read, seconds))

    async def _count_rows(self, tenant_id: TenantId, *, since: int | None = None) -> int:
        """Return how many rows the tenant holds, and how many changed since a revision.

        So the bound of a long call follows its size, and a database that does not answer is found out as soon as by any
        other call.
        """
        query = text(
            "SELECT rules_count + links_count + memberships_count + entities_count "
            "+ coalesce((SELECT sum(c.added + c.removed + 100) FROM changes AS c "
            "WHERE c.tenant_id = t.tenant_id AND c.revision > :since), 0) "
            "FROM tenants AS t WHERE t.tenant_id = :tenant_id"
        )

        async def read(work: TenantUnitOfWork, head: TenantHead) -> int:
            parameters = {"tenant_id": tenant_id, "since": head.revision if since is None else since}
            return int((await work.session.execute(query, parameters)).scalar_one())

        return await self._read(tenant_id, read)

    async def _in_one_snapshot(
        self, tenant_id: TenantId, read: Callable[[TenantUnitOfWork, TenantHead], Awaitable[T]], seconds: float
    ) -> T:
        async with tenant_unit_of_work(
            self._sessions, tenant_id, statement_timeout=timedelta(seconds=seconds), repeatable_read=True
        ) as work:
            head = await find_head(work.session, tenant_id)
            if head is None:
                raise TenantNotFoundError(f"no tenant has the id `{tenant_id}`")
            return await read(work, head)


async def _current_rows(work: TenantUnitOfWork, head: TenantHead, *, links_only: bool) -> CurrentRows:
    model = await read_model(work.session)
    own, base = (head.tenant_id,), (BASE_TENANT_ID,)
    is_base = head.tenant_id == BASE_TENANT_ID
    links = [link async for link in stream_links(work, own)]
    base_links = [] if is_base else [link async for link in stream_links(work, base)]
    if links_only:
        return CurrentRows(head, model, (), links, (), (), base_links)
    rules = [rule async for rule in stream_rules(work, own)]
    base_rules = [] if is_base else [rule async for rule in stream_rules(work, base)]
    memberships = [row async for _, row in read_rows(work, "memberships")]
    entities = [row async for _, row in read_rows(work, "entities")]
    return CurrentRows(head, model, rules, [*links, *memberships], entities, base_rules, base_links)  # type: ignore[list-item,arg-type]  # each kind reads rows of its own type


async def _file_rows_at(work: TenantUnitOfWork, head: TenantHead, revision: int) -> Sequence[Row]:
    """Undo, newest first, what later changes did to rows of the files."""
    _require_revision(head, revision)
    rows: dict[RuleId, Row] = {}
    for kind in KINDS:
        rows |= {identifier: row async for identifier, row in read_rows(work, kind, owner=Owner.FILES)}
    query = text(
        'SELECT added, "row", moved_from FROM change_items WHERE tenant_id = :tenant_id AND revision > :revision '
        "ORDER BY revision DESC, position DESC"
    )
    base = head.tenant_id == BASE_TENANT_ID
    async for item in stream(work, query, {"tenant_id": head.tenant_id, "revision": revision}):
        row = row_from_json(item["row"], base=base)
        if row.owner is not Owner.FILES:
            continue
        identifier = row_id(row.key)
        if item["moved_from"] is not None:
            rows[identifier] = replace(row, source=Source(*item["moved_from"]))
        elif item["added"]:
            rows.pop(identifier, None)
        else:
            rows[identifier] = row
    return list(rows.values())


def _require_revision(head: TenantHead, revision: int) -> None:
    if not 1 <= revision <= head.revision:
        raise RevisionNotFoundError(f"the tenant never had revision {revision}; it is at {head.revision}")


def _change(row: RowMapping) -> Change:
    return Change(
        row["revision"],
        row["rules_revision"],
        ChangeKind(row["kind"]),
        ChangeMeta(row["actor"], row["reason"], row["git_commit"], row["request_id"]),
        row["at"],
        row["added"],
        row["removed"],
        row["rolled_back_to"],
    )
