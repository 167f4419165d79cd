"""Who reaches which role: `g` and `g2`, with patterns in names and domains, as PyCasbin's role managers build them.

PyCasbin keeps a name once it was asked about, so that its answers depend on what was asked before; here every question
is answered on the graph of the links alone. PyCasbin also stops after nine links; here chains are followed to the end.
Source: `casbin.rbac.default_role_manager` of PyCasbin 2.8.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from authz.matching import MATCHING_FUNCTIONS
from authz.pattern_machine import UnsupportedPatternError

MAX_CACHED_HIERARCHIES = 1024

# Functions for which a pattern without these characters matches itself alone (or itself and a line feed).
_WILDCARDS: Mapping[str, frozenset[str]] = {
    "keyMatch": frozenset("*"),
    "keyMatch2": frozenset(".^$*+?{}[]\\|():"),
    "keyMatch3": frozenset(".^$*+?{}[]\\|()"),
    "keyMatch4": frozenset(".^$*+?{}[]\\|()"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """`member` has `role`, in `domain` (empty where the definition has none)."""

    member: str
    role: str
    domain: str = ""


@dataclass(frozen=True, slots=True)
class PatternMatcher:
    """A matching function by its name; what it raises on does not match, as in PyCasbin."""

    name: str

    def __call__(self, text: str, pattern: str) -> bool:
        """Answer whether `text` matches `pattern`.

        Raises:
            UnsupportedPatternError: PyCasbin takes the pattern, we do not: no answer is better than a guess.
        """
        try:
            return MATCHING_FUNCTIONS[self.name](text, pattern)
        except UnsupportedPatternError:
            raise
        except (TypeError, ValueError, AttributeError):
            return False

    def is_plain(self, pattern: str) -> bool:
        """Whether `pattern` matches nothing but itself."""
        wildcards = _WILDCARDS.get(self.name)
        return wildcards is not None and "\n" not in pattern and wildcards.isdisjoint(pattern)


class Hierarchy:
    """The links of one domain, with pattern names expanded as PyCasbin does while it adds them, in their order."""

    def __init__(self, links: Iterable[Link], matcher: PatternMatcher | None = None) -> None:
        self._matcher = matcher
        self._roles: dict[str, dict[str, None]] = {}
        self._members: dict[str, dict[str, None]] = {}
        self._patterns: list[str] = []
        self._multiline = False
        for link in links:
            self._add(link.member, link.role)

    def __contains__(self, name: object) -> bool:
        return name in self._roles

    def names(self) -> Iterable[str]:
        """Return every name that a link mentions."""
        return self._roles.keys()

    @property
    def has_patterns(self) -> bool:
        """Whether names that no link mentions may reach, or be reached."""
        return self._matcher is not None

    def _add(self, member: str, role: str) -> None:
        self._create(member)
        self._create(role)
        self._connect(member, role)
        if self._matcher is None:
            return
        for name in self._matching(member):
            self._connect(name, role)
        for name in self._matching(role):
            self._connect(role, name)

    def _connect(self, member: str, role: str) -> None:
        self._roles[member][role] = None
        self._members[role][member] = None

    def _create(self, name: str) -> None:
        if name in self._roles:
            return
        roles, members = self._inherited(name)
        self._roles[name] = {}
        self._members[name] = {}
        self._multiline = self._multiline or "\n" in name
        if self._matcher is not None and not self._matcher.is_plain(name):
            self._patterns.append(name)
        for role in roles:
            self._connect(name, role)
        for member in members:
            self._connect(member, name)

    def _inherited(self, name: str) -> tuple[list[str], list[str]]:
        """Return roles and members that a new name takes over from the patterns it matches."""
        matcher = self._matcher
        if matcher is None:
            return [], []
        known = self._roles if isinstance(name, str) and "\n" in name else self._patterns
        matched = [pattern for pattern in known if matcher(name, pattern)]
        roles = {role: None for pattern in matched for role in self._roles[pattern]}
        members = {member: None for pattern in matched for member in self._members[pattern]}
        return list(roles), list(members)

    def _matching(self, pattern: str) -> list[str]:
        """Return the other names that match `pattern`."""
        matcher = self._matcher
        if matcher is None or (matcher.is_plain(pattern) and not self._multiline):
            return []
        return [name for name in self._roles if name != pattern and matcher(name, pattern)]

    def closure(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return everything that `name` reaches, itself included, each with the shortest path from `name` to it."""
        paths, _ = self._explore(name)
        return paths

    def _explore(self, name: str) -> tuple[dict[str, tuple[str, ...]], set[str]]:
        """Return the closure with paths, and what is reached by at least one link."""
        if name in self._roles:
            first: Sequence[str] = list(self._roles[name])
            members: list[str] = []
        else:
            first, members = self._inherited(name)
        paths: dict[str, tuple[str, ...]] = {name: (name,)}
        reached: set[str] = set(first)
        level = [role for role in first if role != name]
        for role in level:
            paths[role] = (name, role)
        while level:
            following: list[str] = []
            for current in level:
                for role in self._roles[current]:
                    reached.add(role)
                    if role not in paths:
                        paths[role] = (*paths[current], role)
                        following.append(role)
            level = following
        if any(member in paths for member in members):
            reached.add(name)
        return paths, reached

    def reaches(self, name: str, role: str, reached: "Reach | None" = None) -> bool:
        """Answer as `has_link(name, role)` on a role manager that was asked nothing before."""
        if name == role:
            return True
        reach = reached or self.reach(name)
        if role in self._roles or self._matcher is None:
            return role in reach.links
        matcher = self._matcher
        return any(matcher(role, pattern) for pattern in reach.links)

    def reach(self, name: str) -> "Reach":
        """Return what `name` reaches, for several questions about one name."""
        paths, links = self._explore(name)
        return Reach(paths, frozenset(links))


