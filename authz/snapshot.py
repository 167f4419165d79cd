"""The compiled form of one tenant's rules at one `rules_revision`: an immutable index.

A row is filed under its resource (exact, or the prefix before its `*`) and its action (a name, or any). A question
looks up its own resource, the prefixes of it that some row uses, and both action forms: a few dictionary look-ups,
however many rows there are. What a look-up finds holds, for rows without a condition, the subjects that are allowed
and denied as sets, to be compared with the names a subject goes by (`Facts.names`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeVar

from authz.conditions import Condition, compile_condition
from authz.errors import ConditionError, ModelError
from authz.hierarchy import NEVER, Hierarchy
from authz.ports import EVERY_ROLE, AccountState, RuleSet, SubjectRecord
from authz.request import Properties, Ref
from authz.rules import BASE_DOMAIN, Effect, RoleLink, Rule
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel
from authz.served_names import PLATFORM_RESOURCES, is_platform_resource, is_platform_role
from tenancy.ids import Slug, TenantId

ANY_ACTION = ""
"""Files prefix rows that take any action; no action has an empty name."""

ANY_SUBJECT = "\0any"
"""Files rows whose subject column the model does not index; no ref has a control character, so none collides."""

GIVE_WAY_ROWS = 400
"""How many rows are filed before another thread is offered the interpreter: half a millisecond, and an offer that is a
sleep takes a tenth of one at least."""

MAX_NAME_SETS = 10_000
"""How many different sets of names a snapshot remembers, so that equal ones are one object."""

T = TypeVar("T")

Positions = int | list[int]
"""Places of rows in `Snapshot.rules`; most groups hold one row, and an int is smaller than a list of one."""

SERVED_EFFECTS = frozenset({PolicyEffect.ALLOW_AND_DENY, PolicyEffect.ALLOW_OVERRIDE, PolicyEffect.PRIORITY})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a subject is, under one snapshot: every value of `p.sub` there that applies to it, and its attributes."""

    subject: Ref
    names: frozenset[str]
    properties: Properties
    valid_until: float
    """Epoch seconds; a grant expires then and the facts must be made anew. Infinite when none does."""
    record: SubjectRecord
    barred: AccountState | None = None
    """The state of an account that may do nothing: it goes by no name, so that nothing can match on any way."""
    weak_names: frozenset[str] | None = None
    """Those names that a sign-in with one factor brings, where that makes a difference."""


