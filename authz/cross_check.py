"""Answers of the service held against PyCasbin's, loaded with exactly the tenant's and the base rows.

Only what the index alone decided is compared: rows with a condition, which PyCasbin cannot read, took no part in it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from authz.ports import Grant, Lookup, RuleSet
from authz.request import Ref
from authz.rules import BASE_DOMAIN, RoleLink, Rule
from authz.served_names import is_platform_resource, is_platform_role
from tenancy.ids import Slug, TenantId

MAX_RULES = 5_000
MAX_LINKS = 1_000
"""Rules, and links between roles, of the tenants that are compared, the base rows included. PyCasbin looks at every
rule for each question, and at every link for each other link while it loads: about a second at these sizes."""

MAX_LEVELS = 9
"""PyCasbin stops following roles after ten levels; we do not."""

MAX_KEPT = 8


class Comparison(StrEnum):
    """What came of a sample; a closed set, used as a metric label."""

    AGREES = "agrees"
    DIFFERS = "differs"
    MOVED_ON = "moved_on"
    OUT_OF_SCOPE = "out_of_scope"
    TOO_LARGE = "too_large"
    NOT_READ = "not_read"
    DROPPED = "dropped"


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


class Judge(Protocol):
    """PyCasbin with the rows of one tenant."""

    def ask(self, request: tuple[str, ...], links: Sequence[CasbinRow]) -> bool | None:
        """Return what it decides with these links besides, or None when it raises; nothing of the question stays."""


Load = Callable[[str, Sequence[CasbinRow]], Judge]
"""`(model text, rows) -> PyCasbin loaded with them`."""


class ComparedPolicies(Protocol):
    """What is read of the policies; as `PolicyReader`, and how large they are."""

    async def lookup(self, tenant_id: TenantId, subjects: Sequence[Ref], resources: Sequence[Ref]) -> Lookup:
        """Return the grants of the subjects together with the head."""

    async def holds_at_most(self, tenant_id: TenantId, *, rules: int, links: int) -> bool:
        """Return whether there are no more rules and links, the base rows included."""

    async def load_rules(self, tenant_id: TenantId) -> RuleSet:
        """Return the rule set."""


@dataclass(frozen=True, slots=True)
class CasbinShape:
    """What of the model a row's form depends on: the policy's columns, and which links name a domain."""

    columns: tuple[str, ...]
    with_domain: Mapping[str, bool]


@dataclass(slots=True)
class _Held:
    """What is kept of a tenant at one revision of its rules; no `rule_set` when it is too large.

    `judge` is loaded with the links of `alive`, those that had not expired when a sample was last compared.
    """

    rules_revision: int
    rule_set: RuleSet | None
    alive: list[RoleLink]
    judge: Judge | None = None


class CrossCheck:
    """Compares samples one at a time; keeps PyCasbin loaded for the tenants it saw last."""

    def __init__(self, reader: ComparedPolicies, load: Load, shape_of: Callable[[str], CasbinShape]) -> None:
        self._reader = reader
        self._load = load
        self._shape_of = shape_of
        self._held: OrderedDict[TenantId, _Held] = OrderedDict()

    async def compare(self, sample: Sample) -> Comparison:
        """Return whether PyCasbin decides as was answered.

        Raises:
            StorageUnavailableError, TenantNotFoundError: the rows cannot be read.
        """
        if is_platform_resource(sample.resource) or is_platform_role(sample.subject):
            return Comparison.OUT_OF_SCOPE  # wildcards reach reserved names in PyCasbin, and here they do not
        subject = Ref(sample.subject)
        lookup = await self._reader.lookup(sample.tenant_id, [subject], [])
        if lookup.head.revision != sample.revision:
            return Comparison.MOVED_ON
        if lookup.subjects[subject].barred is not None:
            # PyCasbin knows no accounts: one that may do nothing was right to be refused.
            return Comparison.DIFFERS if sample.allowed else Comparison.AGREES
        held = await self._held_at(sample.tenant_id, lookup.head.rules_revision)
        rule_set = held.rule_set
        if rule_set is None:
            return Comparison.TOO_LARGE
        if held.rules_revision != lookup.head.rules_revision:
            return Comparison.MOVED_ON
        alive = [link for link in rule_set.links if _is_alive(link, sample.at)]
        own = [link for link in _memberships(subject, lookup.subjects[subject].grants) if _is_alive(link, sample.at)]
        if levels_above(subject, [*alive, *own]) > MAX_LEVELS:
            return Comparison.OUT_OF_SCOPE
        shape, slug = self._shape_of(rule_set.model.text), rule_set.head.slug
        if held.judge is None or held.alive != alive:
            rows = casbin_rows(rule_set.rules, alive, slug, shape)
            held.alive, held.judge = alive, self._load(rule_set.model.text, rows)
        request = (sample.subject, slug, sample.resource, sample.action)
        answer = held.judge.ask(request, casbin_rows((), own, slug, shape))
        # Where PyCasbin raises, anything but an allow is right.
        return Comparison.AGREES if sample.allowed is (answer is True) else Comparison.DIFFERS

    async def _held_at(self, tenant_id: TenantId, rules_revision: int) -> _Held:
        """Return what is held, or read it; the tenant may have moved on meanwhile."""
        held = self._held.pop(tenant_id, None)
        if held is None or held.rules_revision != rules_revision:
            held = await self._read(tenant_id, rules_revision)
        self._held[tenant_id] = held
        if len(self._held) > MAX_KEPT:
            self._held.popitem(last=False)
        return held

    async def _read(self, tenant_id: TenantId, rules_revision: int) -> _Held:
        # Counted first, so that a large tenant is never read.
        if not await self._reader.holds_at_most(tenant_id, rules=MAX_RULES, links=MAX_LINKS):
            return _Held(rules_revision, None, [])
        rule_set = await self._reader.load_rules(tenant_id)
        small = len(rule_set.rules) <= MAX_RULES and len(rule_set.links) <= MAX_LINKS
        return _Held(rule_set.head.rules_revision, rule_set if small else None, [])


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


def _is_alive(link: RoleLink, at: datetime) -> bool:
    return link.expires_at is None or link.expires_at > at


def _memberships(subject: Ref, grants: Iterable[Grant]) -> list[RoleLink]:
    return [RoleLink(subject, grant.role, "g", grant.expires_at) for grant in grants]
