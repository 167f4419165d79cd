"""One policy state as sets: subjects as bits of an integer, rules as cells of (resource selector, action).

A *cell* holds what the rules of one (`p.obj`, `p.act`) say, as an interned content number: equal contents have equal
numbers in both states of a comparison, so that most questions compare by two small tuples.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from authz.rules import Effect, EntityKind, RoleLink, Rule, StoredEntity
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel
from authz.served_names import is_platform_resource, is_platform_role


@dataclass(frozen=True, slots=True)
class PolicyState:
    """Everything that holds in one tenant at one time: base rows and its own, rules in policy order."""

    rules: Sequence[Rule]
    links: Sequence[RoleLink]
    entities: Sequence[StoredEntity] = ()


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """What one rule says inside its cell. `rank` is its place under a priority effect, else 0."""

    rank: tuple[int, int]
    subject: str
    deny: bool
    condition: str


Content = tuple[Entry, ...]


def is_pattern(column: ColumnMatch, value: str) -> bool:
    """Whether `value` stands for more than itself in a column matched so."""
    return (column.star and value == "*") or (column.prefix and "*" in value)


def prefix_of(value: str) -> str:
    """Return what `keyMatch` compares: everything before the first `*`."""
    return value.partition("*")[0]


@dataclass(frozen=True, slots=True)
class Universe:
    """The search candidates: names that stand exactly in rules, links or stored entities; each list ascends."""

    subjects: tuple[str, ...]
    resources: tuple[str, ...]
    actions: tuple[str, ...]

    @classmethod
    def of(cls, states: Iterable[PolicyState], model: ServedModel) -> "Universe":
        """Return the union of the candidates of all `states`."""
        subjects: set[str] = set()
        resources: set[str] = set()
        actions: set[str] = set()
        for state in states:
            subjects.update({rule.subject for rule in state.rules if not is_pattern(model.subject, rule.subject)})
            resources.update({rule.resource for rule in state.rules if not is_pattern(model.resource, rule.resource)})
            actions.update({rule.action for rule in state.rules if not is_pattern(model.action, rule.action)})
            for link in state.links:
                (subjects if link.kind == "g" else resources).update((link.member, link.role))
            for entity in state.entities:
                (subjects if entity.kind is EntityKind.SUBJECT else resources).add(entity.ref)
        return cls(tuple(sorted(subjects)), tuple(sorted(resources)), tuple(sorted(actions)))


class Interner:
    """Numbers for equal contents, shared by the states of one comparison."""

    def __init__(self) -> None:
        self.contents: list[Content] = []
        self._numbers: dict[Content, int] = {}

    def number(self, entries: Iterable[Entry]) -> int:
        """Return the number of a cell's content; order and duplicates do not count beyond `rank`."""
        content = tuple(sorted(set(entries)))
        found = self._numbers.get(content)
        if found is None:
            found = self._numbers[content] = len(self.contents)
            self.contents.append(content)
        return found


def _active(links: Iterable[RoleLink], kind: str, now: datetime) -> list[tuple[str, str]]:
    return [
        (link.member, link.role)
        for link in links
        if link.kind == kind and (link.expires_at is None or link.expires_at > now)
    ]


def common_ranks(before: Sequence[Rule], after: Sequence[Rule]) -> dict[tuple[str, ...], int] | None:
    """Return one place for every rule of both sequences, or None when they order their common rules differently.

    With common places, a rule inserted before others leaves the contents of their cells equal.
    """
    keys = tuple([(str(rule.base), *rule.key) for rule in rules] for rules in (before, after))
    old, new = set(keys[0]), set(keys[1])
    if len(old) != len(keys[0]) or len(new) != len(keys[1]):
        return None
    merged: list[tuple[str, ...]] = []
    following = iter(keys[1])
    for key in keys[0]:
        if key not in new:
            merged.append(key)
            continue
        for candidate in following:
            merged.append(candidate)
            if candidate == key:
                break
            if candidate in old:
                return None
    merged.extend(following)
    return {key: place for place, key in enumerate(merged)}


def names_itself(column: ColumnMatch) -> bool:
    """Whether a value without wildcard matches the equal name."""
    return column.exact or column.prefix or column.roles is not None


class Graph:
    """A role graph by name, walked both ways; a cycle only ends a walk."""

    def __init__(self, edges: Iterable[tuple[str, str]]) -> None:
        self.edges = frozenset(edges)
        self.roles_of: dict[str, list[str]] = defaultdict(list)
        self.members_of: dict[str, list[str]] = defaultdict(list)
        for member, role in sorted(self.edges):
            self.roles_of[member].append(role)
            self.members_of[role].append(member)

    def above(self, names: Iterable[str]) -> set[str]:
        """Return `names` and every role that they reach."""
        return _reach(names, self.roles_of)

    def below(self, names: Iterable[str]) -> set[str]:
        """Return `names` and everything that reaches them."""
        return _reach(names, self.members_of)


