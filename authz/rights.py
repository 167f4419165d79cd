"""Administrative rights as values: who may do what on `kasbah:…`, and whether one's rights contain another's.

A right is a pattern of a resource and an action. What somebody *holds* is counted low and what somebody would *get* is
counted high: a condition or an expiry that may turn out either way never helps the one who gives.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from authz.conditions import Condition
from authz.rules import Effect, EntityKind, Rule
from authz.served_model import PolicyEffect
from authz.served_names import is_platform_resource
from authz.snapshot import Snapshot

ANY = "*"
GRANT = "grant"
LASTING = 2.0**62
"""Epoch seconds after every expiry: only links without one are left."""

_ROWS = "rights.rows"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """`action` (a name, or `*`) on `resource` (a name, or a prefix that ends in `*`)."""

    resource: str
    action: str

    def __str__(self) -> str:
        return f"`{self.action}` on `{self.resource}`"

    def covers(self, other: "Right") -> bool:
        """Whether whoever has this has the other."""
        if self.action not in {ANY, other.action}:
            return False
        if self.resource.endswith(ANY):
            return other.resource.startswith(self.resource[:-1])
        return self.resource == other.resource

    def meets(self, other: "Right") -> bool:
        """Whether some question is about both."""
        if self.action != other.action and ANY not in {self.action, other.action}:
            return False
        one, two = self.resource, other.resource
        if one.endswith(ANY) and two.endswith(ANY):
            return one.startswith(two[:-1]) or two.startswith(one[:-1])
        return self.covers(Right(two, self.action)) or other.covers(Right(one, other.action))


EVERYTHING = Right("kasbah:*", ANY)


def role_right(role: str) -> Right:
    """Return the right to give a role or group: `grant` on `kasbah:role/editor` or `kasbah:group/sales`."""
    kind, _, name = role.partition(":")
    return Right(f"kasbah:{kind}/{name}", GRANT)


def permission_right(resource: str) -> Right:
    """Return the right to allow somebody something on a resource or pattern: `grant` on `kasbah:permission/<it>`."""
    return Right(f"kasbah:permission/{resource}", GRANT)


@dataclass(frozen=True, slots=True)
class Rights:
    """What allows and what denies, of one subject. A deny wins."""

    allows: frozenset[Right] = frozenset()
    denies: frozenset[Right] = frozenset()

    def surely(self, right: Right, apart_from: Iterable[Right] = ()) -> bool:
        """Whether every question that `right` is about is allowed.

        A deny does not count where one of `apart_from` covers it: nobody is asked about that part.
        """
        if not any(allow.covers(right) for allow in self.allows):
            return False
        return all(any(apart.covers(deny) for apart in apart_from) for deny in self.denies if deny.meets(right))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every pair that routes ask about, and the families of names that are open: roles, groups, permissions."""

    pairs: frozenset[Right]
    families: frozenset[Right]

    @classmethod
    def of(cls, rights: Iterable[Right]) -> "Catalogue":
        """Return the catalogue that these rights make: exact ones are pairs, patterns are families."""
        every = frozenset(rights)
        families = frozenset(right for right in every if right.resource.endswith(ANY))
        return cls(every - families, families)

    def parts(self, right: Right) -> Iterator[Right]:
        """Yield what a right is about: itself where it is one name and one action, else all that it stands for."""
        if not right.resource.endswith(ANY) and right.action != ANY:
            yield right
            return
        yield from (pair for pair in self.pairs if right.covers(pair))
        for family in self.families:
            if right.meets(family):
                yield Right(max(right.resource, family.resource, key=len), family.action)


def first_excess(wanted: Rights, held: Rights, catalogue: Catalogue) -> Right | None:
    """Return something that `wanted` has and `held` surely has not, or None when there is nothing.

    What one pattern does not cover may be covered piece by piece, over everything that routes ask about.
    """
    for right in sorted(wanted.allows):
        if held.surely(right, wanted.denies):
            continue
        for part in sorted(catalogue.parts(right)):
            gone = any(deny.covers(part) for deny in wanted.denies)
            if not gone and not held.surely(part, wanted.denies):
                return part
    return None


