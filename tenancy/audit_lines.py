"""An audit as JSON lines: what an export writes and a verification reads.

The first line of a chain says where it begins, the last one where it stands; between them each line is an event. The
event's text is a string, because the hash is over exactly that text. Times are as they are hashed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tenancy.audit import AuditChain
from tenancy.audit_chain import AuditEvent, ChainHead, show_time
from tenancy.ids import TenantId

FORMAT = 1
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class BadLineError(ValueError):
    """A line that no export has."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first line of a chain."""

    tenant_id: TenantId
    chain: AuditChain
    first_seq: int
    first_previous: bytes


Line = Begin | AuditEvent | ChainHead


def begin_line(head: ChainHead) -> bytes:
    """Return the first line of a chain."""
    return _line(_of(head) | {"first_seq": head.first_seq, "first_prev_hash": head.first_previous.hex()}, "begin")


def event_line(event: AuditEvent, personal: Mapping[str, Any] | None = None) -> bytes:
    """Return the line of an event; what was opened of its personal fields stands beside what is hashed."""
    said = {
        "tenant": str(event.tenant_id),
        "chain": event.chain.value,
        "seq": event.seq,
        "at": show_time(event.at),
        "prev_hash": event.previous.hex(),
        "hash": event.hash.hex(),
        "event": event.text,
    }
    return _line(said if personal is None else said | {"personal": personal}, "event")


def end_line(head: ChainHead) -> bytes:
    """Return the last line of a chain."""
    said = _of(head) | {
        "first_seq": head.first_seq,
        "first_prev_hash": head.first_previous.hex(),
        "last_seq": head.last_seq,
        "last_hash": head.last_hash.hex(),
    }
    return _line(said, "end")


def read_line(line: bytes) -> Line:
    """Return what a line says.

    Raises:
        BadLineError: it is no line of an export.
    """
    try:
        said = json.loads(line)
        kind, tenant_id, chain = said["type"], TenantId(UUID(said["tenant"])), AuditChain(said["chain"])
        if kind == "begin" and said["format"] == FORMAT:
            return Begin(tenant_id, chain, int(said["first_seq"]), bytes.fromhex(said["first_prev_hash"]))
        if kind == "event":
            at = datetime.strptime(said["at"], _TIME).replace(tzinfo=UTC)
            previous, own = bytes.fromhex(said["prev_hash"]), bytes.fromhex(said["hash"])
            return AuditEvent(tenant_id, chain, int(said["seq"]), at, previous, own, _text(said["event"]))
        if kind == "end":
            first = int(said["first_seq"]), bytes.fromhex(said["first_prev_hash"])
            return ChainHead(tenant_id, chain, *first, int(said["last_seq"]), bytes.fromhex(said["last_hash"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadLineError(f"not a line of an export: {error}") from error
    raise BadLineError("not a line of an export that this version reads")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("the event is no text")
    return value


def _of(head: ChainHead) -> dict[str, Any]:
    return {"tenant": str(head.tenant_id), "chain": head.chain.value}


def _line(said: Mapping[str, Any], kind: str) -> bytes:
    form = {"format": FORMAT} if kind == "begin" else {}
    return json.dumps({"type": kind} | form | dict(said), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
