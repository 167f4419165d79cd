"""Checkpoints: where a chain stood, signed (Ed25519, RFC 8032), as one line of JSON for somebody else to keep.

What is signed are these lines, joined by a line feed: `kasbah-checkpoint-1`, the checkpoint's number, the time, the
tenant's UUID, the chain, the number of its newest event, that event's hash, and the key's id. Numbers count all
checkpoints of an installation and have no gap.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tenancy.audit import AuditChain
from tenancy.audit_chain import show_time
from tenancy.ids import TenantId

SIGNED_PREFIX = "kasbah-checkpoint-1"
SEED_BYTES = 32
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class BadCheckpointError(ValueError):
    """No line of a checkpoint, or one whose signature does not hold."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Where a chain stood when checkpoint `number` was made."""

    number: int
    at: datetime
    tenant_id: TenantId
    chain: AuditChain
    seq: int
    hash: bytes

    def signed_text(self, key_id: str) -> bytes:
        """Return what the signature is over."""
        said = (self.number, show_time(self.at), self.tenant_id, self.chain.value, self.seq, self.hash.hex(), key_id)
        return "\n".join((SIGNED_PREFIX, *map(str, said))).encode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; `seed` are the 32 bytes of RFC 8032."""

    seed: bytes

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that verify."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """What signatures name it by."""
        return key_id_of(self.public_key)

    def line(self, head: SignedHead) -> str:
        """Return a signed checkpoint, without a line feed."""
        key_id = self.key_id
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(head.signed_text(key_id))
        said = {
            "format": 1,
            "number": head.number,
            "at": show_time(head.at),
            "tenant": str(head.tenant_id),
            "chain": head.chain.value,
            "seq": head.seq,
            "hash": head.hash.hex(),
            "key": key_id,
            "signature": base64.urlsafe_b64encode(signature).decode(),
        }
        return json.dumps(said, separators=(",", ":"))


def key_id_of(public_key: bytes) -> str:
    """Return the id of a key: the beginning of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def read_checkpoint(line: bytes | str, public_keys: dict[str, bytes]) -> SignedHead:
    """Return what a checkpoint says, its signature verified.

    Args:
        line: As `SigningKey.line` made it.
        public_keys: Those that may have signed, by their ids.

    Raises:
        BadCheckpointError: no checkpoint, an unknown key, or a signature that does not hold.
    """
    try:
        said = json.loads(line)
        head = SignedHead(
            int(said["number"]),
            datetime.strptime(said["at"], _TIME).replace(tzinfo=UTC),
            TenantId(UUID(said["tenant"])),
            AuditChain(said["chain"]),
            int(said["seq"]),
            bytes.fromhex(said["hash"]),
        )
        key_id, signature = said["key"], base64.urlsafe_b64decode(said["signature"])
        public_key = public_keys.get(key_id)
    except (ValueError, KeyError, TypeError) as error:
        raise BadCheckpointError("not a checkpoint") from error
    if public_key is None:
        raise BadCheckpointError(f"the key `{key_id}` is not known")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, head.signed_text(key_id))
    except InvalidSignature:
        raise BadCheckpointError("the signature does not hold") from None
    return head