@dataclass(frozen=True, slots=True)
class AdministrativeRows:
    """The rows of a snapshot that decide about administration, by subject, and those that conditions may turn."""

    by_subject: dict[str, tuple[Rule, ...]]
    opaque: bool
    """The model decides in a way that patterns do not describe: what a row means is not known."""

    def of(self, names: AbstractSet[str]) -> Iterator[Rule]:
        """Yield the rows whose subject is one of `names`; all of them where the model does not say."""
        if self.opaque:
            for rows in self.by_subject.values():
                yield from rows
            return
        for name in self.by_subject.keys() & names:
            yield from self.by_subject[name]


def administrative_rows(snapshot: Snapshot) -> AdministrativeRows:
    """Return the rows on `kasbah:…`, found once per snapshot."""
    found = snapshot.memo.get(_ROWS)
    if not isinstance(found, AdministrativeRows):
        rows = [rule for rule in snapshot.rules if is_platform_resource(rule.resource)]
        found = snapshot.memo[_ROWS] = index_rows(rows, opaque=is_opaque(snapshot))
    return found


def index_rows(rows: Iterable[Rule], *, opaque: bool) -> AdministrativeRows:
    """Return rows by their subjects."""
    by_subject: dict[str, list[Rule]] = {}
    for rule in rows:
        by_subject.setdefault(rule.subject, []).append(rule)
    return AdministrativeRows({name: tuple(found) for name, found in by_subject.items()}, opaque)


def is_opaque(snapshot: Snapshot) -> bool:
    """Whether patterns do not say what the rows on `kasbah:…` mean: a residual, or groups of such resources."""
    model = snapshot.model
    patterns = model.resource.prefix and (model.action.star or model.action.prefix)
    if model.residual is not None or not model.subject.indexed or not patterns:
        return True
    return any(map(is_platform_resource, snapshot.grouped_resources()))


def held_rights(rows: AdministrativeRows, names: AbstractSet[str]) -> Rights:
    """Return what a subject with these names has for certain: no condition helps it, and every deny counts."""
    if rows.opaque:
        return Rights()
    found = list(rows.of(names))
    return Rights(
        frozenset(_right(rule) for rule in found if rule.effect is Effect.ALLOW and rule.condition is None),
        frozenset(_right(rule) for rule in found if rule.effect is Effect.DENY),
    )


def gained_rights(
    rows: AdministrativeRows, names: AbstractSet[str], lasting: AbstractSet[str], effect: PolicyEffect
) -> Rights:
    """Return what a subject with these names may ever have: conditions hold, and only a deny that stays counts.

    Args:
        rows: Of the policy that will be.
        names: All that the subject will go by.
        lasting: Those of them that do not expire.
        effect: Of the model; denies count only where one is enough.
    """
    found = list(rows.of(names))
    allows = frozenset(_right(rule) for rule in found if rule.effect is Effect.ALLOW)
    if rows.opaque:
        return Rights(frozenset((EVERYTHING,)) if allows else frozenset())
    if effect is not PolicyEffect.ALLOW_AND_DENY:
        return Rights(allows)
    staying = (rule for rule in rows.of(lasting) if rule.effect is Effect.DENY and rule.condition is None)
    return Rights(allows, frozenset(map(_right, staying)))


def uses_attributes(snapshot: Snapshot, rule: Rule) -> tuple[bool, bool]:
    """Return whether a rule's condition asks for attributes of the subject, and of the resource."""
    if rule.condition is None:
        return False, False
    condition = snapshot.conditions.get(rule.condition)
    if not isinstance(condition, Condition):
        return True, True
    return condition.uses_subject, condition.uses_resource


def _right(rule: Rule) -> Right:
    return Right(rule.resource, rule.action)


def asks_for(snapshot: Snapshot, rule: Rule, kind: EntityKind) -> bool:
    """Return whether a rule's condition asks for attributes of this kind of entity."""
    of_subject, of_resource = uses_attributes(snapshot, rule)
    return of_subject if kind is EntityKind.SUBJECT else of_resource


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern with `*` at its end means a name; a name without one is no pattern."""
    return pattern.endswith(ANY) and name.startswith(pattern[:-1])