@dataclass(frozen=True, slots=True)
class Reach:
    """`paths`: everything reached with its path, the name itself included. `links`: what a link leads to."""

    paths: Mapping[str, tuple[str, ...]]
    links: frozenset[str]


class RoleGraph:
    """All links of one role definition."""

    def __init__(
        self,
        links: Sequence[Link],
        *,
        with_domains: bool = False,
        role_matcher: PatternMatcher | None = None,
        domain_matcher: PatternMatcher | None = None,
    ) -> None:
        self._with_domains = with_domains
        self._role_matcher = role_matcher
        self._domain_matcher = domain_matcher
        self._links: dict[str, list[Link]] = {}
        for link in links:
            self._links.setdefault(link.domain if with_domains else "", []).append(link)
        self._hierarchies: dict[tuple[str, ...], Hierarchy] = {}
        self._nothing = Hierarchy((), role_matcher)

    @classmethod
    def build(cls, links: Iterable[Link]) -> "RoleGraph":
        """Return the graph of links without patterns; links with a domain hold in that domain only."""
        listed = list(links)
        return cls(listed, with_domains=any(link.domain for link in listed))

    @property
    def role_matcher(self) -> PatternMatcher | None:
        """The function that reads names as patterns, if any."""
        return self._role_matcher

    def hierarchy(self, domain: str = "") -> Hierarchy:
        """Return the links that hold in `domain`; nothing stays in memory for a domain without links."""
        if not self._with_domains:
            domain = ""
        parts = [domain] if domain in self._links else []
        if self._domain_matcher is not None and self._with_domains:
            parts += [other for other in self._links if other != domain and self._domain_matcher(domain, other)]
        if not parts:
            return self._nothing
        key = tuple(parts)
        found = self._hierarchies.get(key)
        if found is None:
            if len(self._hierarchies) >= MAX_CACHED_HIERARCHIES:
                self._hierarchies.clear()
            found = Hierarchy((link for part in parts for link in self._links[part]), self._role_matcher)
            self._hierarchies[key] = found
        return found

    def closure(self, name: str, domain: str = "") -> dict[str, tuple[str, ...]]:
        """Return everything that `name` reaches in `domain`, itself included, each with its path."""
        return self.hierarchy(domain).closure(name)

    def has_link(self, name: str, role: str, domain: str = "") -> bool:
        """Answer as PyCasbin's `has_link`, chains longer than its limit included."""
        return self.hierarchy(domain).reaches(name, role)

    def roles_of(self, name: str, domain: str = "") -> list[str]:
        """Return the direct roles of `name`."""
        reached = self.hierarchy(domain).closure(name)
        return [role for role, path in reached.items() if len(path) == 2]  # noqa: PLR2004 - from the name to the role
