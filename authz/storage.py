"""Policies in PostgreSQL, as the decision path reads them."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from authz.errors import StorageUnavailableError, TenantNotFoundError
from authz.ports import (
    NO_SESSIONS,
    Account,
    AccountState,
    ChangedRow,
    FeedPage,
    Grant,
    Lookup,
    RuleSet,
    SubjectRecord,
    TenantHead,
    Touched,
)
from authz.request import NO_PROPERTIES, Properties, Ref
from authz.row_codec import from_microseconds, row_from_json
from authz.rules import Owner, Source, StoredEntity
from authz.storage_rows import INDEXED_CHARACTERS, bounded, read_rule_set
from tenancy.heads import find_head, head_of
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.one_trip import fetch_row
from tenancy.tenant import NO_STAMP
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, unbound_session

REQUEST_SECONDS = 2.5
LOAD_RULES_SECONDS = 30.0
MAX_TOUCHED = 1000
MAX_CHANGED_ROWS = 200
"""A snapshot is brought up by so many changed rows at most; after more, all rows are read."""

_ACCOUNT = re.compile(r"(user|service):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""A subject that may be an account: no other spelling of an id is one, and other ids are never looked for."""

_LOOKUP = text(
    """
    SELECT t.tenant_id, t.slug, t.status, t.revision, t.rules_revision, t.keys_revision, t.stamp,
        t.rules_stamp,
        (SELECT json_agg(json_build_array(m.subject, m.role,
                    CAST(extract(epoch FROM m.expires_at) * 1000000 AS bigint), m.owner, m.file, m.line))
         FROM memberships AS m
         WHERE m.tenant_id = :tenant_id AND m.subject_start = ANY(:subject_starts) AND m.subject = ANY(:subjects)
        ) AS grants,
        (SELECT json_agg(json_build_array(e.kind, e.ref, e.properties))
         FROM entities AS e
         WHERE e.tenant_id = :tenant_id AND (
            (e.kind = 'subject' AND e.ref_start = ANY(:subject_starts) AND e.ref = ANY(:subjects))
            OR (e.kind = 'resource' AND e.ref_start = ANY(:resource_starts) AND e.ref = ANY(:resources)))
        ) AS entities,
        (SELECT json_agg(json_build_array(u.user_id, u.status, u.auth_epoch,
                    CAST(extract(epoch FROM u.signed_out_at) * 1000000 AS bigint),
                    (SELECT json_agg(s.session_id) FROM ended_sessions AS s
                     WHERE s.tenant_id = :tenant_id AND s.user_id = u.user_id),
                    EXISTS (SELECT FROM authenticators AS f WHERE f.tenant_id = :tenant_id AND f.user_id = u.user_id
                        AND f.confirmed_at IS NOT NULL),
                    u.mfa_required))
         FROM users AS u WHERE u.tenant_id = :tenant_id AND u.user_id = ANY(CAST(:people AS uuid[]))
        ) AS people,
        (SELECT json_agg(json_build_array(a.service_account_id, a.status,
                    CAST(extract(epoch FROM a.signed_out_at) * 1000000 AS bigint)))
         FROM service_accounts AS a
         WHERE a.tenant_id = :tenant_id AND a.service_account_id = ANY(CAST(:services AS uuid[]))
        ) AS services
    FROM tenants AS t WHERE t.tenant_id = :tenant_id
    """
)

_TOUCHED = text(
    """
    WITH head AS (
        SELECT * FROM tenants WHERE tenant_id = :tenant_id
    ), later AS (
        SELECT kind, touched, rules_revision = revision AS of_rules FROM changes
        WHERE tenant_id = :tenant_id AND revision > :revision
    ), items AS (
        SELECT DISTINCT subject, resource FROM change_items
        WHERE tenant_id = :tenant_id AND revision > :revision AND (subject IS NOT NULL OR resource IS NOT NULL)
        LIMIT :limit
    ), named AS (
        SELECT DISTINCT unnest(touched) AS ref FROM later WHERE touched IS NOT NULL LIMIT :limit
    ), rule_items AS (
        SELECT revision, position, added, moved_from IS NOT NULL AS moved, "row" FROM change_items
        WHERE tenant_id = :tenant_id AND revision > :revision AND subject IS NULL AND resource IS NULL
        ORDER BY revision, position LIMIT :rule_limit
    )
    SELECT h.tenant_id, h.slug, h.status, h.revision, h.rules_revision, h.keys_revision, h.stamp, h.rules_stamp,
        (SELECT json_agg(json_build_array(added, moved, "row") ORDER BY revision, position) FROM rule_items) AS rows,
        (SELECT stamp FROM changes WHERE tenant_id = :tenant_id AND revision = :revision) AS stamp_then,
        (SELECT count(*) FROM later) AS changes,
        EXISTS (SELECT 1 FROM later WHERE kind IN ('base', 'model')) AS everything,
        EXISTS (SELECT 1 FROM later WHERE kind = 'settings' AND of_rules) AS settings,
        (SELECT array_agg(subject) FILTER (WHERE subject IS NOT NULL) FROM items) AS subjects,
        (SELECT array_agg(resource) FILTER (WHERE resource IS NOT NULL) FROM items) AS resources,
        (SELECT array_agg(ref) FROM named) AS named
    FROM head AS h
    """
)

