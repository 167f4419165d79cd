"""What a node holds of one tenant, and the memory budget of the members it looked up.

A `TenantState` is never changed to another revision: a new one takes its place, and takes its cached entries with it.
"""

import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from authz.ports import Account, Lookup, SubjectRecord, TenantHead, Touched
from authz.request import Properties, Ref
from authz.snapshot import Facts, Snapshot
from tenancy.ids import TenantId

ENTRY_BYTES = 350
"""Estimated memory of a cached subject without its variable parts: dictionary slots, facts, record, set of names."""

RESOURCE_BYTES = 200
"""Estimated memory of a cached resource without its name and properties."""

GRANT_BYTES = 250
"""Estimated memory of one grant: the grant, its source, the role's name and its place in the set of names."""

ACCOUNT_BYTES = 100
ENDED_BYTES = 150
"""Estimated memory of the id of a session that ended, and of its place in a set."""

HISTORY_STEPS = 16
"""How many of its last advances a state remembers."""

HISTORY_NAMES = 200
"""An advance that touched more names than this is not remembered, nor what was before it."""


class TenantState:
    """One tenant at one revision: its rules, and the subjects and resources looked up so far.

    INVARIANT: whatever `subjects` and `resources` hold is valid at `head.revision`, under `snapshot`.
    """

    __slots__ = (
        "aged_resources",
        "aged_subjects",
        "confirmed_at",
        "head",
        "history",
        "resources",
        "size_bytes",
        "snapshot",
        "subjects",
        "used_at",
    )

    def __init__(self, head: TenantHead, snapshot: Snapshot, confirmed_at: float, size_bytes: int = 0) -> None:
        self.head = head
        self.snapshot = snapshot
        self.confirmed_at = confirmed_at
        """Monotonic seconds: the primary said, to a question asked then, that the tenant was at `head`."""
        self.used_at = confirmed_at
        self.size_bytes = size_bytes
        self.subjects: dict[Ref, Facts] = {}
        self.resources: dict[Ref, Properties] = {}
        self.history: deque[tuple[int, Touched]] = deque(maxlen=HISTORY_STEPS)
        """The last advances, oldest first: the revision each began at, and what it touched up to its head."""
        # The older generation of the cache. Its records are valid at `head` too; its facts may be of older rules.
        self.aged_subjects: dict[Ref, Facts] = {}
        self.aged_resources: dict[Ref, Properties] = {}

    @property
    def tenant_id(self) -> TenantId:
        """Whose state it is."""
        return self.head.tenant_id

    def confirm(self, at: float) -> None:
        """Note that the primary confirmed `head` in answer to a question asked at `at`."""
        self.confirmed_at = max(self.confirmed_at, at)

    def successor(self, touched: Touched, snapshot: Snapshot, confirmed_at: float, size_bytes: int) -> "TenantState":
        """Return the state at `touched.head`, which takes over every entry that was not touched.

        This state is left without entries: whoever still holds it is told to look up again, and gets the new one.
        Takes time in proportion to what was touched, and with new rules also to what was looked up since the last.
        """
        after = TenantState(touched.head, snapshot, confirmed_at, size_bytes)
        after.used_at = self.used_at
        after.history = self.history
        if touched.everything or len(touched.subjects) + len(touched.resources) > HISTORY_NAMES:
            after.history.clear()
        else:
            after.history.append((self.head.revision, touched))
        if not touched.everything:
            after.aged_subjects, after.aged_resources = self.aged_subjects, self.aged_resources
            after.resources = self.resources
            if snapshot is self.snapshot:
                after.subjects = self.subjects
            elif after.aged_subjects:
                # Facts belong to their snapshot, records do not: the facts are made anew from them when asked for.
                after.aged_subjects.update(self.subjects)
            else:
                after.aged_subjects = self.subjects
            for subject in touched.subjects:
                after.subjects.pop(subject, None)
                after.aged_subjects.pop(subject, None)
            for resource in touched.resources:
                after.resources.pop(resource, None)
                after.aged_resources.pop(resource, None)
        self.subjects, self.resources = {}, {}
        self.aged_subjects, self.aged_resources = {}, {}
        self.history = deque(maxlen=0)
        return after

    def still_valid(self, lookup: Lookup) -> Lookup | None:
        """Return those rows of a look-up that are certain to be the same at `head`; None when none are.

        A tenant may change faster than it can be read. Rows of an older revision are as good as new ones if no advance
        since has touched them; where that is not known, or the look-up is newer than this state, they are not used.
        """
        if lookup.head.version == self.head.version:
            return lookup
        subjects: set[Ref] = set()
        resources: set[Ref] = set()
        for began_at, touched in reversed(self.history):
            subjects |= touched.subjects
            resources |= touched.resources
            if began_at <= lookup.head.revision < self.head.revision:
                return Lookup(
                    self.head,
                    {ref: record for ref, record in lookup.subjects.items() if ref not in subjects},
                    {ref: found for ref, found in lookup.resources.items() if ref not in resources},
                )
        return None

    def age(self) -> None:
        """Make the cached entries the older generation and forget the one before."""
        self.aged_subjects, self.aged_resources = self.subjects, self.resources
        self.subjects, self.resources = {}, {}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A state together with what was asked for, all of one revision; holds it past any eviction."""

    state: TenantState
    subjects: Mapping[Ref, Facts]
    resources: Mapping[Ref, Properties]

    @property
    def head(self) -> TenantHead:
        """Revisions and status."""
        return self.state.head

    @property
    def snapshot(self) -> Snapshot:
        """The rules."""
        return self.state.snapshot


class MembershipBudget:
    """Bounds the cached subjects and resources of all tenants, in two generations.

    New and used entries go into the young generation. When it reaches half of the budget it becomes the old one, and
    the old one is forgotten; an entry of the old one that is asked for moves to the young one without SQL. So what is
    in use stays, a scan over unknown names passes through, and a hit costs nothing but a dictionary look-up.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._half = budget_bytes // 2
        self.charged_bytes = 0
        """Estimated memory of what was added since the last turn; never less than what the young generation takes."""
        self.turns = 0

    def charge(self, size_bytes: int, states: Iterable[TenantState]) -> None:
        """Count a new entry; turn the generations of all `states` when half of the budget is used."""
        self.charged_bytes += size_bytes
        if self.charged_bytes > self._half:
            for state in states:
                state.age()
            self.charged_bytes = size_bytes
            self.turns += 1


