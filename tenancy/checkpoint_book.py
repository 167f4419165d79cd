"""The checkpoints that a sink kept, verified and sorted by chain."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from tenancy.audit import AuditChain
from tenancy.audit_signatures import BadCheckpointError, SignedHead, read_checkpoint
from tenancy.audit_verification import Checkpoint
from tenancy.ids import TenantId

ChainName = tuple[TenantId, AuditChain]


class CheckpointBook:
    """Takes the lines of a sink; `faults` says what is wrong with them."""

    def __init__(self, public_keys: Mapping[str, bytes]) -> None:
        """Begin with the keys that may have signed, by their ids."""
        self._keys = dict(public_keys)
        self._heads: dict[ChainName, dict[int, SignedHead]] = {}
        self._numbers: set[int] = set()
        self._lines = 0
        self.faults: list[str] = []

    def take(self, line: str) -> None:
        """Take the next line; what a syslog server wrote before the checkpoint is passed over."""
        self._lines += 1
        start = line.find("{")
        if not line.strip():
            return
        try:
            head = read_checkpoint(line[max(start, 0) :], self._keys)
        except BadCheckpointError as error:
            self.faults.append(f"line {self._lines} of the checkpoints: {error}")
            return
        self._numbers.add(head.number)
        known = self._heads.setdefault((head.tenant_id, head.chain), {})
        other = known.setdefault(head.seq, head)
        if other.hash != head.hash:
            self.faults.append(f"checkpoints {other.number} and {head.number} know two hashes of one row")

    def of(self, tenant_id: TenantId, chain: AuditChain) -> Sequence[Checkpoint]:
        """Return what is known of a chain."""
        heads = self._heads.get((tenant_id, chain), {})
        return [Checkpoint(head.seq, head.hash) for head in heads.values()]

    def newest(self) -> Iterator[tuple[ChainName, Checkpoint]]:
        """Yield the newest checkpoint of each chain."""
        for name, heads in self._heads.items():
            seq = max(heads)
            yield name, Checkpoint(seq, heads[seq].hash)

    def missing(self) -> Sequence[tuple[int, int]]:
        """Return the gaps between the numbers of all checkpoints: somebody removed them, or they went elsewhere."""
        numbers = sorted(self._numbers)
        pairs = itertools.pairwise(numbers)
        return [(before + 1, after - 1) for before, after in pairs if after - before > 1]
