"""The gate: judges what a write would give to whom, before it is written (docs/adr/0018).

Nobody gives administrative rights that they do not hold; giving a role, a group or a permission takes the right
`grant` on it; and nobody's own rights grow by their own hand. What is judged is the policy that would result, row by
row of what changes, so a small change of a large policy costs little.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime

from authz.errors import GrantRefusedError, TargetTooPowerfulError
from authz.hierarchy import Hierarchy
from authz.own_rights import Own, OwnRights
from authz.ports import Grant, SubjectRecord
from authz.request import Ref
from authz.rights import (
    ANY,
    EVERYTHING,
    LASTING,
    Catalogue,
    Right,
    Rights,
    administrative_rows,
    asks_for,
    first_excess,
    gained_rights,
    held_rights,
    matches,
    permission_right,
    role_right,
)
from authz.row_changes import RowChanges, describe
from authz.rules import HIERARCHY_PREFIXES, Effect, EntityKind, RoleLink, Row, Rule, StoredEntity
from authz.served_model import PolicyEffect
from authz.served_names import is_platform_resource
from authz.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Holder:
    """Who gives. Every part must hold what is given: a key's scopes, and its owner's rights if it has one."""

    parts: tuple[Rights, ...]
    is_person: bool

    def surely(self, right: Right) -> bool:
        """Whether the holder has a right for certain."""
        return all(part.surely(right) for part in self.parts)

    def lacks(self, wanted: Rights, catalogue: Catalogue) -> Right | None:
        """Return something of `wanted` that the holder may not have, or None."""
        for part in self.parts:
            found = first_excess(wanted, part, catalogue)
            if found is not None:
                return found
        return None


def names_of(
    snapshot: Snapshot, subject: Ref, grants: Sequence[Grant], at: float, without: AbstractSet[str] = frozenset()
) -> set[str]:
    """Return every role of a subject and every pattern of `kasbah:…` rows that means it, whatever its account's state.

    Args:
        snapshot: The policy.
        subject: Whose names.
        grants: Its direct roles.
        at: Epoch seconds; what has expired by then is left out.
        without: Roles that count for nothing, nor does what is reached through them alone.
    """
    names, _ = snapshot.hierarchy.closure(subject, grants, at, without)
    column = snapshot.model.subject
    if column.prefix or column.star:
        patterns = administrative_rows(snapshot).by_subject
        names |= {name for name in patterns if (column.prefix or name == ANY) and matches(name, subject)}
    return names


def held_by(snapshot: Snapshot, subject: Ref, record: SubjectRecord, now: datetime, *, weak: bool = False) -> Rights:
    """Return the administrative rights that a subject has for certain.

    Args:
        snapshot: The policy.
        subject: Who.
        record: What is stored about it.
        now: The time of the write.
        weak: Whether roles that demand a second factor are inactive: then they give nothing, and deny all the same.
    """
    rows, moment = administrative_rows(snapshot), now.timestamp()
    rights = held_rights(rows, names_of(snapshot, subject, record.grants, moment))
    if not weak or not snapshot.mfa_roles:
        return rights
    active = names_of(snapshot, subject, record.grants, moment, snapshot.mfa_roles)
    return replace(rights, allows=held_rights(rows, active).allows)


def require_power(
    snapshot: Snapshot, target: Ref, record: SubjectRecord, holder: Holder, catalogue: Catalogue, *, now: datetime
) -> None:
    """Raise `TargetTooPowerfulError` unless the holder could give the target all that the target has.

    Raises:
        TargetTooPowerfulError: the target has a right or a role that the holder may not give.
    """
    names = names_of(snapshot, target, record.grants, now.timestamp())
    lasting = names_of(snapshot, target, record.grants, LASTING)
    wanted = gained_rights(administrative_rows(snapshot), names, lasting, snapshot.model.effect)
    excess = holder.lacks(wanted, catalogue)
    if excess is not None:
        raise TargetTooPowerfulError(f"this account may {excess}, which is not yours to give")
    for name in sorted(names):
        if name.startswith(HIERARCHY_PREFIXES) and not holder.surely(role_right(name)):
            raise TargetTooPowerfulError(f"this account has `{name}`, which is not yours to give")


class Gate:
    """Judges one write, from the policy before it.

    Args:
        snapshot: The policy at the revision that the write starts from; of the base: the platform's own.
        holder: Who writes.
        own: What they go by in this policy, for a person.
        catalogue: What routes ask about.
        now: The time of the write.
    """

    def __init__(
        self, snapshot: Snapshot, holder: Holder, own: Own | None, catalogue: Catalogue, now: datetime
    ) -> None:
        self._snapshot = snapshot
        self._holder = holder
        self._own = own
        self._catalogue = catalogue
        self._now = now.timestamp()
        self._hierarchy = snapshot.hierarchy
        self._given: set[Ref] = set()
        self._taken: set[Ref] = set()
        self._permitted: set[str] = set()
        self._attributes: set[EntityKind] = set()
        self._any_permission = holder.surely(permission_right(ANY))

    def judge(self, changes: RowChanges) -> None:
        """Raise for the first row that may not be written by this holder.

        Raises:
            GrantRefusedError: somebody would get what is not the holder's to give.
            OwnRightsError: the holder's own rights would grow.
        """
        gained, lost = list(_gained(changes, self._snapshot.model.effect)), list(_lost(changes))
        self._hierarchy = self._hierarchy_after(gained, lost)
        for row in gained:
            self._judge_gain(row)
        for row in lost:
            self._judge_loss(row)
        if self._own is not None:
            OwnRights(self._snapshot, self._hierarchy, self._own, self._now).judge(gained, lost)

    def judge_roles(self, roles: Iterable[Ref]) -> None:
        """Raise `GrantRefusedError` unless the holder may give every one of these roles to somebody."""
        for role in roles:
            self._judge_role(role, role)

    def _judge_gain(self, row: Row) -> None:
        match row:
            case Rule(effect=Effect.ALLOW):
                self._judge_pattern(row)
            case Rule():
                return
            case RoleLink(kind="g"):
                self._judge_role(row.role, row)
            case RoleLink():
                self._judge_grouping(row)
            case _:
                self._judge_attributes(row)

    def _judge_loss(self, row: Row) -> None:
        match row:
            case Rule(effect=Effect.DENY):
                self._judge_pattern(row)
            case Rule():
                return
            case RoleLink(kind="g"):
                self._judge_taking(row)
            case RoleLink():
                self._judge_grouping(row)
            case _:
                self._judge_attributes(row)

    def _judge_pattern(self, rule: Rule) -> None:
        """Judge an allow that comes, or a deny that goes: somebody may do more of what it names."""
        if is_platform_resource(rule.resource):
            self._require(Rights(frozenset((Right(rule.resource, rule.action),))), rule)
            return
        self._require_permission(rule.resource, rule)

    def _require_permission(self, resource: str, row: Row) -> None:
        if self._any_permission or resource in self._permitted:
            return
        right = permission_right(resource)
        if not self._holder.surely(right):
            raise GrantRefusedError(f"{describe(row)}: this takes {right}")
        self._permitted.add(resource)

    def _judge_role(self, role: Ref, row: Row | Ref) -> None:
        if role in self._given:
            return
        names, _ = self._hierarchy.closure(role, (), self._now)
        for name in sorted(names):
            self._require_role(name, row)
        lasting, _ = self._hierarchy.closure(role, (), LASTING)
        rows = administrative_rows(self._snapshot)
        self._require(gained_rights(rows, names, lasting, self._snapshot.model.effect), row)
        self._given.add(role)

    def _judge_taking(self, link: RoleLink) -> None:
        """Judge the end of a link: with a role its denies go; and a person takes no role that is above them."""
        if link.role in self._taken:
            return
        self._require_role(link.role, link)
        names, _ = self._snapshot.hierarchy.closure(link.role, (), self._now)
        rows = administrative_rows(self._snapshot)
        denies = [rule for rule in rows.of(names) if rule.effect is Effect.DENY]
        self._require(Rights(frozenset(Right(rule.resource, rule.action) for rule in denies)), link)
        if self._holder.is_person:
            self._require(gained_rights(rows, names, frozenset(), self._snapshot.model.effect), link)
        for rule in _ordinary_denies(self._snapshot):
            if rule.subject in names:
                self._require_permission(rule.resource, link)
        self._taken.add(link.role)

    def _judge_grouping(self, link: RoleLink) -> None:
        """Judge a link between resources: what is permitted on the group comes to the member, or goes."""
        if is_platform_resource(link.member) or is_platform_resource(link.role):
            self._require(Rights(frozenset((EVERYTHING,))), link)
            return
        self._require_permission(link.member, link)

    def _judge_attributes(self, entity: StoredEntity) -> None:
        """Judge attributes: every condition that may ask for them may turn either way."""
        if entity.kind in self._attributes:
            return
        for rule in self._snapshot.rules:
            if rule.condition is not None and asks_for(self._snapshot, rule, entity.kind):
                if is_platform_resource(rule.resource):
                    self._require(Rights(frozenset((Right(rule.resource, rule.action),))), entity)
                else:
                    self._require_permission(rule.resource, entity)
        self._attributes.add(entity.kind)

    def _require_role(self, name: str, row: Row | Ref) -> None:
        right = role_right(name)
        if not self._holder.surely(right):
            raise GrantRefusedError(f"{_shown(row)}: this takes {right}")

    def _require(self, wanted: Rights, row: Row | Ref) -> None:
        excess = self._holder.lacks(wanted, self._catalogue)
        if excess is not None:
            raise GrantRefusedError(f"{_shown(row)}: it gives {excess}, which you do not hold yourself")

    def _hierarchy_after(self, gained: Sequence[Row], lost: Sequence[Row]) -> Hierarchy:
        more, gone = _links(gained), {(link.base, link.key) for link in _links(lost)}
        if not more and not gone:
            return self._snapshot.hierarchy
        links = (link for link in self._snapshot.rule_set.links if link.kind == "g")
        return Hierarchy([*(link for link in links if (link.base, link.key) not in gone), *more])


def _gained(changes: RowChanges, effect: PolicyEffect) -> Iterator[Row]:
    yield from changes.added.values()
    for _, new in changes.updated.values():
        yield new
    if effect is PolicyEffect.PRIORITY:  # there the place of a row counts
        for _, new in changes.moved.values():
            yield new


def _lost(changes: RowChanges) -> Iterator[Row]:
    yield from changes.removed.values()
    for old, new in changes.updated.values():
        if not (isinstance(old, RoleLink) and isinstance(new, RoleLink) and _lasts_longer(new, old)):
            yield old


def _lasts_longer(new: RoleLink, old: RoleLink) -> bool:
    return new.expires_at is None or (old.expires_at is not None and new.expires_at >= old.expires_at)


def _links(rows: Iterable[Row]) -> list[RoleLink]:
    return [row for row in rows if isinstance(row, RoleLink) and row.kind == "g" and not row.is_membership]


def _ordinary_denies(snapshot: Snapshot) -> list[Rule]:
    name = "grants.denies"
    found: list[Rule] | None = snapshot.memo.get(name)
    if found is None:
        rules = (rule for rule in snapshot.rules if rule.effect is Effect.DENY)
        found = snapshot.memo[name] = [rule for rule in rules if not is_platform_resource(rule.resource)]
    return found


def _shown(row: Row | Ref) -> str:
    return f"`{row}`" if isinstance(row, str) else describe(row)