def facts_bytes(facts: Facts) -> int:
    """Estimate the memory of one cached subject."""
    record = facts.record
    return (
        ENTRY_BYTES
        + sys.getsizeof(facts.subject)
        + sys.getsizeof(facts.names)
        + len(record.grants) * GRANT_BYTES
        + _account_bytes(record.account)
        + _properties_bytes(record.properties)
    )


def _account_bytes(account: Account | None) -> int:
    """Estimate what is kept of an account: itself, its epoch, and its sessions that ended."""
    return 0 if account is None else ACCOUNT_BYTES + len(account.ended_sessions) * ENDED_BYTES


def resource_bytes(resource: Ref, properties: Properties) -> int:
    """Estimate the memory of one cached resource."""
    return RESOURCE_BYTES + sys.getsizeof(resource) + _properties_bytes(properties)


def record_of(subjects: Mapping[Ref, SubjectRecord], subject: Ref) -> SubjectRecord:
    """Return what a look-up says about a subject; one that is not named there has nothing stored."""
    record = subjects.get(subject)
    return SubjectRecord() if record is None else record


def _properties_bytes(value: Any) -> int:
    """Estimate a JSON value; bounded by what a write may store."""
    if isinstance(value, Mapping):
        if not value:
            return 0
        return sys.getsizeof(value) + sum(
            _properties_bytes(name) + _properties_bytes(item) for name, item in value.items()
        )
    if isinstance(value, list | tuple):
        return sys.getsizeof(value) + sum(_properties_bytes(item) for item in value)
    return sys.getsizeof(value)
