"""Answers of the service held against PyCasbin's, loaded with exactly the tenant's and the base rows.

Only what the index alone decided is compared: rows with a condition, which PyCasbin cannot read, took no part in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec

from authz.ports import Grant, PolicyReader, RuleSet
from authz.request import Ref
from authz.rules import BASE_DOMAIN, RoleLink, Rule
from tenancy.ids import Slug, TenantId

MAX_ROWS = 20_000
"""PyCasbin takes time in proportion to the rows; larger tenants are not compared."""

MAX_LEVELS = 9
"""PyCasbin stops following roles after ten levels; we do not."""

MAX_KEPT = 8


class Comparison(StrEnum):
    """What came of a sample; a closed set, used as a metric label."""

    AGREES = "agrees"
    DIFFERS = "differs"
    MOVED_ON = "moved_on"
    OUT_OF_SCOPE = "out_of_scope"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """An answer that was given. `at` is aware; names are refs."""

    tenant_id: TenantId
    revision: int
    subject: str
    action: str
    resource: str
    allowed: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class CasbinRow:
    """One row as PyCasbin takes it: `p` or `g`…, and its values in the order of the model's definition."""

    kind: str
    values: tuple[str, ...]


Ask = Callable[[str, Sequence[CasbinRow], tuple[str, ...]], bool | None]
"""`(model text, rows, request) -> what PyCasbin decides, or None when it raises`."""


@dataclass(frozen=True, slots=True)
class CasbinShape:
    """What of the model a row's form depends on: the policy's columns, and which links name a domain."""

    columns: tuple[str, ...]
    with_domain: Mapping[str, bool]


class CrossCheck:
    """Compares samples one at a time; keeps the rule sets of the tenants it saw last."""

    def __init__(self, reader: PolicyReader, ask: Ask, shape_of: Callable[[str], CasbinShape]) -> None:
        self._reader = reader
        self._ask = ask
        self._shape_of = shape_of
        self._rule_sets: dict[TenantId, RuleSet] = {}

    async def compare(self, sample: Sample) -> Comparison:
        """Return whether PyCasbin decides as was answered.

        Raises:
            StorageUnavailableError, TenantNotFoundError: the rows cannot be read.
        """
        subject = Ref(sample.subject)
        lookup = await self._reader.lookup(sample.tenant_id, [subject], [])
        if lookup.head.revision != sample.revision:
            return Comparison.MOVED_ON
        rule_set = await self._rules_at(sample.tenant_id, lookup.head.rules_revision)
        if rule_set is None:
            return Comparison.MOVED_ON
        if len(rule_set.rules) + len(rule_set.links) > MAX_ROWS:
            return Comparison.OUT_OF_SCOPE
        links = [*rule_set.links, *_memberships(subject, lookup.subjects[subject].grants)]
        alive = [link for link in links if link.expires_at is None or link.expires_at > sample.at]
        if levels_above(subject, alive) > MAX_LEVELS:
            return Comparison.OUT_OF_SCOPE
        rows = casbin_rows(rule_set.rules, alive, rule_set.head.slug, self._shape_of(rule_set.model.text))
        request = (sample.subject, rule_set.head.slug, sample.resource, sample.action)
        answer = self._ask(rule_set.model.text, rows, request)
        # Where PyCasbin raises, anything but an allow is right.
        return Comparison.AGREES if sample.allowed is (answer is True) else Comparison.DIFFERS

    async def _rules_at(self, tenant_id: TenantId, rules_revision: int) -> RuleSet | None:
        held = self._rule_sets.pop(tenant_id, None)
        if held is None or held.head.rules_revision != rules_revision:
            held = await self._reader.load_rules(tenant_id)
        self._rule_sets[tenant_id] = held
        if len(self._rule_sets) > MAX_KEPT:
            del self._rule_sets[next(iter(self._rule_sets))]
        return held if held.head.rules_revision == rules_revision else None


def casbin_rows(rules: Iterable[Rule], links: Iterable[RoleLink], slug: Slug, shape: CasbinShape) -> list[CasbinRow]:
    """Return unconditional rules and links in policy order, as rows of the model."""
    rows = []
    for rule in rules:
        if rule.condition is not None:
            continue
        values = {
            "sub": rule.subject,
            "dom": BASE_DOMAIN if rule.base else slug,
            "obj": rule.resource,
            "act": rule.action,
            "eft": rule.effect.value,
            "cond": "",
            "priority": str(rule.priority or 0),
        }
        rows.append(CasbinRow("p", tuple(values[column] for column in shape.columns)))
    for link in links:
        domain = (slug,) if shape.with_domain[link.kind] else ()
        rows.append(CasbinRow(link.kind, (link.member, link.role, *domain)))
    return rows


def levels_above(subject: Ref, links: Iterable[RoleLink]) -> int:
    """Return how many links lie between the subject and the farthest role it reaches, by the shortest way."""
    parents: dict[Ref, list[Ref]] = {}
    for link in links:
        if link.kind == "g":
            parents.setdefault(link.member, []).append(link.role)
    seen, level, levels = {subject}, [subject], -1
    while level:
        levels += 1
        level = list(dict.fromkeys(role for name in level for role in parents.get(name, ()) if role not in seen))
        seen.update(level)
    return levels


def _memberships(subject: Ref, grants: Iterable[Grant]) -> list[RoleLink]:
    return [RoleLink(subject, grant.role, "g", grant.expires_at) for grant in grants]
