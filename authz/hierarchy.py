"""The role hierarchy of one tenant: who inherits whom, with expiring links."""

import math
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

from authz.ports import EVERY_ROLE, Grant
from authz.rules import RoleLink

NEVER = math.inf
"""Epoch seconds of something that does not expire."""


class Hierarchy:
    """Links between roles and groups (or resources). Chains are followed to their end; cycles do no harm."""

    __slots__ = ("_memo", "_parents")

    def __init__(self, links: Iterable[RoleLink]) -> None:
        parents: dict[str, list[tuple[str, float]]] = {}
        for link in links:
            parents.setdefault(link.member, []).append((link.role, _epoch(link.expires_at)))
        self._parents = parents
        self._memo: dict[str, frozenset[str]] = {}

    def closure(
        self, member: str, grants: Sequence[Grant], now: float, without: AbstractSet[str] = frozenset()
    ) -> tuple[set[str], float]:
        """Return all names `member` reaches, itself included, and until when (epoch seconds) that holds.

        Args:
            member: Where to start.
            grants: Its direct roles; a stored hierarchy link of the same member counts as well.
            now: Epoch seconds; a link whose expiry is not after `now` does not exist.
            without: Roles that are not entered, nor what is reached through them alone; `EVERY_ROLE` means all.
        """
        reached = {member}
        if EVERY_ROLE in without:
            return reached, NEVER
        valid_until = NEVER
        waiting: list[str] = []
        for role, expires in [(g.role, _epoch(g.expires_at)) for g in grants] + self._parents.get(member, []):
            if expires > now:
                valid_until = min(valid_until, expires)
                waiting.append(role)
        while waiting:
            name = waiting.pop()
            if name in reached or name in without:
                continue
            reached.add(name)
            for parent, expires in self._parents.get(name, ()):
                if expires > now:
                    valid_until = min(valid_until, expires)
                    waiting.append(parent)
        return reached, valid_until

    def reachable(self, member: str) -> frozenset[str]:
        """Return all names `member` reaches, itself included, where links do not expire (`g2`)."""
        if member not in self._parents:
            return frozenset((member,))
        found = self._memo.get(member)
        if found is None:
            # Bounded: only names that stand in links are remembered.
            found = self._memo[member] = frozenset(self.closure(member, (), -NEVER)[0])
        return found

    def path(self, member: str, grants: Sequence[Grant], goal: str, now: float) -> tuple[str, ...]:
        """Return a shortest chain from `member` to `goal` at `now`, both included; empty when there is none."""
        came_from: dict[str, str] = {member: ""}
        level = [member]
        direct = [(g.role, _epoch(g.expires_at)) for g in grants]
        while level:
            following: list[str] = []
            for name in level:
                if name == goal:
                    return _walk_back(came_from, goal)
                for parent, expires in [*self._parents.get(name, ()), *(direct if name == member else ())]:
                    if expires > now and parent not in came_from:
                        came_from[str(parent)] = name
                        following.append(parent)
            level = following
        return ()

    def names(self) -> set[str]:
        """Return every name that stands in a link."""
        return {*self._parents, *(role for links in self._parents.values() for role, _ in links)}


def _epoch(moment: datetime | None) -> float:
    return NEVER if moment is None else moment.timestamp()


def _walk_back(came_from: dict[str, str], goal: str) -> tuple[str, ...]:
    chain = [goal]
    while came_from[chain[-1]]:
        chain.append(came_from[chain[-1]])
    return tuple(reversed(chain))
