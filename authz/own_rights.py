"""Whether a person's own rights would grow by what they write. Part of the gate (`authz/grants.py`)."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from authz.errors import OwnRightsError
from authz.hierarchy import Hierarchy
from authz.ports import EVERY_ROLE, Grant, SubjectRecord
from authz.request import Ref
from authz.rights import LASTING, Right, asks_for, matches
from authz.row_changes import describe
from authz.rules import Effect, EntityKind, RoleLink, Row, Rule, StoredEntity
from authz.served_model import PolicyEffect
from authz.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Own:
    """A person who writes: what they go by in the policy that is written."""

    subject: Ref
    record: SubjectRecord


class OwnRights:
    """Whether a person's own rights would grow: names, rules, denies and attributes that reach them.

    They must not grow where two factors are proven, nor where one is: whoever has a right by a role that demands two
    does not give it to themselves in another way.
    """

    def __init__(self, snapshot: Snapshot, after: Hierarchy, own: Own, now: float) -> None:
        self._snapshot = snapshot
        self._after = after
        self._own = own
        self._now = now
        self._before = snapshot.hierarchy.closure(own.subject, own.record.grants, now)[0]
        self._lasting = snapshot.hierarchy.closure(own.subject, own.record.grants, LASTING)[0]
        self._demanding = snapshot.mfa_roles
        self._lasting_weak = snapshot.hierarchy.closure(own.subject, own.record.grants, LASTING, self._demanding)[0]
        self._rules: dict[bool, list[Rule]] = {}

    def judge(self, gained: Sequence[Row], lost: Sequence[Row]) -> None:
        """Raise `OwnRightsError` for the first row by which the person would get more."""
        lost_keys = {(row.base, row.key) for row in lost if isinstance(row, RoleLink)}
        mine = [row for row in gained if isinstance(row, RoleLink) and row.member == self._own.subject]
        kept = [
            grant for grant in self._own.record.grants if (False, ("g", self._own.subject, grant.role)) not in lost_keys
        ]
        grants = [*kept, *(Grant(link.role, link.expires_at) for link in mine)]
        names = self._after.closure(self._own.subject, grants, self._now)[0]
        weak_names = self._after.closure(self._own.subject, grants, self._now, self._demanding)[0]
        for row in gained:
            match row:
                case RoleLink(kind="g") if row.member in names:
                    self._refuse_more_names(row, weak=row.member in weak_names)
                case Rule(effect=Effect.ALLOW) if self._reaches(row, names):
                    self._refuse_more_rights(row, weak=self._reaches(row, weak_names))
                case StoredEntity():
                    self._refuse_attributes(row, names, gained)
                case Rule() | RoleLink():
                    pass
        for row in lost:
            match row:
                case Rule(effect=Effect.DENY) if self._reaches(row, self._before):
                    raise OwnRightsError(f"{describe(row)}: it denies something to you, so it is not yours to remove")
                case StoredEntity():
                    self._refuse_attributes(row, names, gained)
                case Rule() | RoleLink():
                    pass
        gone = self._before - names
        if gone:
            for rule in self._snapshot.rules:
                if rule.effect is Effect.DENY and rule.subject in gone:
                    raise OwnRightsError(f"you would lose what denies you something: {describe(rule)}")

    def _refuse_more_names(self, link: RoleLink, *, weak: bool) -> None:
        if not self._after.closure(link.role, (), self._now)[0] <= self._lasting:
            raise OwnRightsError(f"{describe(link)}: it gives you a role, or one for longer")
        if not weak or EVERY_ROLE in self._demanding or link.role in self._demanding:
            return
        if not self._after.closure(link.role, (), self._now, self._demanding)[0] <= self._lasting_weak:
            raise OwnRightsError(f"{describe(link)}: it gives you a role that you have with a second factor alone")

    def _refuse_more_rights(self, rule: Rule, *, weak: bool) -> None:
        if not self._is_held(rule, weak=False) or self._snapshot.model.effect is PolicyEffect.PRIORITY:
            raise OwnRightsError(f"{describe(rule)}: it allows you more than you may")
        if weak and not self._is_held(rule, weak=True):
            raise OwnRightsError(f"{describe(rule)}: it allows you what you may with a second factor alone")

    def _is_held(self, rule: Rule, *, weak: bool) -> bool:
        """Whether a rule without a condition allows them that already, on either level, for as long as they have it."""
        if weak not in self._rules:
            lasting = self._lasting_weak if weak else self._lasting
            mine = (old for old in self._snapshot.rules if self._reaches(old, lasting))
            self._rules[weak] = [old for old in mine if old.effect is Effect.ALLOW and old.condition is None]
        right = Right(rule.resource, rule.action)
        return any(Right(old.resource, old.action).covers(right) for old in self._rules[weak])

    def _refuse_attributes(self, entity: StoredEntity, names: AbstractSet[str], gained: Sequence[Row]) -> None:
        if entity.kind is EntityKind.SUBJECT and entity.ref != self._own.subject:
            return
        new = (row for row in gained if isinstance(row, Rule))
        for rule in (*self._snapshot.rules, *new):
            if rule.condition is None or not self._reaches(rule, names | self._before):
                continue
            about = entity.kind is EntityKind.SUBJECT or self._may_concern(rule, entity.ref)
            if about and asks_for(self._snapshot, rule, entity.kind):
                raise OwnRightsError(f"{describe(entity)}: what you may depends on them, by {describe(rule)}")

    def _may_concern(self, rule: Rule, resource: Ref) -> bool:
        model = self._snapshot.model
        whole = model.residual is not None or model.resource.roles is not None
        return whole or matches(rule.resource, resource)

    def _reaches(self, rule: Rule, names: AbstractSet[str]) -> bool:
        if not self._snapshot.model.subject.indexed:
            return True
        return rule.subject in names or matches(rule.subject, self._own.subject)