class Quick(Enum):
    """What the sets of an index say."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_MATCH = "no match"
    UNDECIDED = "a row with a condition, a residual or a priority takes part"


# Bound once: looking an enum member up costs more than the set comparison beside it.
ALLOWED, DENIED, NO_MATCH, UNDECIDED = Quick


class Entry:
    """What all rows of one (resource key, action key) say, where they do more than allow."""

    __slots__ = ("allow", "conditional", "deny")

    def __init__(self, allow: frozenset[str], deny: frozenset[str], conditional: frozenset[str]) -> None:
        self.allow = allow
        self.deny = deny
        self.conditional = conditional


Group = frozenset[str] | Entry
"""What one group of rows says: nearly all just allow, and then the set of subjects is enough, and one object less to
find in memory. Equal groups of a snapshot are one object."""


@dataclass(frozen=True, slots=True)
class _Filed(Generic[T]):
    """Values by resource and action: exact resources, and prefixes of resources.

    `named` is keyed by `action NUL resource`, `any_action` by the resource; `prefixes` by the prefix, then the action
    (`ANY_ACTION` where any will do), so that a prefix that no row uses costs one look-up.
    """

    named: dict[str, T]
    any_action: dict[str, T]
    prefixes: dict[str, dict[str, T]]


class Snapshot:
    """Immutable once built. Use `build_snapshot`."""

    __slots__ = (
        "_groups",
        "_name_sets",
        "_only_named",
        "_prefixes",
        "_resource_roles",
        "_rows",
        "_subject_keys",
        "_subject_patterns",
        "conditions",
        "hierarchy",
        "memo",
        "mfa_roles",
        "model",
        "rule_set",
        "rules",
        "rules_revision",
        "slug",
        "tenant_id",
    )

    def __init__(
        self, rule_set: RuleSet, model: ServedModel, give_way: Callable[[], None], *, mfa_of_everybody: bool
    ) -> None:
        self.tenant_id: TenantId = rule_set.head.tenant_id
        self.slug: Slug = rule_set.head.slug
        self.rules_revision: int = rule_set.head.rules_revision
        self.model = model
        self.rule_set = rule_set
        self.rules: Sequence[Rule] = rule_set.rules
        self.hierarchy = Hierarchy(_links(rule_set.links, "g"))
        self.mfa_roles = frozenset((EVERY_ROLE,) if mfa_of_everybody else rule_set.mfa_roles)
        self.conditions: dict[str, Condition | ConditionError] = {}
        self.memo: dict[str, Any] = {}  # what readers derive once per snapshot, under the name of what they derive
        resource_links = _links(rule_set.links, "g2")
        if any(link.expires_at is not None for link in resource_links):
            raise ModelError("a g2 link expires, which only g links can")
        self._resource_roles = None if model.resource.roles is None else Hierarchy(resource_links)
        builder = _Builder(self, give_way)
        self._rows, self._subject_patterns = builder.file_all()
        for text in builder.conditions:
            self.conditions[text] = _compiled(text)
        self._subject_keys = builder.subjects if model.subject.indexed else {ANY_SUBJECT}
        self._name_sets: dict[frozenset[str], frozenset[str]] = {}
        self._groups = builder.groups(self._rows)
        # With a residual every row is looked at by itself, reserved names too.
        self._prefixes = _Prefixes(self._rows.prefixes, without_reserved=model.residual is None)
        self._only_named = self._resource_roles is None and not self._rows.any_action and not self._rows.prefixes

    def facts(self, subject: Ref, record: SubjectRecord, now: datetime) -> Facts:
        """Return what `subject` is at `now`, given what is stored about it."""
        if record.barred is not None:
            # SECURITY: without names no row of any kind matches, however it is looked for.
            return Facts(subject, frozenset(), record.properties, NEVER, record, record.barred)
        column = self.model.subject
        names: set[str] = {ANY_SUBJECT}
        valid_until = NEVER
        if column.exact or column.prefix:
            names.add(subject)
        reserved = is_platform_role(subject)
        if column.star and not reserved:
            names.add("*")
        for pattern, prefix in self._subject_patterns:
            if subject.startswith(prefix) and (not reserved or is_platform_role(prefix)):
                names.add(pattern)
        weak: set[str] | None = None
        if column.roles is not None:
            moment = now.timestamp()
            reached, valid_until = self.hierarchy.closure(subject, record.grants, moment)
            if self.mfa_roles:
                weak = names | self.hierarchy.closure(subject, record.grants, moment, self.mfa_roles)[0]
            names |= reached
        known = self._known(names)
        facts = Facts(subject, known, record.properties, valid_until, record)
        if weak is None or self._known(weak) == known:
            return facts
        return replace(facts, weak_names=self._known(weak))

    def _known(self, names: set[str]) -> frozenset[str]:
        """Return those names that some row has as its subject; equal sets, which many subjects have, are one object."""
        known = frozenset(names & self._subject_keys)
        found = self._name_sets.get(known)
        if found is None:
            if len(self._name_sets) >= MAX_NAME_SETS:
                self._name_sets.clear()
            found = self._name_sets[known] = known
        return found

    def decide(self, names: frozenset[str], resource: str, action: str) -> Quick:
        """Answer from unconditional rows alone, as far as they can."""
        if self._only_named:
            group = self._groups.named.get(f"{action}\0{resource}")
            if isinstance(group, frozenset):
                return NO_MATCH if group.isdisjoint(names) else ALLOWED
            return NO_MATCH if group is None else _joined(NO_MATCH, group, names)
        answer = NO_MATCH
        for group in self._find(self._groups, resource, action):
            answer = _joined(answer, group, names)
            # A later group may hold a conditional row, but a deny stays a deny.
            if answer is DENIED or answer is UNDECIDED:
                return answer
        return answer

    def candidates(self, names: frozenset[str] | None, resource: str, action: str) -> Iterator[int]:
        """Yield positions (in `rules`) of rows whose index keys match; of any subject when `names` is None."""
        for filed in self._find(self._rows, resource, action):
            for position in (filed,) if isinstance(filed, int) else filed:
                if names is None or self.subject_key(position) in names:
                    yield position

    def _find(self, filed: "_Filed[T]", resource: str, action: str) -> "list[T]":
        found: list[T] = []
        roles = self._resource_roles
        for name in (resource,) if roles is None else _groups_of(roles, resource):
            value = filed.named.get(f"{action}\0{name}")
            if value is not None:
                found.append(value)
            if filed.any_action:
                value = filed.any_action.get(name)
                if value is not None:
                    found.append(value)
        for prefix in self._prefixes.of(resource):
            by_action = filed.prefixes.get(prefix)
            if by_action is not None:
                value = by_action.get(action)
                if value is not None:
                    found.append(value)
                value = by_action.get(ANY_ACTION)
                if value is not None:
                    found.append(value)
        return found

    def subject_key(self, position: int) -> str:
        """Return the name under which `Facts.names` must hold the row's subject."""
        return self.rules[position].subject if self.model.subject.indexed else ANY_SUBJECT

    def parts(self) -> Iterator[list[Any]]:
        """Yield lists of the many objects that it consists of, so that they can be freed a few at a time."""
        yield list(self.rules)
        yield list(self._rows.named)
        yield list(self._rows.named.values())
        yield list(self._groups.named.values())

    def grouped_resources(self) -> set[str]:
        """Return every resource and resource group that stands in a `g2` link."""
        return set() if self._resource_roles is None else self._resource_roles.names()

    def residual_holds(self, position: int, subject: str, resource: str, action: str) -> bool:
        """Return whether the part of the matcher that is out of the index holds, and no wildcard reaches too far.

        Raises:
            ModelError: it cannot be evaluated for these values.
        """
        residual = self.model.residual
        if residual is None:
            return True
        rule = self.rules[position]
        if is_platform_resource(resource) and not is_platform_resource(rule.resource):
            return False
        if not self.model.subject.indexed and is_platform_role(subject) and not is_platform_role(rule.subject):
            return False
        domain = BASE_DOMAIN if rule.base else self.slug
        try:
            outcome = residual(subject, self.slug, resource, action, rule.subject, domain, rule.resource, rule.action)
        except Exception as error:
            raise ModelError(f"matcher: {type(error).__name__}: {error}") from error
        return outcome is True


