"""Which rows of a chain are not as they were written. Works on an export alone, so anybody can do it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from tenancy.audit_chain import AuditEvent, ChainHead, hash_of

_RETAIN = "audit.retain"
MAX_FAULTS = 200
"""Faults that are remembered to tell rows that changed places from edited ones; after these, all are just edited."""


class FaultKind(StrEnum):
    """What happened to rows."""

    EDITED = "edited"
    """A row does not say what was hashed."""
    REWRITTEN = "rewritten"
    """A row was replaced together with its hash: what follows it, or a checkpoint, knows another."""
    MOVED = "moved"
    """A row, or what it says, stands in another's place."""
    INSERTED = "inserted"
    """A row that was never appended."""
    REMOVED = "removed"
    """Rows that were appended are missing."""
    TRUNCATED = "truncated"
    """The newest rows are missing."""
    INCOMPLETE = "incomplete"
    """What was given to verify ends before its end, or cannot be read: the chain itself may hold."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Rows `first` to `last` of a chain do not hold, and why."""

    kind: FaultKind
    first: int
    last: int
    text: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a chain stood when that was told to somebody else."""

    seq: int
    hash: bytes


class ChainVerifier:
    """Takes a chain row by row, oldest first; holds no more than the rows that do not hold."""

    def __init__(self, first_seq: int, first_previous: bytes, checkpoints: Iterable[Checkpoint] = ()) -> None:
        """Begin before the first row; checkpoints may come in any order."""
        self._next = self._first = first_seq
        self._previous = self._first_previous = first_previous
        self._previous_holds = True
        self._checkpoints: Mapping[int, bytes] = {point.seq: point.hash for point in checkpoints}
        self._confirmed = first_seq - 1
        self._beginnings: set[tuple[object, object]] = set()
        self._bad: list[AuditEvent] = []
        self._faults: list[Fault] = []
        self.rows = 0

    def take(self, event: AuditEvent) -> None:
        """Judge the next row."""
        self.rows += 1
        own_hash_holds = hash_of(event) == event.hash
        if event.seq < self._next:
            self._fault(FaultKind.INSERTED, event.seq, event.seq, "a second row has this number")
            return
        if event.seq > self._next:
            self._fault(FaultKind.REMOVED, self._next, event.seq - 1, "what comes behind is there")
        elif event.previous != self._previous and own_hash_holds:
            self._judge_link(event)
        if not own_hash_holds:
            self._keep_bad(event)
        elif _RETAIN in event.text:
            self._note_beginning(event.text)
        self._check(event.seq, event.hash)
        self._next, self._previous, self._previous_holds = event.seq + 1, event.hash, own_hash_holds

    def end(self, head: ChainHead | None) -> list[Fault]:
        """Return every fault, in the order of the rows.

        Args:
            head: Where the chain's own head says that it stands; None when that is not known.
        """
        last = self._next - 1
        if head is None:
            self._fault(FaultKind.INCOMPLETE, last, last, "the export ends here without its last line")
        elif head.last_seq > last:
            self._fault(FaultKind.TRUNCATED, last + 1, head.last_seq, "the chain's head tells of them")
        elif head.last_seq < last:
            self._fault(FaultKind.INSERTED, head.last_seq + 1, last, "behind the chain's head")
        elif self.rows and head.last_hash != self._previous:
            self._fault(FaultKind.REWRITTEN, last, last, "the chain's head knows another hash")
        self._end_beginning()
        self._end_checkpoints(last)
        self._faults.extend(self._named(event) for event in self._bad)
        return sorted(self._faults, key=lambda fault: (fault.first, fault.last, fault.kind))

    def _judge_link(self, event: AuditEvent) -> None:
        """Its own hash covers what it follows, so it is the row before that lost the hash that it had."""
        before = event.seq - 1
        if event.seq == self._first:
            self._fault(FaultKind.REWRITTEN, event.seq, event.seq, "the chain is said to begin with another hash")
        elif self._previous_holds:
            self._fault(FaultKind.REWRITTEN, before, before, f"row {event.seq} follows another hash")

    def _note_beginning(self, text: str) -> None:
        try:
            said = json.loads(text)
            if said["action"] == "audit.retain":
                self._beginnings.add((said["detail"]["first_seq"], said["detail"]["first_prev_hash"]))
        except (ValueError, KeyError, TypeError):
            return  # it only holds the word

    def _keep_bad(self, event: AuditEvent) -> None:
        if len(self._bad) < MAX_FAULTS:
            self._bad.append(event)
        else:
            self._fault(FaultKind.EDITED, event.seq, event.seq, "its hash is of something else")

    def _named(self, event: AuditEvent) -> Fault:
        """Tell a row that changed places with others that do not hold from one that was edited."""
        for other in self._bad:
            if other.seq == event.seq:
                continue
            if hash_of(replace(event, seq=other.seq)) == event.hash:
                return Fault(FaultKind.MOVED, event.seq, event.seq, f"this was row {other.seq}")
            theirs = replace(event, text=other.text, at=other.at)
            if event.hash in {hash_of(theirs), hash_of(replace(event, text=other.text))}:
                return Fault(FaultKind.MOVED, event.seq, event.seq, f"row {other.seq} holds what this row said")
        return Fault(FaultKind.EDITED, event.seq, event.seq, "its hash is of something else")

    def _check(self, seq: int, found: bytes) -> None:
        wanted = self._checkpoints.get(seq)
        if wanted is None:
            return
        if wanted != found:
            first = self._confirmed + 1
            self._fault(FaultKind.REWRITTEN, first, seq, f"a checkpoint knows another hash of row {seq}")
        self._confirmed = seq

    def _end_beginning(self) -> None:
        """Demand the event that tells where a chain begins that does not begin with its first row."""
        if self._first > 1 and (self._first, self._first_previous.hex()) not in self._beginnings:
            self._fault(FaultKind.REMOVED, 1, self._first - 1, "no event of the chain tells that they were let go")

    def _end_checkpoints(self, last: int) -> None:
        beyond = max((seq for seq in self._checkpoints if seq > last), default=None)
        if beyond is not None:
            self._fault(FaultKind.TRUNCATED, last + 1, beyond, f"a checkpoint tells of row {beyond}")

    def _fault(self, kind: FaultKind, first: int, last: int, text: str) -> None:
        self._faults.append(Fault(kind, first, last, text))


def verify_chain(head: ChainHead, events: Iterable[AuditEvent], checkpoints: Iterable[Checkpoint] = ()) -> list[Fault]:
    """Return what does not hold of a chain that is all there."""
    verifier = ChainVerifier(head.first_seq, head.first_previous, checkpoints)
    for event in events:
        verifier.take(event)
    return verifier.end(head)


def shown(faults: Iterable[Fault]) -> Iterator[str]:
    """Yield a sentence for each fault, which names its rows."""
    for fault in faults:
        rows = f"row {fault.first}" if fault.first == fault.last else f"rows {fault.first} to {fault.last}"
        yield f"{rows} {fault.kind.value}: {fault.text}"
