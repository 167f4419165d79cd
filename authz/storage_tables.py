"""Bulk statements on the four tables of policy rows, and on the items of a change."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import RowMapping, text

from authz.row_changes import KINDS, RowChanges, kind_of
from authz.row_codec import canonical_json, row_to_json
from authz.rules import EntityKind, Owner, RoleLink, Row, Rule, RuleId, StoredEntity
from authz.storage_rows import (
    ENTITY_COLUMNS,
    LINK_COLUMNS,
    MEMBERSHIP_COLUMNS,
    RULE_COLUMNS,
    entity_of,
    link_of,
    rule_of,
    stream,
)
from tenancy.unit_of_work import TenantUnitOfWork

PORTION = 1000
"""Rows per statement: large enough to be fast, small enough that the event loop is not held up."""


_QUOTE = "\x01"
"""Stands for `"` on the way: JSON text has many of them and never this one, and each would be escaped in an array."""


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    id_column: str
    columns: tuple[tuple[str, str], ...]
    """Written columns after tenant and id, with the type of the array that carries them."""
    read: str


_PROVENANCE = (("owner", "text"), ("file", "text"), ("line", "integer"))
_ORDER = (("added_revision", "bigint"), ("position", "integer"))

_TABLES = {
    "rules": _Table(
        "rules",
        "rule_id",
        (
            ("subject", "text"),
            ("resource", "text"),
            ("action", "text"),
            ("effect", "text"),
            ("condition", "text"),
            ("priority", "bigint"),
            *_ORDER,
            *_PROVENANCE,
        ),
        RULE_COLUMNS,
    ),
    "links": _Table(
        "role_links",
        "link_id",
        (("kind", "text"), ("member", "text"), ("role", "text"), ("expires_at", "timestamptz"), *_ORDER, *_PROVENANCE),
        LINK_COLUMNS,
    ),
    "memberships": _Table(
        "memberships",
        "link_id",
        (("subject", "text"), ("role", "text"), ("expires_at", "timestamptz"), *_PROVENANCE),
        MEMBERSHIP_COLUMNS,
    ),
    "entities": _Table(
        "entities",
        "entity_id",
        (("kind", "text"), ("ref", "text"), ("properties", "json"), *_PROVENANCE),
        ENTITY_COLUMNS,
    ),
}


async def read_rows(
    work: TenantUnitOfWork, kind: str, *, ids: Sequence[RuleId] | None = None, owner: Owner | None = None
) -> AsyncIterator[tuple[RuleId, Row]]:
    """Yield rows of the bound tenant with their ids: all, those named, or those of one owner."""
    table = _TABLES[kind]
    query = f"SELECT {table.id_column} AS id, {table.read} FROM {table.name} WHERE tenant_id = :tenant_id"  # noqa: S608
    parameters: dict[str, Any] = {"tenant_id": work.tenant_id}
    if owner is not None:
        query += " AND owner = :owner"
        parameters["owner"] = owner.value
    if ids is None:
        async for row in stream(work, text(query), parameters):
            yield RuleId(row["id"].hex()), value_of(kind, row)
        return
    for portion in portions(ids):
        query_of_ids = text(f"{query} AND {table.id_column} = ANY(:ids)")
        named = parameters | {"ids": [bytes.fromhex(identifier) for identifier in portion]}
        for found in (await work.session.execute(query_of_ids, named)).mappings():
            yield RuleId(found["id"].hex()), value_of(kind, found)


def value_of(kind: str, row: RowMapping) -> Row:
    """Return the value in a result row of `kind`."""
    match kind:
        case "rules":
            return rule_of(row)
        case "entities":
            return entity_of(row)
        case _:
            return link_of(row)


async def write_changes(work: TenantUnitOfWork, changes: RowChanges, revision: int) -> None:
    """Write the rows of a change; updated and moved rows are removed and written anew."""
    for kind in KINDS:
        gone = [
            identifier
            for rows in (changes.removed, changes.updated, changes.moved)
            for identifier, row in rows.items()
            if kind_of(row[0] if isinstance(row, tuple) else row) == kind
        ]
        await _delete(work, kind, gone)
    written: dict[str, list[tuple[RuleId, Row]]] = {kind: [] for kind in KINDS}
    for identifier, row in changes.added.items():
        written[kind_of(row)].append((identifier, row))
    for pairs in (changes.updated, changes.moved):
        for identifier, (_, new) in pairs.items():
            written[kind_of(new)].append((identifier, new))
    for kind, rows in written.items():
        await _insert(work, kind, rows, revision)


async def write_items(work: TenantUnitOfWork, changes: RowChanges, revision: int) -> None:
    """Write what a change did to which row; moves come last, so that the positions of the others have no gap."""
    query = text(
        'INSERT INTO change_items (tenant_id, revision, position, added, "row", moved_from, subject, resource) '
        'SELECT :tenant_id, :revision, u.position, u.added, CAST(translate(u."row", chr(1), chr(34)) AS json), '
        "CAST(u.moved_from AS json), "
        "u.subject, u.resource FROM unnest(CAST(:positions AS integer[]), CAST(:added AS boolean[]), "
        "CAST(:rows AS text[]), CAST(:moved_from AS text[]), CAST(:subjects AS text[]), CAST(:resources AS text[])) "
        'AS u(position, added, "row", moved_from, subject, resource)'
    )
    position = 0
    for portion in portions(_items(changes)):
        subjects, resources = zip(*(affected(row) for _, row, _ in portion), strict=True)
        parameters = {
            "tenant_id": work.tenant_id,
            "revision": revision,
            "positions": list(range(position, position + len(portion))),
            "added": [added for added, _, _ in portion],
            "rows": [row_to_json(row).replace('"', _QUOTE) for _, row, _ in portion],
            "moved_from": [moved_from for _, _, moved_from in portion],
            "subjects": list(subjects),
            "resources": list(resources),
        }
        await work.session.execute(query, parameters)
        position += len(portion)


def affected(row: Row) -> tuple[str | None, str | None]:
    """Return the subject and the resource whose cached look-ups this row outdates; rules outdate snapshots instead."""
    if isinstance(row, RoleLink) and row.is_membership:
        return row.member, None
    if isinstance(row, StoredEntity):
        return (row.ref, None) if row.kind is EntityKind.SUBJECT else (None, row.ref)
    return None, None


def portions(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most `PORTION` items."""
    iterator = iter(items)
    while portion := list(islice(iterator, PORTION)):
        yield portion


