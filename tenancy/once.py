"""What a request that may be sent twice is known by, and what it is answered: carried to whoever writes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tenancy.ids import TenantId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What one request is known by. Both hashes are SHA-256; `key_hash` covers the caller, too."""

    tenant_id: TenantId
    route: str
    key_hash: bytes
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Once(Generic[T]):
    """Has a write act once. `answer` turns its outcome into what is kept for the next request with this key."""

    key: RequestKey
    answer: Callable[[T], bytes]