class _Prefixes:
    """Which beginnings of a resource may be prefixes that rows use: nearly all patterns end at a separator."""

    __slots__ = ("_empty", "_ends", "_lengths", "_separator", "_without_reserved")

    def __init__(self, prefixes: Iterable[str], *, without_reserved: bool) -> None:
        ends: dict[int, set[str]] = {}
        for prefix in prefixes:
            ends.setdefault(len(prefix), set()).add(prefix[-1:])
        self._empty = ("",) if ends.pop(0, None) else ()
        self._without_reserved = without_reserved and bool(self._empty)
        characters = set().union(*ends.values())
        self._separator = characters.pop() if len(characters) == 1 else ""
        self._lengths = frozenset(ends)
        self._ends = tuple((length, "".join(sorted(found))) for length, found in sorted(ends.items()))

    def of(self, resource: str) -> Sequence[str]:
        """Return beginnings of `resource`, every one that a row uses among them."""
        # SECURITY: `*` means no reserved resource.
        found = [] if self._without_reserved and resource.startswith(PLATFORM_RESOURCES) else list(self._empty)
        separator = self._separator
        if separator:
            at = resource.find(separator)
            while at >= 0:
                at += 1
                if at in self._lengths:
                    found.append(resource[:at])
                at = resource.find(separator, at)
            return found
        for length, ends in self._ends:
            if length > len(resource):
                break
            if resource[length - 1] in ends:
                found.append(resource[:length])
        return found


def _groups_of(roles: Hierarchy, resource: str) -> Iterable[str]:
    """Return the resource and its groups; a reserved one is in reserved groups only."""
    names = roles.reachable(resource)
    return filter(is_platform_resource, names) if is_platform_resource(resource) else names


def _joined(answer: Quick, group: Group, names: frozenset[str]) -> Quick:
    """Return `answer`, which is none or an allow, joined with what one more group says."""
    if isinstance(group, frozenset):
        return answer if answer is ALLOWED or group.isdisjoint(names) else ALLOWED
    # An empty set is told by its truth, which is cheaper than a comparison.
    if group.conditional and not group.conditional.isdisjoint(names):
        return UNDECIDED
    if group.deny and not group.deny.isdisjoint(names):
        return DENIED
    return answer if answer is ALLOWED or group.allow.isdisjoint(names) else ALLOWED


def _go_on() -> None:
    """Give way to nobody."""


