"""The compiled form of one tenant's rules at one `rules_revision`: an immutable index.

A row is filed under its resource (exact, or the prefix before its `*`) and its action (a name, or any). A question
looks up its own resource, the prefixes of it that some row uses, and both action forms: a few dictionary look-ups,
however many rows there are. What a look-up finds holds, for rows without a condition, the subjects that are allowed
and denied as sets, to be compared with the names a subject goes by (`Facts.names`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from authz.conditions import Condition, compile_condition
from authz.errors import ConditionError, ModelError
from authz.hierarchy import NEVER, Hierarchy
from authz.ports import RuleSet, SubjectRecord
from authz.request import Properties, Ref
from authz.rules import BASE_DOMAIN, Effect, RoleLink, Rule
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel
from tenancy.ids import Slug, TenantId

ANY_SUBJECT = "\0any"
"""Files rows whose subject column the model does not index; no ref has a control character, so none collides."""

SERVED_EFFECTS = frozenset({PolicyEffect.ALLOW_AND_DENY, PolicyEffect.ALLOW_OVERRIDE, PolicyEffect.PRIORITY})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a subject is, under one snapshot: every value of `p.sub` that applies to it, and its attributes."""

    subject: Ref
    names: frozenset[str]
    properties: Properties
    valid_until: float
    """Epoch seconds; a grant expires then and the facts must be made anew. Infinite when none does."""
    record: SubjectRecord


class Quick(Enum):
    """What the sets of an index say."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_MATCH = "no match"
    UNDECIDED = "a row with a condition, a residual or a priority takes part"


# Bound once: looking an enum member up costs more than the set comparison beside it.
ALLOWED, DENIED, NO_MATCH, UNDECIDED = Quick


class Entry:
    """All rows of one (resource key, action key)."""

    __slots__ = ("allow", "conditional", "deny", "rows")

    def __init__(self, rows: tuple[int, ...]) -> None:
        self.rows = rows
        self.allow: frozenset[str] = _NOBODY
        self.deny: frozenset[str] = _NOBODY
        self.conditional: frozenset[str] = _NOBODY


_NOBODY: frozenset[str] = frozenset()


class Snapshot:
    """Immutable once built. Use `build_snapshot`."""

    __slots__ = (
        "_any_action",
        "_named_action",
        "_prefix_any",
        "_prefix_lengths",
        "_prefix_named",
        "_resource_roles",
        "_subject_patterns",
        "conditions",
        "hierarchy",
        "memo",
        "model",
        "rules",
        "rules_revision",
        "slug",
        "tenant_id",
    )

    def __init__(self, rule_set: RuleSet, model: ServedModel) -> None:
        self.tenant_id: TenantId = rule_set.head.tenant_id
        self.slug: Slug = rule_set.head.slug
        self.rules_revision: int = rule_set.head.rules_revision
        self.model = model
        self.rules: Sequence[Rule] = rule_set.rules
        self.hierarchy = Hierarchy(_links(rule_set.links, "g"))
        self.conditions: dict[str, Condition | ConditionError] = {}
        self.memo: dict[str, Any] = {}  # what readers derive once per snapshot, under the name of what they derive
        resource_links = _links(rule_set.links, "g2")
        if any(link.expires_at is not None for link in resource_links):
            raise ModelError("a g2 link expires, which only g links can")
        self._resource_roles = None if model.resource.roles is None else Hierarchy(resource_links)
        self._named_action: dict[tuple[str, str], Entry] = {}
        self._any_action: dict[str, Entry] = {}
        self._prefix_named: dict[tuple[str, str], Entry] = {}
        self._prefix_any: dict[str, Entry] = {}
        self._prefix_lengths: tuple[int, ...] = ()
        self._subject_patterns: tuple[tuple[str, str], ...] = ()

    def facts(self, subject: Ref, record: SubjectRecord, now: datetime) -> Facts:
        """Return what `subject` is at `now`, given what is stored about it."""
        column = self.model.subject
        names: set[str] = {ANY_SUBJECT}
        valid_until = NEVER
        if column.exact or column.prefix:
            names.add(subject)
        if column.star:
            names.add("*")
        if column.roles is not None:
            reached, valid_until = self.hierarchy.closure(subject, record.grants, now.timestamp())
            names.update(reached)
        names.update(pattern for pattern, prefix in self._subject_patterns if subject.startswith(prefix))
        return Facts(subject, frozenset(names), record.properties, valid_until, record)

    def decide(self, names: frozenset[str], resource: str, action: str) -> Quick:
        """Answer from unconditional rows alone, as far as they can."""
        answer = NO_MATCH
        for entry in self.entries(resource, action):
            if not entry.conditional.isdisjoint(names):
                return UNDECIDED
            if not entry.deny.isdisjoint(names):
                # A later entry may hold a conditional row, but a deny stays a deny.
                return DENIED
            if answer is NO_MATCH and not entry.allow.isdisjoint(names):
                answer = ALLOWED
        return answer

    def entries(self, resource: str, action: str) -> list[Entry]:
        """Return the entries whose resource and action keys take this resource and action."""
        found: list[Entry] = []
        if self._resource_roles is None:
            self._exact_entries(resource, action, found)
        else:
            for name in self._resource_roles.reachable(resource):
                self._exact_entries(name, action, found)
        for length in self._prefix_lengths:
            if length > len(resource):
                break
            prefix = resource[:length]
            entry = self._prefix_named.get((prefix, action))
            if entry is not None:
                found.append(entry)
            entry = self._prefix_any.get(prefix)
            if entry is not None:
                found.append(entry)
        return found

    def _exact_entries(self, resource: str, action: str, found: list[Entry]) -> None:
        entry = self._named_action.get((resource, action))
        if entry is not None:
            found.append(entry)
        entry = self._any_action.get(resource)
        if entry is not None:
            found.append(entry)

    def candidates(self, names: frozenset[str] | None, resource: str, action: str) -> Iterator[int]:
        """Yield positions (in `rules`) of rows whose index keys match; of any subject when `names` is None."""
        for entry in self.entries(resource, action):
            for position in entry.rows:
                if names is None or self.subject_key(position) in names:
                    yield position

    def subject_key(self, position: int) -> str:
        """Return the name under which `Facts.names` must hold the row's subject."""
        return self.rules[position].subject if self.model.subject.indexed else ANY_SUBJECT

    def grouped_resources(self) -> set[str]:
        """Return every resource and resource group that stands in a `g2` link."""
        return set() if self._resource_roles is None else self._resource_roles.names()

    def residual_holds(self, position: int, subject: str, resource: str, action: str) -> bool:
        """Return whether the part of the matcher that is out of the index holds.

        Raises:
            ModelError: it cannot be evaluated for these values.
        """
        residual = self.model.residual
        if residual is None:
            return True
        rule = self.rules[position]
        domain = BASE_DOMAIN if rule.base else self.slug
        try:
            outcome = residual(subject, self.slug, resource, action, rule.subject, domain, rule.resource, rule.action)
        except Exception as error:
            raise ModelError(f"matcher: {type(error).__name__}: {error}") from error
        return outcome is True


