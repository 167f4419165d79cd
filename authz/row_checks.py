"""What a row must be to stand in a tenant's policy, whoever writes it and however it came."""

from collections.abc import Iterable, Sequence

from authz.account_names import check_no_name
from authz.conditions import compile_condition
from authz.errors import ConditionError, InvalidRowError
from authz.model_needs import lack, needs_of
from authz.policy_files.columns import PolicyColumns
from authz.request import InvalidNameError
from authz.role_chains import MAX_CHAIN, find_cycle, longest_chain
from authz.row_changes import describe
from authz.row_codec import canonical_json
from authz.rules import MAX_PRIORITY, EntityKind, RoleLink, Row, Rule, StoredEntity
from authz.served_names import (
    check_condition_text,
    check_name,
    check_pattern,
    check_role,
    check_rule_action,
    is_platform_resource,
    is_platform_role,
    is_scope,
)
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId

MAX_PROPERTIES_BYTES = 64 * 1024
MAX_PROPERTIES_DEPTH = 16


def check_rows(rows: Iterable[Row], tenant_id: TenantId, columns: PolicyColumns) -> None:
    """Check rows one by one.

    Args:
        rows: To be written.
        tenant_id: Whose policy they are for; the base and the platform may say more than tenants.
        columns: Of the platform's model.

    Raises:
        InvalidRowError: the first row that may not stand here, and why.
    """
    checks = _Checks(tenant_id, columns)
    for row in rows:
        try:
            checks.check(row)
        except (InvalidNameError, ConditionError) as error:
            raise InvalidRowError(f"{describe(row)}: {error}") from error


def check_hierarchy(links: Sequence[RoleLink]) -> None:
    """Check all hierarchy and `g2` links that a tenant would have, with those of the base.

    Raises:
        InvalidRowError: roles inherit each other in a circle, or a chain is longer than `MAX_CHAIN`.
    """
    for kind in sorted({link.kind for link in links}):
        of_kind = [link for link in links if link.kind == kind and not link.is_membership]
        cycle = find_cycle(of_kind)
        if cycle:
            raise InvalidRowError(f"`{kind}` links go in a circle: {' -> '.join(f'`{name}`' for name in cycle)}")
        chain = longest_chain(of_kind)
        if chain > MAX_CHAIN:
            raise InvalidRowError(f"a chain of `{kind}` links has {chain} links; at most {MAX_CHAIN} are allowed")


