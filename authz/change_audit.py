"""What the audit says of a change of policy: the rows themselves while they are few, else a digest of them."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from authz.row_changes import RowChanges
from authz.rules import RoleLink, Row
from tenancy.audit import AuditEntry
from tenancy.ids import BASE_TENANT_ID, TenantId

MAX_ROWS = 20
MAX_BYTES = 8192

_ACTIONS = {"apply": "policy.apply", "rollback": "policy.rollback", "api": "policy.change"}


def entry_of(tenant_id: TenantId, kind: str, changes: RowChanges, *, rolled_back_to: int | None = None) -> AuditEntry:
    """Return the event of a change of rows.

    Stored attributes may be about people, so their properties are left out: only whose they are is told.
    """
    gone = [*changes.removed.values(), *(old for old, _ in changes.updated.values())]
    new = [*changes.added.values(), *(row for _, row in changes.updated.values())]
    counts = {"added": len(new), "removed": len(gone), "moved": len(changes.moved), "rolled_back_to": rolled_back_to}
    detail: dict[str, Any] = {name: number for name, number in counts.items() if number}
    before, after = _told(gone, new), _told(new, gone)
    if (gone and before is None) or (new and after is None):
        before = after = None
        detail["rows_sha256"] = _digest(changes)
    return AuditEntry(
        "base.change" if tenant_id == BASE_TENANT_ID else _ACTIONS[kind],
        target=_only_member([*gone, *new]) or f"tenant:{tenant_id}",
        before=before,
        after=after,
        detail=detail,
    )


def _told(rows: list[Row], others: list[Row]) -> dict[str, Any] | None:
    if not rows or len(rows) + len(others) > MAX_ROWS:
        return None
    told = {"rows": [_shown(row) for row in rows]}
    return told if len(json.dumps(told)) <= MAX_BYTES else None


def _shown(row: Row) -> list[str]:
    expires_at = row.expires_at.isoformat() if isinstance(row, RoleLink) and row.expires_at is not None else None
    return [*row.key] if expires_at is None else [*row.key, expires_at]


def _only_member(rows: Iterable[Row]) -> str | None:
    """Return whose roles changed, if only one subject's did."""
    members = {row.member if isinstance(row, RoleLink) and row.is_membership else None for row in rows}
    return members.pop() if len(members) == 1 else None


def _digest(changes: RowChanges) -> str:
    """Return SHA-256 over the sorted names of all rows: new ones behind `+`, gone `-`, changed `~`."""
    names = [f"+{name}" for name in changes.added]
    names += [f"-{name}" for name in changes.removed]
    names += [f"~{name}" for name in changes.updated]
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