def build_snapshot(
    rule_set: RuleSet,
    model: ServedModel,
    give_way: Callable[[], None] = _go_on,
    *,
    mfa_of_everybody: bool = False,
) -> Snapshot:
    """Return the index of a rule set.

    Takes about 2 µs a row: build it beside the event loop and swap the reference.

    Args:
        rule_set: What is indexed.
        model: How its rows are matched.
        give_way: Called again and again meanwhile, so that other threads have the interpreter.
        mfa_of_everybody: Whether the deployment demands a second factor of all, whatever this tenant does. No part of
            the rule set, which nodes that are configured otherwise may share.

    Raises:
        ModelError: the model's effect is not one that is served.
    """
    if model.effect not in SERVED_EFFECTS:
        raise ModelError(f"effect `{model.effect}` is not served")
    return Snapshot(rule_set, model, give_way, mfa_of_everybody=mfa_of_everybody)


class _Builder:
    """Files rows under their keys, then turns each group into an `Entry`."""

    def __init__(self, snapshot: Snapshot, give_way: Callable[[], None]) -> None:
        self._give_way = give_way
        self._rules = snapshot.rules
        self._snapshot = snapshot
        self._model = snapshot.model
        # Under a priority effect, and with a residual, no set can answer: every row is looked at.
        self._by_row = self._model.residual is not None or self._model.effect is PolicyEffect.PRIORITY
        self._shared: dict[tuple[frozenset[str], frozenset[str], frozenset[str]], Group] = {}
        self._until_give_way = 0
        self.subjects: set[str] = set()
        self.conditions: set[str] = set()

    def file_all(self) -> "tuple[_Filed[Positions], tuple[tuple[str, str], ...]]":
        """Return the rows under their keys, and the patterns among the subjects with their prefixes."""
        filed: _Filed[Positions] = _Filed({}, {}, {})
        patterns: dict[str, str] = {}
        resource_column, action_column, subject_column = self._model.resource, self._model.action, self._model.subject
        for position, rule in enumerate(self._rules):
            if not position % GIVE_WAY_ROWS:
                self._give_way()
            self.subjects.add(rule.subject)
            if rule.condition is not None:
                self.conditions.add(rule.condition)
            key, is_prefix = _resource_key(resource_column, rule.resource)
            if subject_column.prefix and "*" in rule.subject:
                patterns[rule.subject] = rule.subject[: rule.subject.index("*")]
            any_action = not action_column.indexed or (action_column.star and rule.action == "*")
            if is_prefix:
                target = filed.prefixes.setdefault(key, {})
                key = ANY_ACTION if any_action else rule.action
            elif any_action:
                target = filed.any_action
            else:
                target = filed.named
                key = f"{rule.action}\0{key}"
            before = target.get(key)
            if before is None:
                target[key] = position
            elif isinstance(before, int):
                target[key] = [before, position]
            else:
                before.append(position)
        return filed, tuple(patterns.items())

    def groups(self, filed: "_Filed[Positions]") -> "_Filed[Group]":
        """Return what each group of rows says."""
        return _Filed(
            self._grouped(filed.named),
            self._grouped(filed.any_action),
            {prefix: self._grouped(by_action) for prefix, by_action in filed.prefixes.items()},
        )

    def _grouped(self, filed: dict[str, Positions]) -> dict[str, Group]:
        groups: dict[str, Group] = {}
        for key, rows in filed.items():
            self._until_give_way -= 1 if isinstance(rows, int) else len(rows)
            if self._until_give_way <= 0:
                self._until_give_way = GIVE_WAY_ROWS
                self._give_way()
            groups[key] = self._group(rows)
        return groups

    def _group(self, rows: Positions) -> Group:
        allow: list[str] = []
        deny: list[str] = []
        conditional: list[str] = []
        for position in (rows,) if isinstance(rows, int) else rows:
            rule = self._rules[position]
            name = self._snapshot.subject_key(position)
            if rule.effect is Effect.DENY and self._model.effect is PolicyEffect.ALLOW_OVERRIDE:
                continue
            if self._by_row or rule.condition is not None:
                conditional.append(name)
            else:
                (deny if rule.effect is Effect.DENY else allow).append(name)
        key = (frozenset(allow), frozenset(deny), frozenset(conditional))
        group = self._shared.get(key)
        if group is None:
            group = self._shared[key] = Entry(*key) if deny or conditional else key[0]
        return group


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
