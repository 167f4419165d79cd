"""Verifies the lines of an export, which may hold several chains one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenancy.audit import AuditChain
from tenancy.audit_chain import NO_HASH, AuditEvent, ChainHead
from tenancy.audit_lines import BadLineError, Begin, read_line
from tenancy.audit_verification import ChainVerifier, Checkpoint, Fault, FaultKind
from tenancy.ids import TenantId

CheckpointsOf = Callable[[TenantId, AuditChain], Sequence[Checkpoint]]


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What came of one chain. `name` is what its tenant is called, where that is known."""

    tenant_id: TenantId
    chain: AuditChain
    rows: int
    first_seq: int
    last_seq: int
    last_hash: bytes
    faults: Sequence[Fault]
    name: str | None = None
    checkpoint_seq: int | None = None
    """The newest row that a checkpoint knows."""


class _Open:
    """A chain whose end has not been read."""

    def __init__(self, begin: Begin, checkpoints: Sequence[Checkpoint], name: str | None) -> None:
        self._begin = begin
        self._name = name
        self._last_hash = begin.first_previous
        self._last_seq = begin.first_seq - 1
        self._damaged: list[Fault] = []
        self._checkpoint_seq = max((point.seq for point in checkpoints), default=None)
        self._verifier = ChainVerifier(begin.first_seq, begin.first_previous, checkpoints)

    def holds(self, event: AuditEvent) -> bool:
        return (event.tenant_id, event.chain) == (self._begin.tenant_id, self._begin.chain)

    def take(self, event: AuditEvent) -> None:
        self._verifier.take(event)
        self._last_seq, self._last_hash = event.seq, event.hash

    def damaged(self, number: int, text: str) -> None:
        after = self._last_seq + 1
        self._damaged.append(Fault(FaultKind.INCOMPLETE, after, after, f"line {number}: {text}"))

    def end(self, head: ChainHead | None) -> ChainReport:
        if head is not None and head.first_seq != self._begin.first_seq:
            self._damaged.append(
                Fault(FaultKind.INCOMPLETE, self._begin.first_seq, head.first_seq, "its beginning moved meanwhile")
            )
        faults = [*self._damaged, *self._verifier.end(head)]
        begin, rows = self._begin, self._verifier.rows
        last = (self._last_seq, self._last_hash)
        seen = (self._name, self._checkpoint_seq)
        return ChainReport(begin.tenant_id, begin.chain, rows, begin.first_seq, *last, faults, *seen)


class ExportVerifier:
    """Takes the lines of an export one by one, which may hold several chains."""

    def __init__(self, *, name: str | None = None, checkpoints: CheckpointsOf = lambda _tenant, _chain: ()) -> None:
        """Begin before the first line.

        Args:
            name: What the tenant is called.
            checkpoints: What was told of a chain to somebody else.
        """
        self._name = name
        self._checkpoints = checkpoints
        self._present: _Open | None = None
        self._reports: list[ChainReport] = []
        self._number = 0

    def take(self, line: bytes) -> None:
        """Judge the next line; raises `BadLineError` where no chain has begun, for then this is no export."""
        self._number += 1
        try:
            said = read_line(line)
            if isinstance(said, Begin):
                self._close(None)
                self._present = _Open(said, self._checkpoints(said.tenant_id, said.chain), self._name)
                return
        except BadLineError as error:
            if self._present is None:
                raise
            self._present.damaged(self._number, str(error))
            return
        if self._present is None:
            raise BadLineError("an export begins with the line of a chain's beginning")
        if isinstance(said, ChainHead):
            self._close(said)
        elif self._present.holds(said):
            self._present.take(said)
        else:
            self._present.damaged(self._number, "an event of another chain")

    def end(self) -> list[ChainReport]:
        """Return what came of every chain, in the order of the export."""
        self._close(None)
        return self._reports

    def _close(self, head: ChainHead | None) -> None:
        if self._present is not None:
            self._reports.append(self._present.end(head))
            self._present = None


def missing_chain(tenant_id: TenantId, chain: AuditChain, seq: int) -> ChainReport:
    """Return what is said of a chain that checkpoints know and nobody has."""
    fault = Fault(FaultKind.TRUNCATED, 1, seq, f"a checkpoint tells of row {seq}, and there is no such chain")
    return ChainReport(tenant_id, chain, 0, 1, 0, NO_HASH, [fault], None, seq)
