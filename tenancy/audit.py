"""What the audit holds: values, and the text of an event. Who writes them: `tenancy/audit_log.py`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from tenancy.audit_actions import AUDIT_ACTIONS as AUDIT_ACTIONS  # noqa: PLC0414 - part of these values
from tenancy.tenant import ChangeMeta

PERSON = "user:"
"""How an actor begins who is a person: what tells of them is personal data."""

NAMELESS = ("anonymous", "bootstrap")
"""Actors who are people, too, but did not show which."""


class AuditOutcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    REFUSED = "refused"


class AuditChain(StrEnum):
    """Which of a tenant's chains an event belongs to. Those of `_platform` hold what belongs to no tenant."""

    TENANT = "tenant"
    SIGN_IN = "sign_in"
    """Failed sign-ins: appended in batches, so that a flood of them does not hold up changes."""


@dataclass(frozen=True, slots=True)
class SealedPersonal:
    """Personal fields, sealed under the key of the person they are about; `text` is what only the key ring reads.

    The hash of an event covers the sealed text, so a chain still holds when the key was destroyed.
    """

    subject_id: UUID
    text: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What happened, for the chain of the tenant that it happened in.

    `before` and `after` hold changed fields only. Neither they nor `detail` ever hold a secret or personal data; names
    and addresses of people go into `personal`. `target` is a reference: `user:<uuid>`, `key:<uuid>`, `role:editor`.
    """

    action: str
    target: str | None = None
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    personal: SealedPersonal | None = None
    detail: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse an action that is not in the inventory: that is a mistake in the program."""
        if self.action not in AUDIT_ACTIONS:
            raise ValueError(f"`{self.action}` is not in AUDIT_ACTIONS")


def person_of(actor: str) -> UUID | None:
    """Return who an actor is when that is a person, or None."""
    try:
        return UUID(actor.removeprefix(PERSON)) if actor.startswith(PERSON) else None
    except ValueError:
        return None


def whose_address(meta: ChangeMeta, entries: Sequence[AuditEntry]) -> UUID | None:
    """Return the person about whom it tells from where something was done, or None when that was a program.

    Who did not show who they are, asking for a reset of a password, say, is taken for the one whom it happened to.
    """
    if not meta.actor.startswith(NAMELESS):
        return person_of(meta.actor)
    targets = (entry.target for entry in entries if entry.target is not None)
    return next((found for target in targets if (found := person_of(target)) is not None), None)


def event_text(
    entry: AuditEntry, meta: ChangeMeta, revision: int | None, actor_personal: SealedPersonal | None = None
) -> str:
    """Return an event as the JSON text that is stored, hashed and exported as it is.

    Members that say nothing are left out. Text is stored as JSON escapes it, so an event is one line whatever it holds.

    Args:
        entry: What happened.
        meta: Who and why.
        revision: The tenant's revision that it made, if it made one.
        actor_personal: Where a person acted from.
    """
    person = meta.actor.startswith((PERSON, *NAMELESS))
    event: dict[str, Any] = {
        "action": entry.action,
        "outcome": entry.outcome.value,
        "actor": meta.actor,
        "credential": meta.credential,
        # Where a program calls from is not about a person; where a person does is personal.
        "address": None if person else meta.address,
        "target": entry.target,
        "reason": meta.reason,
        "git_commit": meta.git_commit,
        "request_id": meta.request_id,
        "revision": revision,
        "before": entry.before,
        "after": entry.after,
        "detail": entry.detail,
    }
    for name, personal in (("personal", entry.personal), ("actor_personal", actor_personal)):
        if personal is not None:
            event[name] = {"subject": str(personal.subject_id), "sealed": personal.text}
    said = {name: _storable(value) for name, value in event.items() if value is not None}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _storable(value: Any) -> Any:
    """Return a value with what PostgreSQL's JSON cannot hold replaced: NUL, and halves of surrogate pairs."""
    if isinstance(value, str):
        return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_storable(str(name)): _storable(inner) for name, inner in value.items()}
    if isinstance(value, Sequence | frozenset | set) and not isinstance(value, bytes | bytearray):
        return [_storable(inner) for inner in (sorted(value) if isinstance(value, frozenset | set) else value)]
    return value