def build_snapshot(rule_set: RuleSet, model: ServedModel) -> Snapshot:
    """Return the index of a rule set.

    Takes about 2 µs a row and runs no callback: build it beside the event loop and swap the reference.

    Raises:
        ModelError: the model's effect is not one that is served.
    """
    if model.effect not in SERVED_EFFECTS:
        raise ModelError(f"effect `{model.effect}` is not served")
    snapshot = Snapshot(rule_set, model)
    _Builder(snapshot).file_all()
    return snapshot


class _Builder:
    """Files rows under their keys, then turns each group into an `Entry`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._model = snapshot.model
        self._sets: dict[frozenset[str], frozenset[str]] = {}

    def file_all(self) -> None:
        """Fill the snapshot's dictionaries."""
        snapshot = self._snapshot
        named: dict[tuple[str, str], list[int]] = {}
        any_action: dict[str, list[int]] = {}
        prefix_named: dict[tuple[str, str], list[int]] = {}
        prefix_any: dict[str, list[int]] = {}
        patterns: dict[str, str] = {}
        resource_column, action_column, subject_column = self._model.resource, self._model.action, self._model.subject
        for position, rule in enumerate(snapshot.rules):
            key, is_prefix = _resource_key(resource_column, rule.resource)
            if rule.condition is not None and rule.condition not in snapshot.conditions:
                snapshot.conditions[rule.condition] = _compiled(rule.condition)
            if subject_column.prefix and "*" in rule.subject:
                patterns[rule.subject] = rule.subject[: rule.subject.index("*")]
            if not action_column.indexed or (action_column.star and rule.action == "*"):
                (prefix_any if is_prefix else any_action).setdefault(key, []).append(position)
            else:
                (prefix_named if is_prefix else named).setdefault((key, rule.action), []).append(position)
        snapshot._named_action = {key: self._entry(rows) for key, rows in named.items()}  # noqa: SLF001 (same module)
        snapshot._any_action = {key: self._entry(rows) for key, rows in any_action.items()}  # noqa: SLF001
        snapshot._prefix_named = {key: self._entry(rows) for key, rows in prefix_named.items()}  # noqa: SLF001
        snapshot._prefix_any = {key: self._entry(rows) for key, rows in prefix_any.items()}  # noqa: SLF001
        lengths = {len(key) for key, _ in prefix_named} | {len(key) for key in prefix_any}
        snapshot._prefix_lengths = tuple(sorted(lengths))  # noqa: SLF001
        snapshot._subject_patterns = tuple(patterns.items())  # noqa: SLF001

    def _entry(self, rows: list[int]) -> Entry:
        snapshot = self._snapshot
        entry = Entry(tuple(rows))
        # Under a priority effect, and with a residual, no set can answer: every row is looked at.
        by_row = self._model.residual is not None or self._model.effect is PolicyEffect.PRIORITY
        groups: dict[str, set[str]] = {}
        for position in rows:
            rule = snapshot.rules[position]
            if rule.effect is Effect.DENY and self._model.effect is PolicyEffect.ALLOW_OVERRIDE:
                continue
            group = "conditional" if by_row or rule.condition is not None else rule.effect.value
            groups.setdefault(group, set()).add(snapshot.subject_key(position))
        for group, names in groups.items():
            setattr(entry, group, self._shared(frozenset(names)))
        return entry

    def _shared(self, names: frozenset[str]) -> frozenset[str]:
        """Return one object for equal sets: the same few roles recur on most resources."""
        return self._sets.setdefault(names, names)


def _resource_key(column: ColumnMatch, value: str) -> tuple[str, bool]:
    """Return the index key of a row's resource and whether it is a prefix."""
    if not column.indexed:
        return "", True
    if column.star and value == "*":
        return "", True
    star = value.find("*") if column.prefix else -1
    return (value, False) if star < 0 else (value[:star], True)


def _compiled(text: str) -> Condition | ConditionError:
    """A stored condition that no longer compiles is in error at every evaluation: it never lets an allow match."""
    try:
        return compile_condition(text)
    except ConditionError as error:
        return error


def _links(links: Iterable[RoleLink], kind: str) -> list[RoleLink]:
    return [link for link in links if link.kind == kind]
