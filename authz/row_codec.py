"""Policy rows as JSON, exactly: what history keeps of them."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from authz.request import Ref
from authz.rules import Effect, EntityKind, Owner, RoleLink, Row, Rule, Source, StoredEntity

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def row_to_json(row: Row) -> str:
    """Return the text of a row; equal rows (values, owner and source) have equal texts. `base` is not part of it."""
    data: dict[str, Any] = {"owner": row.owner.value}
    if row.source is not None:
        data["source"] = [row.source.file, row.source.line]
    match row:
        case Rule():
            data |= {
                "ptype": "p",
                "subject": row.subject,
                "resource": row.resource,
                "action": row.action,
                "effect": row.effect.value,
            }
            if row.condition is not None:
                data["condition"] = row.condition
            if row.priority is not None:
                data["priority"] = row.priority
        case RoleLink():
            data |= {"ptype": row.kind, "member": row.member, "role": row.role}
            if row.expires_at is not None:
                data["expires_at"] = microseconds(row.expires_at)
        case StoredEntity():
            data |= {"ptype": "e", "kind": row.kind.value, "ref": row.ref, "properties": dict(row.properties)}
    return canonical_json(data)


def row_from_json(data: Mapping[str, Any], *, base: bool = False) -> Row:
    """Return the row that `row_to_json` wrote."""
    owner = Owner(data["owner"])
    source = Source(*data["source"]) if "source" in data else None
    match data["ptype"]:
        case "p":
            return Rule(
                data["subject"],
                data["resource"],
                data["action"],
                Effect(data["effect"]),
                data.get("condition"),
                data.get("priority"),
                base,
                owner,
                source,
            )
        case "e":
            return StoredEntity(EntityKind(data["kind"]), Ref(data["ref"]), data["properties"], owner, source)
        case kind:
            expires_at = from_microseconds(data["expires_at"]) if "expires_at" in data else None
            return RoleLink(Ref(data["member"]), Ref(data["role"]), kind, expires_at, base, owner, source)


def canonical_json(value: Any) -> str:
    """Return the one text of a JSON value; 1, 1.0 and true stay apart, infinities are refused with `ValueError`."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if text.isascii() or not _LONE_SURROGATE.search(text):
        return text
    # Half a surrogate pair has no UTF-8; as an escape it is stored and comes back as it was.
    return _LONE_SURROGATE.sub(lambda half: f"\\u{ord(half.group()):04x}", text)


def microseconds(moment: datetime) -> int:
    """Return an aware time as microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """Return the time that `microseconds` was given."""
    return _EPOCH + timedelta(microseconds=number)
