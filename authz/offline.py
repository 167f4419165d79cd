"""Decisions from policy rows alone, without a server: what golden decisions are tried on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from authz.decision import Decision
from authz.evaluate import Missing, evaluate_in
from authz.ports import Grant, RuleSet, StoredModel, SubjectRecord, TenantHead
from authz.request import EvaluationRequest, Properties, Ref
from authz.rules import EntityKind, RoleLink, Row, Rule, StoredEntity
from authz.served_model import ServedModel
from authz.snapshot import Facts, Snapshot, build_snapshot
from tenancy.ids import BASE_TENANT_ID, Slug, TenantStatus


@dataclass(slots=True)
class OfflinePolicy:
    """A tenant as its files describe it, ready to answer. Also a `StateView`."""

    head: TenantHead
    snapshot: Snapshot
    records: Mapping[Ref, SubjectRecord]
    stored_resources: Mapping[Ref, Properties]
    subjects: dict[Ref, Facts] = field(default_factory=dict)
    resources: dict[Ref, Properties] = field(default_factory=dict)

    @classmethod
    def from_rows(
        cls, slug: str, model: ServedModel, base_rows: Iterable[Row], tenant_rows: Iterable[Row]
    ) -> "OfflinePolicy":
        """Compile the rows of one tenant and of the base. Rows must come in file order.

        Raises:
            ModelError: the model is not served.
        """
        rows = [*base_rows, *tenant_rows]
        head = TenantHead(BASE_TENANT_ID, Slug(slug), TenantStatus.ACTIVE, 1, 1, 1)
        rules = [row for row in rows if isinstance(row, Rule)]
        links = [row for row in rows if isinstance(row, RoleLink)]
        entities = [row for row in rows if isinstance(row, StoredEntity)]
        rule_set = RuleSet(head, StoredModel("", model.digest), rules, [x for x in links if not x.is_membership])
        return cls(
            head,
            build_snapshot(rule_set, model),
            _records([link for link in links if link.is_membership], entities),
            {e.ref: e.properties for e in entities if e.kind is EntityKind.RESOURCE},
        )

    def decide(self, request: EvaluationRequest, now: datetime, *, trace: bool = True) -> Decision:
        """Answer one question as the service would, at `now` (aware)."""
        subject, resource = request.subject.ref, request.resource.ref
        record = self.records.get(subject, SubjectRecord())
        self.subjects = {subject: self.snapshot.facts(subject, record, now)}
        self.resources = {resource: self.stored_resources.get(resource, {})}
        answer = evaluate_in(self, request, now=now, trace=trace)
        if isinstance(answer, Missing):
            raise TypeError("an offline policy holds everything it is asked for")
        return answer


def _records(memberships: Sequence[RoleLink], entities: Sequence[StoredEntity]) -> dict[Ref, SubjectRecord]:
    grants: dict[Ref, list[Grant]] = {}
    for link in memberships:
        grants.setdefault(link.member, []).append(Grant(link.role, link.expires_at, link.owner, link.source))
    properties = {e.ref: e.properties for e in entities if e.kind is EntityKind.SUBJECT}
    return {ref: SubjectRecord(tuple(grants.get(ref, ())), properties.get(ref, {})) for ref in {**grants, **properties}}