# The horizon and the heads come from one statement, so from one snapshot.
_POLL = text(
    """
    SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS horizon, clock_timestamp() AS now,
        pg_is_in_recovery() AS standby, pg_postmaster_start_time() AS started,
        pg_relation_filenode('public.tenants') AS file, h.*
    FROM (SELECT) AS one LEFT JOIN tenants_changed_since(CAST(CAST(:cursor AS text) AS xid8)) AS h ON true
    """
)
# Which database this is: another cluster, a promoted standby (a new timeline) and a copy beside it are told apart.
_LINEAGE = text(
    """
    SELECT concat_ws('/', s.system_identifier, c.timeline_id,
        (SELECT oid FROM pg_database WHERE datname = current_database()))
    FROM pg_control_system() AS s, pg_control_checkpoint() AS c
    """
)
_LINEAGE_RIGHT = text(
    """
    SELECT has_function_privilege('pg_control_system()', 'EXECUTE')
        AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
    """
)
_NEVER = 2**63 - 1
"""A horizon that no transaction reaches: the first poll asks for the cursor alone."""

_SUBJECT_CANDIDATES = text(
    """
    SELECT ref FROM (
        (SELECT DISTINCT subject_start AS start, subject AS ref FROM memberships
         WHERE tenant_id = :tenant_id AND subject_start >= :low_start AND subject > :low AND subject_start < :high
         ORDER BY subject_start, subject LIMIT :limit)
        UNION
        (SELECT ref_start, ref FROM entities
         WHERE tenant_id = :tenant_id AND kind = 'subject' AND ref_start >= :low_start AND ref > :low
           AND ref_start < :high
         ORDER BY ref_start, ref LIMIT :limit)
    ) AS found ORDER BY ref LIMIT :limit
    """
)

_RESOURCE_CANDIDATES = text(
    """
    SELECT ref FROM entities
    WHERE tenant_id = :tenant_id AND kind = 'resource' AND ref_start >= :low_start AND ref > :low AND ref_start < :high
    ORDER BY ref_start, ref LIMIT :limit
    """
)


_HOLDS_AT_MOST = text(
    """
    SELECT (SELECT count(*) FROM (SELECT FROM rules WHERE tenant_id = ANY(:tenants) LIMIT :rules + 1) AS r) <= :rules
        AND (SELECT count(*) FROM (SELECT FROM role_links WHERE tenant_id = ANY(:tenants) LIMIT :links + 1) AS l)
            <= :links
    """
)


