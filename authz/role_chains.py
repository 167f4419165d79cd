"""Cycles and depth of a role hierarchy."""

from collections.abc import Iterable

from authz.rules import RoleLink

MAX_CHAIN = 32
"""Links between names in the longest chain that a policy may have: one limit, for lint and for every write.

A membership is not counted: members come and go without the hierarchy. Decisions follow any chain to its end; people
do not, and PyCasbin cuts chains after nine links without a word (ADR 0002).
"""


def find_cycle(links: Iterable[RoleLink]) -> tuple[str, ...]:
    """Return a cycle, its first name repeated at the end, or an empty tuple."""
    return _walk(links)[0]


def longest_chain(links: Iterable[RoleLink]) -> int:
    """Return how many links the longest chain has; the links must hold no cycle."""
    return _walk(links)[1]


def _walk(links: Iterable[RoleLink]) -> tuple[tuple[str, ...], int]:
    """Visit every name after all names it inherits from, without recursion: chains may be long."""
    parents: dict[str, list[str]] = {}
    for link in links:
        parents.setdefault(link.member, []).append(link.role)
    depth: dict[str, int] = {}
    for start in parents:
        path: list[str] = []
        on_path: set[str] = set()
        waiting = [(start, False)]
        while waiting:
            name, leaving = waiting.pop()
            if leaving:
                path.pop()
                on_path.discard(name)
                depth[name] = 1 + max((depth[parent] for parent in parents[name]), default=-1)
                continue
            if name in on_path:
                return (*path[path.index(name) :], name), 0
            if name in depth:
                continue
            if name not in parents:
                depth[name] = 0
                continue
            path.append(name)
            on_path.add(name)
            waiting.append((name, True))
            waiting.extend((parent, False) for parent in parents[name])
    return (), max(depth.values(), default=0)