def _reach(start: Iterable[str], steps: Mapping[str, Sequence[str]]) -> set[str]:
    seen = set(start)
    todo = list(seen)
    while todo:
        for following in steps.get(todo.pop(), ()):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return seen


def _range(low: int, high: int) -> int:
    return ((1 << high) - 1) ^ ((1 << low) - 1)


class Side:
    """One state of a comparison, indexed by resource selector, with subject sets made on demand."""

    def __init__(
        self,
        state: PolicyState,
        model: ServedModel,
        universe: Universe,
        interner: Interner,
        *,
        now: datetime,
        mask_bytes: int,
        ranks: Mapping[tuple[str, ...], int] | None = None,
    ) -> None:
        self._model = model
        self._universe = universe
        self._bit = {name: number for number, name in enumerate(universe.subjects)}
        self._mask_bytes = mask_bytes
        self._held_bytes = 0
        self._masks: dict[str, int] = {}
        reserved = [number for name, number in self._bit.items() if is_platform_role(name)]
        self._reserved = _range(reserved[0], reserved[-1] + 1) if reserved else 0
        self.roles = Graph(_active(state.links, model.subject.roles, now) if model.subject.roles is not None else ())
        self.resource_roles = Graph(
            _active(state.links, model.resource.roles, now) if model.resource.roles is not None else ()
        )
        self.cells = self._build_cells(state.rules, interner, ranks)
        self._own: dict[str, tuple[str, ...]] = {}
        self._patterns: dict[str, list[str]] = defaultdict(list)
        for selector in self.cells:
            if is_pattern(model.resource, selector):
                self._patterns[prefix_of(selector)].append(selector)
        self._prefix_lengths = sorted({len(prefix) for prefix in self._patterns})

    def _build_cells(
        self, rules: Sequence[Rule], interner: Interner, ranks: Mapping[tuple[str, ...], int] | None
    ) -> dict[str, dict[str, int]]:
        ranked = self._model.effect is PolicyEffect.PRIORITY
        conditional = "cond" in self._model.columns
        gathered: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        denies_count = self._model.effect is not PolicyEffect.ALLOW_OVERRIDE
        for number, rule in enumerate(rules):
            denies = rule.effect is Effect.DENY
            if denies and not denies_count:
                continue
            place = number if ranks is None else ranks[(str(rule.base), *rule.key)]
            rank = (rule.priority or 0, place) if ranked else (0, 0)
            condition = (rule.condition or "") if conditional else ""
            entry = Entry(rank, rule.subject, denies, condition)
            gathered[rule.resource, rule.action].append(entry)
        cells: dict[str, dict[str, int]] = defaultdict(dict)
        for (resource, action), entries in gathered.items():
            cells[resource][action] = interner.number(entries)
        return dict(cells)

    def own_selectors(self, resource: str) -> tuple[str, ...]:
        """Return the selectors that name the resource or a group of it."""
        if not names_itself(self._model.resource):
            return ()
        if self._model.resource.roles is None:
            return (resource,) if resource in self.cells else ()
        found = self._own.get(resource)
        if found is None:
            names = self.resource_roles.above([resource])
            if is_platform_resource(resource):
                names = set(filter(is_platform_resource, names))
            found = self._own[resource] = tuple(sorted(name for name in names if name in self.cells))
        return found

    def pattern_selectors(self, resource: str) -> tuple[str, ...]:
        """Return the wildcard selectors that match the resource."""
        found: list[str] = []
        for length in self._prefix_lengths:
            if length > len(resource):
                break
            if not length and is_platform_resource(resource):
                continue  # `*` means no reserved resource
            found.extend(self._patterns.get(resource[:length], ()))
        return tuple(found)

    def subjects_of(self, rule_subject: str) -> int:
        """Return the set of candidates that a rule's `p.sub` matches."""
        found = self._masks.get(rule_subject)
        if found is None:
            found = self._make_mask(rule_subject)
            size = found.bit_length() // 7 + 64
            if self._held_bytes + size > self._mask_bytes:
                self._masks.clear()
                self._held_bytes = 0
            self._masks[rule_subject] = found
            self._held_bytes += size
        return found

    def _make_mask(self, rule_subject: str) -> int:
        names = self._universe.subjects
        if is_pattern(self._model.subject, rule_subject):
            prefix = prefix_of(rule_subject)
            low = bisect_left(names, prefix)
            high = bisect_right(names, prefix, lo=low, key=lambda name: name[: len(prefix)])
            return _range(low, high) & ~(0 if is_platform_role(prefix) else self._reserved)
        if not names_itself(self._model.subject):
            return 0
        members = self.roles.below([rule_subject])
        bits = bytearray(len(names) // 8 + 1)
        for member in members:
            number = self._bit.get(member)
            if number is not None:
                bits[number >> 3] |= 1 << (number & 7)
        return int.from_bytes(bits, "little")
