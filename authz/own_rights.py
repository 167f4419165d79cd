"""Whether a person's own rights would grow by what they write. Part of the gate (`authz/grants.py`)."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from authz.errors import OwnRightsError
from authz.hierarchy import Hierarchy
from authz.ports import Grant, SubjectRecord
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
    """Whether a person's own rights would grow: names, rules, denies and attributes that reach them."""

    def __init__(self, snapshot: Snapshot, after: Hierarchy, own: Own, now: float) -> None:
        self._snapshot = snapshot
        self._after = after
        self._own = own
        self._now = now
        self._before = snapshot.hierarchy.closure(own.subject, own.record.grants, now)[0]
        self._lasting = snapshot.hierarchy.closure(own.subject, own.record.grants, LASTING)[0]
        self._rules: list[Rule] | None = None

    def judge(self, gained: Sequence[Row], lost: Sequence[Row]) -> None:
        """Raise `OwnRightsError` for the first row by which the person would get more."""
        lost_keys = {(row.base, row.key) for row in lost if isinstance(row, RoleLink)}
        mine = [row for row in gained if isinstance(row, RoleLink) and row.member == self._own.subject]
        kept = [
            grant for grant in self._own.record.grants if (False, ("g", self._own.subject, grant.role)) not in lost_keys
        ]
        grants = [*kept, *(Grant(link.role, link.expires_at) for link in mine)]
        names = self._after.closure(self._own.subject, grants, self._now)[0]
        for row in gained:
            match row:
                case RoleLink(kind="g") if row.member in names:
                    self._refuse_more_names(row)
                case Rule(effect=Effect.ALLOW) if self._reaches(row, names):
                    self._refuse_more_rights(row)
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

    def _refuse_more_names(self, link: RoleLink) -> None:
        if not self._after.closure(link.role, (), self._now)[0] <= self._lasting:
            raise OwnRightsError(f"{describe(link)}: it gives you a role, or one for longer")

    def _refuse_more_rights(self, rule: Rule) -> None:
        right = Right(rule.resource, rule.action)
        if self._rules is None:
            self._rules = [old for old in self._snapshot.rules if self._reaches(old, self._lasting)]
        held = any(
            Right(old.resource, old.action).covers(right)
            for old in self._rules
            if old.effect is Effect.ALLOW and old.condition is None
        )
        if not held or self._snapshot.model.effect is PolicyEffect.PRIORITY:
            raise OwnRightsError(f"{describe(rule)}: it allows you more than you may")

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
