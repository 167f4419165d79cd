"""Rule sets as bytes for a store that nobody trusts: msgpack under a MAC, never pickles. Pure.

A value is `magic, format, rules_revision, MAC, payload`. The MAC also covers the tenant and the database it is meant
for, which are not in the value, so that a value moved to another key does not hold there.

Rows stand in short compressed runs. To read or write one run holds the interpreter for a fraction of a millisecond, and
zlib lets go of it: an event loop in another thread has its turn between two of them.
"""

import dataclasses
import hashlib
import hmac
import struct
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authz.ports import RuleSet, StoredModel, TenantHead
from authz.rules import RoleLink, Rule, Source
from tenancy.ids import TenantId

MAGIC = b"KsRs"
ENCODING = 2
"""Raise it when the bytes change their meaning although no field was added, removed or renamed."""

HEADER = struct.Struct(">4s8sQ")
MAC_BYTES = 32
CHUNK_ROWS = 200
"""Rows per msgpack call: one call holds the interpreter lock, so it must be short."""

COMPRESSION = 1
"""Rows repeat each other's names, so that the quickest level makes a twentieth of them already."""

T = TypeVar("T")


class RejectedError(ValueError):
    """A value that is not used; `reason` is from a closed set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


REASONS = ("truncated", "format", "older", "newer", "mac", "payload", "stamp", "model", "too_large")


class _Payload(msgspec.Struct, array_like=True, frozen=True):
    head: TenantHead
    model: StoredModel
    # Views of the value: copying all of it would be one long call.
    rules: list[memoryview]
    links: list[memoryview]
    mfa_roles: list[str]


def _format_id() -> bytes:
    """Return what tells this layout from every other: it changes with each field of each class that is stored."""
    digest = hashlib.sha256(str(ENCODING).encode())
    for kind in (RuleSet, TenantHead, StoredModel, Rule, RoleLink, Source):
        digest.update(kind.__name__.encode())
        for field in dataclasses.fields(kind):
            digest.update(f"{field.name}:{field.type}".encode())
    return digest.digest()[:8]


FORMAT = _format_id()

_payload_decoder = msgspec.msgpack.Decoder(_Payload)
_rules_decoder = msgspec.msgpack.Decoder(list[Rule])
_links_decoder = msgspec.msgpack.Decoder(list[RoleLink])


def derive_key(secret: bytes, purpose: str, length: int = 32) -> bytes:
    """Return a key for one purpose (HKDF-SHA-256, RFC 5869), so that no two uses share one."""
    return HKDF(SHA256(), length=length, salt=None, info=f"kasbah/{purpose}".encode()).derive(secret)


def encode_rule_set(rule_set: RuleSet, key: bytes, lineage: str = "") -> bytes:
    """Return the value to store.

    Args:
        rule_set: What is stored, whole.
        key: From `derive_key`.
        lineage: The database the rules come from: a copy of it may give the same revision to other rules.

    Raises:
        ValueError: text that is no Unicode (a lone surrogate), or a number beyond 64 bits.
        OverflowError: as ValueError.
    """
    payload = msgspec.msgpack.encode(
        _Payload(
            rule_set.head,
            rule_set.model,
            _chunks(rule_set.rules),
            _chunks(rule_set.links),
            list(rule_set.mfa_roles),
        )
    )
    header = HEADER.pack(MAGIC, FORMAT, rule_set.head.rules_revision)
    return header + _mac(key, rule_set.head.tenant_id, lineage, header, payload) + payload


def decode_rule_set(value: bytes, key: bytes, head: TenantHead, model_digest: str = "", lineage: str = "") -> RuleSet:
    """Return the rule set of exactly this tenant and `head.rules_version`.

    Args:
        value: What the store gave.
        key: From `derive_key`.
        head: Whose rules, and of which revision.
        model_digest: The model they must belong to; empty when it is not known, since the revision implies it.
        lineage: As in `encode_rule_set`.

    Raises:
        RejectedError: anything else, of whatever origin.
    """
    if len(value) < HEADER.size + MAC_BYTES:
        raise RejectedError("truncated")
    header, mac = value[: HEADER.size], value[HEADER.size : HEADER.size + MAC_BYTES]
    payload = memoryview(value)[HEADER.size + MAC_BYTES :]
    magic, layout, rules_revision = HEADER.unpack(header)
    if magic != MAGIC or layout != FORMAT:
        raise RejectedError("format")
    if rules_revision != head.rules_revision:
        raise RejectedError("older" if rules_revision < head.rules_revision else "newer")
    # SECURITY: nothing of the payload is looked at before its MAC holds.
    if not hmac.compare_digest(mac, _mac(key, head.tenant_id, lineage, header, payload)):
        raise RejectedError("mac")
    try:
        found = _payload_decoder.decode(payload)
        rules = [rule for chunk in found.rules for rule in _rules_decoder.decode(zlib.decompress(chunk))]
        links = [link for chunk in found.links for link in _links_decoder.decode(zlib.decompress(chunk))]
    except (msgspec.MsgspecError, zlib.error, ValueError) as error:
        raise RejectedError("payload") from error
    if (found.head.tenant_id, found.head.rules_revision) != (head.tenant_id, head.rules_revision):
        raise RejectedError("payload")
    if found.head.rules_stamp != head.rules_stamp:
        raise RejectedError("stamp")
    if model_digest and found.model.digest != model_digest:
        raise RejectedError("model")
    return RuleSet(found.head, found.model, rules, links, tuple(found.mfa_roles))


def _chunks(rows: Sequence[Any]) -> list[memoryview]:
    return [_chunk(rows[start : start + CHUNK_ROWS]) for start in range(0, len(rows), CHUNK_ROWS)]


def _chunk(rows: Sequence[Any]) -> memoryview:
    return memoryview(zlib.compress(msgspec.msgpack.encode(rows), COMPRESSION))


def _mac(key: bytes, tenant_id: TenantId, lineage: str, header: bytes, payload: bytes | memoryview) -> bytes:
    where = lineage.encode()
    code = hmac.new(key, b"rule set\0" + tenant_id.bytes + struct.pack(">I", len(where)) + where + header, "sha256")
    code.update(payload)
    return code.digest()