class PostgresPolicyReader:
    """`PolicyReader` on PostgreSQL; the primary, never a standby."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        request_seconds: float = REQUEST_SECONDS,
        load_rules_seconds: float = LOAD_RULES_SECONDS,
    ) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds
        self._load_seconds = load_rules_seconds
        self._may_read_lineage: bool | None = None

    async def find_tenant(self, tenant_id: TenantId) -> TenantHead | None:
        """Return the head, or None for an unknown tenant."""
        return await bounded(self._seconds, lambda: self._find_tenant(tenant_id))

    async def find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        """Return the head, or None for an unknown slug."""
        return await bounded(self._seconds, lambda: self._find_tenant_by_slug(slug))

    async def load_rules(self, tenant_id: TenantId) -> RuleSet:
        """Return the rule set as of one database snapshot; raises `TenantNotFoundError`."""
        return await bounded(self._load_seconds, lambda: self._load_rules(tenant_id))

    async def lookup(self, tenant_id: TenantId, subjects: Sequence[Ref], resources: Sequence[Ref]) -> Lookup:
        """Return grants and stored properties of the named subjects and resources, from one SQL statement."""
        return await bounded(self._seconds, lambda: self._lookup(tenant_id, subjects, resources))

    async def touched_since(self, tenant_id: TenantId, revision: int, stamp: UUID = NO_STAMP) -> Touched:
        """Return which subjects and resources changed after `revision`, which is the one with this stamp."""
        return await bounded(self._seconds, lambda: self._touched_since(tenant_id, revision, stamp))

    async def poll(self, cursor: int | None) -> FeedPage:
        """Return what changed since `cursor`; None starts at now with no heads, 0 is all of them.

        Refuses to run on a standby.
        """
        return await bounded(self._seconds, lambda: self._poll(cursor))

    async def list_subject_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return ids > `after` (by code point) of subjects of type `kind` in memberships and entities, ascending."""
        return await bounded(
            self._seconds, lambda: self._candidates(_SUBJECT_CANDIDATES, tenant_id, kind, after, limit)
        )

    async def list_resource_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return ids > `after` (by code point) of resources of type `kind` in stored entities, ascending."""
        return await bounded(
            self._seconds, lambda: self._candidates(_RESOURCE_CANDIDATES, tenant_id, kind, after, limit)
        )

    async def holds_at_most(self, tenant_id: TenantId, *, rules: int, links: int) -> bool:
        """Return whether there are no more rules and links, the base rows included; reads no row beyond."""
        return await bounded(self._seconds, lambda: self._holds_at_most(tenant_id, rules, links))

    async def _find_tenant(self, tenant_id: TenantId) -> TenantHead | None:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            return await find_head(work.session, tenant_id)

    async def _find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        async with unbound_session(self._sessions) as session:
            tenant_id = (await session.execute(text("SELECT find_tenant_id(:slug)"), {"slug": slug})).scalar_one()
        return None if tenant_id is None else await self._find_tenant(TenantId(tenant_id))

    async def _load_rules(self, tenant_id: TenantId) -> RuleSet:
        timeout = timedelta(seconds=self._load_seconds)
        async with tenant_unit_of_work(
            self._sessions, tenant_id, statement_timeout=timeout, repeatable_read=True
        ) as work:
            head = await find_head(work.session, tenant_id)
            if head is None:
                raise TenantNotFoundError(f"no tenant has the id `{tenant_id}`")
            return await read_rule_set(work, head)

    async def _holds_at_most(self, tenant_id: TenantId, rules: int, links: int) -> bool:
        parameters = {"tenants": [BASE_TENANT_ID, tenant_id], "rules": rules, "links": links}
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            return bool((await work.session.execute(_HOLDS_AT_MOST, parameters)).scalar_one())

    async def _lookup(self, tenant_id: TenantId, subjects: Sequence[Ref], resources: Sequence[Ref]) -> Lookup:
        parameters = {
            "tenant_id": tenant_id,
            "subjects": list(subjects),
            "subject_starts": [ref[:INDEXED_CHARACTERS] for ref in subjects],
            "resources": list(resources),
            "resource_starts": [ref[:INDEXED_CHARACTERS] for ref in resources],
            "people": _ids_of("user", subjects),
            "services": _ids_of("service", subjects),
        }
        row = await fetch_row(self._sessions, tenant_id, _LOOKUP, parameters)
        if row is None:
            raise TenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        grants: dict[Ref, list[Grant]] = {}
        for subject, role, expires, owner, file, line in row.grants or ():
            expires_at = None if expires is None else from_microseconds(expires)
            source = None if file is None else Source(file, line)
            grants.setdefault(Ref(subject), []).append(Grant(Ref(role), expires_at, Owner(owner), source))
        stored: dict[tuple[str, str], Properties] = {(kind, ref): found for kind, ref, found in row.entities or ()}
        accounts = {f"user:{identifier}": _account(said) for identifier, *said in row.people or ()}
        accounts |= {f"service:{identifier}": _service_account(*said) for identifier, *said in row.services or ()}
        return Lookup(
            head_of(row),
            {
                ref: SubjectRecord(
                    tuple(grants.get(ref, ())), stored.get(("subject", ref), NO_PROPERTIES), accounts.get(ref)
                )
                for ref in subjects
            },
            {ref: stored.get(("resource", ref), NO_PROPERTIES) for ref in resources},
        )

    async def _touched_since(self, tenant_id: TenantId, revision: int, stamp: UUID) -> Touched:
        limits = {"limit": MAX_TOUCHED + 1, "rule_limit": MAX_CHANGED_ROWS + 1}
        parameters = {"tenant_id": tenant_id, "revision": revision} | limits
        row = await fetch_row(self._sessions, tenant_id, _TOUCHED, parameters)
        if row is None:
            raise TenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        head = head_of(row)
        # Entries from before there were stamps have none: what they say is taken as it was then.
        if NO_STAMP not in {stamp, row.stamp_then or NO_STAMP} and row.stamp_then != stamp:
            return Touched(head, everything=True, same_history=False)
        named = frozenset(row.named or ())
        subjects, resources = named.union(row.subjects or ()), named.union(row.resources or ())
        # A history that is not the one this revision came from (restored database) cannot say what changed.
        gap = row.changes != head.revision - revision
        if gap or row.everything or len(subjects) + len(resources) > MAX_TOUCHED:
            return Touched(head, everything=True)
        # Which roles demand a second factor is no row, and belongs to the rule set.
        known = row.stamp_then == stamp and not row.settings
        changed = _changed_rows(row.rows or ()) if known else None
        return Touched(head, everything=False, subjects=subjects, resources=resources, changed_rows=changed)

    async def _poll(self, cursor: int | None) -> FeedPage:
        async with unbound_session(self._sessions) as session:
            rows = (await session.execute(_POLL, {"cursor": _NEVER if cursor is None else cursor})).all()
            first = rows[0]
            if first.standby:
                raise StorageUnavailableError("this database is a standby: only the primary confirms")
            restarted = cursor is not None and first.horizon < cursor
            if restarted:
                rows = (await session.execute(_POLL, {"cursor": 0})).all()
            lineage = await self._lineage(session)
        # INVARIANT: the cursor is the horizon that the first statement saw, never a later one.
        heads = [head_of(row) for row in rows if row.tenant_id is not None]
        return FeedPage(
            heads,
            min(first.horizon, rows[0].horizon),
            first.now,
            restarted,
            lineage,
            f"{first.started.isoformat()}/{first.file}",
        )

    async def _lineage(self, session: AsyncSession) -> str:
        """Return which database this is; empty where the service may not ask (some hosted ones)."""
        if self._may_read_lineage is None:
            self._may_read_lineage = bool((await session.execute(_LINEAGE_RIGHT)).scalar_one())
        return str((await session.execute(_LINEAGE)).scalar_one()) if self._may_read_lineage else ""

    async def _candidates(
        self, query: TextClause, tenant_id: TenantId, kind: str, after: str, limit: int
    ) -> Sequence[str]:
        low, high = f"{kind}:{after}", f"{kind};"  # `;` is the code point after `:`
        parameters = {
            "tenant_id": tenant_id,
            "low": low,
            "low_start": low[:INDEXED_CHARACTERS],
            "high": high,
            "limit": limit,
        }
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            refs = (await work.session.execute(query, parameters)).scalars().all()
        return [ref[len(kind) + 1 :] for ref in refs]


def _account(said: Sequence[Any]) -> Account:
    status, auth_epoch, signed_out, ended, has_factors, mfa_required = said
    sessions = frozenset(map(UUID, ended)) if ended else NO_SESSIONS
    return Account(AccountState(status), auth_epoch, sessions, has_factors, _moment(signed_out), mfa_required)


def _service_account(status: str, signed_out: int | None) -> Account:
    return Account(AccountState(status), signed_out_at=_moment(signed_out))


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


def _changed_rows(items: Sequence[tuple[bool, bool, Mapping[str, Any]]]) -> tuple[ChangedRow, ...] | None:
    """Return what items of the history say about rules and links; None where more must be known."""
    if len(items) > MAX_CHANGED_ROWS or any(moved for _, moved, _ in items):
        return None
    found = [(added, row_from_json(data)) for added, _, data in items]
    return tuple(ChangedRow(added, row) for added, row in found if not isinstance(row, StoredEntity))


def _ids_of(kind: str, subjects: Sequence[Ref]) -> list[str]:
    """Return the ids of those subjects that may be accounts of one kind."""
    found = (_ACCOUNT.fullmatch(ref) for ref in subjects)
    return [match[2] for match in found if match is not None and match[1] == kind]
