"""The hash chain of an audit: what is hashed, and which row of a chain does not hold. Anybody can do the same.

The hash of an event is SHA-256 over these lines, joined by a line feed, in UTF-8: `kasbah-audit-1`, the tenant's UUID,
the chain, the sequence number, the time (RFC 3339 in UTC with six digits), the hash of the event before in hexadecimal,
and the event's text as it is stored. The first event of a chain follows 32 zero bytes.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from tenancy.audit import AuditChain
from tenancy.ids import TenantId

HASH_PREFIX = "kasbah-audit-1"
NO_HASH = bytes(32)
"""What the first event of a chain follows."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One row of a chain. `text` is the event's JSON as it is stored; `hash` and `previous` are raw bytes."""

    tenant_id: TenantId
    chain: AuditChain
    seq: int
    at: datetime
    previous: bytes
    hash: bytes
    text: str


@dataclass(frozen=True, slots=True)
class ChainHead:
    """From where to where a chain goes. `first_previous` is the hash that its oldest kept event follows."""

    tenant_id: TenantId
    chain: AuditChain
    first_seq: int = 1
    first_previous: bytes = NO_HASH
    last_seq: int = 0
    last_hash: bytes = NO_HASH


def show_time(at: datetime) -> str:
    """Return a time as it is hashed and exported: RFC 3339, UTC, microseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def hash_of(event: AuditEvent) -> bytes:
    """Return the hash that belongs to what the row says; it holds when it equals `event.hash`."""
    lines = (
        HASH_PREFIX,
        str(event.tenant_id),
        event.chain.value,
        str(event.seq),
        show_time(event.at),
        event.previous.hex(),
        event.text,
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).digest()