class _Checks:
    """The checks of one write; equal conditions are compiled once."""

    def __init__(self, tenant_id: TenantId, columns: PolicyColumns) -> None:
        self._columns = columns
        self._is_base = tenant_id == BASE_TENANT_ID
        self._is_tenant = tenant_id not in {BASE_TENANT_ID, PLATFORM_TENANT_ID}
        self._compiled: set[str] = set()

    def check(self, row: Row) -> None:
        """Raise what is wrong with one row."""
        match row:
            case Rule():
                self._check_rule(row)
            case RoleLink():
                self._check_link(row)
            case StoredEntity():
                self._check_entity(row)

    def _check_rule(self, rule: Rule) -> None:
        check_pattern(rule.subject)
        self._check_account(rule, rule.subject)
        check_pattern(rule.resource)
        check_rule_action(rule.action)
        self._check_domain(rule)
        if self._is_tenant and is_platform_resource(rule.resource):
            raise InvalidRowError(f"{describe(rule)}: resources of the type `kasbah` belong to the platform")
        if self._is_tenant and is_platform_role(rule.subject):
            raise InvalidRowError(f"{describe(rule)}: roles of the platform cannot be used by a tenant")
        if is_scope(rule.subject):
            raise InvalidRowError(f"{describe(rule)}: what scopes of keys may do is built in")
        self._check_columns(rule)
        if rule.condition is not None:
            check_condition_text(rule.condition)
            if rule.condition not in self._compiled:
                compile_condition(rule.condition)
                self._compiled.add(rule.condition)

    def _check_columns(self, rule: Rule) -> None:
        """Refuse what the model has no column for: it would silently mean something else."""
        for need in needs_of(rule):
            fault = lack(need, self._columns)
            if fault is not None:
                raise InvalidRowError(f"{describe(rule)}: {fault}")
        if rule.priority is not None and not 0 <= rule.priority <= MAX_PRIORITY:
            raise InvalidRowError(f"{describe(rule)}: a priority is 0 to {MAX_PRIORITY}")

    def _check_link(self, link: RoleLink) -> None:
        if link.kind not in self._columns.links:
            raise InvalidRowError(f"{describe(link)}: the model defines no `{link.kind}`")
        check_name(link.member)
        if link.kind == "g":
            self._check_account(link, link.member)
            check_role(link.role)
        else:
            check_name(link.role)
        if link.member == link.role:
            raise InvalidRowError(f"{describe(link)}: a name cannot inherit from itself")
        self._check_domain(link)
        if self._is_base and link.is_membership:
            raise InvalidRowError(f"{describe(link)}: base links go from role to role")
        if self._is_tenant and (is_platform_role(link.member) or is_platform_role(link.role)):
            raise InvalidRowError(f"{describe(link)}: roles of the platform cannot be used by a tenant")
        if self._is_tenant and (is_platform_resource(link.member) or is_platform_resource(link.role)):
            raise InvalidRowError(f"{describe(link)}: resources of the type `kasbah` belong to the platform")
        if is_scope(link.member) or is_scope(link.role):
            raise InvalidRowError(f"{describe(link)}: what scopes of keys may do is built in")
        if link.expires_at is not None and link.expires_at.tzinfo is None:
            raise InvalidRowError(f"{describe(link)}: an expiry needs a time zone")

    def _check_account(self, row: Row, subject: str) -> None:
        try:
            check_no_name(subject)
        except InvalidRowError as error:
            raise InvalidRowError(f"{describe(row)}: {error}") from None

    def _check_domain(self, row: Rule | RoleLink) -> None:
        if row.base is not self._is_base:
            where = "stands in `_base` only" if row.base else "cannot stand in `_base`"
            raise InvalidRowError(f"{describe(row)}: a row of this domain {where}")

    def _check_entity(self, entity: StoredEntity) -> None:
        check_name(entity.ref)
        if entity.kind is EntityKind.SUBJECT:
            self._check_account(entity, entity.ref)
        if self._is_base:
            raise InvalidRowError(f"{describe(entity)}: the base has no attributes")
        if self._is_tenant and (is_platform_resource(entity.ref) or is_platform_role(entity.ref)):
            # SECURITY: a condition of the base may ask for them.
            raise InvalidRowError(f"{describe(entity)}: it belongs to the platform")
        fault = entity_fault(entity)
        if fault is not None:
            raise InvalidRowError(f"{describe(entity)}: {fault}")


def entity_fault(entity: StoredEntity) -> str | None:
    """Return why attributes cannot be stored, or None."""
    if _depth(entity.properties) > MAX_PROPERTIES_DEPTH:
        return f"attributes are nested more than {MAX_PROPERTIES_DEPTH} deep"
    try:
        size = len(canonical_json(dict(entity.properties)).encode())
    except (TypeError, ValueError):
        return "attributes must be JSON values"
    if size > MAX_PROPERTIES_BYTES:
        return f"attributes take more than {MAX_PROPERTIES_BYTES} bytes"
    return None


def _depth(value: object) -> int:
    """Return how deep JSON values are nested, looking no deeper than it takes to refuse them."""
    level: list[object] = [value]
    depth = 0
    while level and depth <= MAX_PROPERTIES_DEPTH:
        following: list[object] = []
        for item in level:
            if isinstance(item, dict):
                following += item.values()
            elif isinstance(item, list | tuple):
                following += item
        level = following
        depth += 1
    return depth