def _items(changes: RowChanges) -> Iterator[tuple[bool, Row, str | None]]:
    for row in changes.removed.values():
        yield False, row, None
    for old, new in changes.updated.values():
        yield False, old, None
        yield True, new, None
    for row in changes.added.values():
        yield True, row, None
    for old, new in changes.moved.values():
        source = None if old.source is None else [old.source.file, old.source.line]
        yield True, new, canonical_json(source)


async def _delete(work: TenantUnitOfWork, kind: str, ids: Sequence[RuleId]) -> None:
    table = _TABLES[kind]
    query = text(
        f"DELETE FROM {table.name} WHERE tenant_id = :tenant_id AND {table.id_column} = ANY(:ids)"  # noqa: S608
    )
    for portion in portions(ids):
        named = [bytes.fromhex(identifier) for identifier in portion]
        await work.session.execute(query, {"tenant_id": work.tenant_id, "ids": named})


async def _insert(work: TenantUnitOfWork, kind: str, rows: Sequence[tuple[RuleId, Row]], revision: int) -> None:
    table = _TABLES[kind]
    names = ", ".join(name for name, _ in table.columns)
    arrays = ", ".join(f"CAST(:{name} AS {'text' if of == 'json' else of}[])" for name, of in table.columns)
    values = ", ".join(
        f"CAST(translate(u.{name}, chr(1), chr(34)) AS json)" if of == "json" else f"u.{name}"
        for name, of in table.columns
    )
    query = text(
        f"INSERT INTO {table.name} (tenant_id, {table.id_column}, {names}) "  # noqa: S608 - constants of this file
        f"SELECT :tenant_id, u.id, {values} FROM unnest(CAST(:ids AS bytea[]), {arrays}) AS u(id, {names})"
    )
    position = 0
    for portion in portions(rows):
        records = [_record(row, revision, position + place) for place, (_, row) in enumerate(portion)]
        parameters: dict[str, Any] = {name: [record[name] for record in records] for name, _ in table.columns}
        parameters |= {
            "tenant_id": work.tenant_id,
            "ids": [bytes.fromhex(identifier) for identifier, _ in portion],
        }
        await work.session.execute(query, parameters)
        position += len(portion)


def _record(row: Row, revision: int, position: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "owner": row.owner.value,
        "file": None if row.source is None else row.source.file,
        "line": None if row.source is None else row.source.line,
        "added_revision": revision,
        "position": position,
    }
    match row:
        case Rule():
            record |= {
                "subject": row.subject,
                "resource": row.resource,
                "action": row.action,
                "effect": row.effect.value,
                "condition": row.condition,
                "priority": row.priority,
            }
        case RoleLink():
            record |= {
                "kind": row.kind,
                "member": row.member,
                "subject": row.member,
                "role": row.role,
                "expires_at": row.expires_at,
            }
        case StoredEntity():
            record |= {
                "kind": row.kind.value,
                "ref": row.ref,
                "properties": canonical_json(dict(row.properties)).replace('"', _QUOTE),
            }
    return record
