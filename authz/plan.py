"""What an apply would do: rows added, removed and changed, rows both owners want, and the answers that turn over."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from authz.errors import AuthzError
from authz.flip_sets import PolicyState, is_pattern
from authz.flips import FlipLimits, Flips, count_flips
from authz.ports import TenantHead
from authz.row_changes import says_the_same
from authz.row_codec import canonical_json
from authz.rules import Owner, RoleLink, Row, Rule, StoredEntity, row_id
from authz.served_model import ServedModel
from authz.write_ports import CurrentRows
from tenancy.ids import TenantId


class DuplicateRowError(AuthzError):
    """Two desired rows are the same row but say different things (an expiry, an attribute)."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row that the files want and that the admin API owns."""

    desired: Row
    existing: Row


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that stays but says something else: a link's expiry, an entity's attributes."""

    before: Row
    after: Row


@dataclass(frozen=True, slots=True)
class PatternChange:
    """An added or removed rule with a wildcard: it also reaches names that no candidate list holds."""

    added: bool
    rule: Rule


@dataclass(frozen=True, slots=True)
class TenantFlips:
    """The flips of one tenant; a plan of the base has one for each tenant that was compared."""

    slug: str
    flips: Flips


@dataclass(frozen=True, slots=True)
class Plan:
    """The difference between what files own in a tenant and what they should own.

    `moved` counts rows that only stand at another line. `digest` covers the tenant and every desired row, so that
    what is applied is what was planned.
    """

    head: TenantHead
    digest: str
    added: tuple[Row, ...]
    removed: tuple[Row, ...]
    changed: tuple[ChangedRow, ...]
    moved: int
    conflicts: tuple[Conflict, ...]
    patterns: tuple[PatternChange, ...]
    flips: tuple[TenantFlips, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether an apply would change a row; rows that only moved to another line do not count."""
        return bool(self.added or self.removed or self.changed or self.conflicts)


def plan(
    current: CurrentRows,
    desired: Sequence[Row],
    model: ServedModel,
    *,
    now: datetime,
    desired_base: Sequence[Row] | None = None,
    limits: FlipLimits | None = None,
) -> Plan:
    """Return what making the file-owned rows of one tenant exactly `desired` would do.

    Args:
        current: All rows of the tenant from one database snapshot, with the base rows that it inherits.
        desired: Every row that files should own, in line order.
        model: The served model that decides before and after.
        now: Links that expire at or before it count as absent in flips (aware).
        desired_base: Base rows that will hold too once the same directory is applied; None keeps today's.
        limits: Bounds of the flips.

    Raises:
        DuplicateRowError: two desired rows contradict each other.
    """
    found = plan_rows(current, desired, model)
    same = not (found.added or found.removed or found.changed or found.moved)
    if same and desired_base is None:
        flips = Flips()
    else:
        after = planned_state(current, desired, desired_base=desired_base)
        flips = count_flips(state_of(current), after, model, now=now, limits=limits)
    return replace(found, flips=(TenantFlips(current.head.slug, flips),))


def plan_rows(current: CurrentRows, desired: Sequence[Row], model: ServedModel) -> Plan:
    """Return what making the file-owned rows exactly `desired` would do to rows; no flips are counted.

    Raises:
        DuplicateRowError: two desired rows contradict each other.
    """
    wanted = _by_key(desired)
    existing = {row.key: row for row in rows_of(current)}
    added: list[Row] = []
    changed: list[ChangedRow] = []
    conflicts: list[Conflict] = []
    moved = 0
    for key, row in wanted.items():
        held = existing.get(key)
        if held is None:
            added.append(row)
        elif held.owner is Owner.API:
            conflicts.append(Conflict(row, held))
        elif not says_the_same(held, row):
            changed.append(ChangedRow(held, row))
        elif held.source != row.source:
            moved += 1
    removed = [row for key, row in existing.items() if row.owner is Owner.FILES and key not in wanted]
    return Plan(
        head=current.head,
        digest=plan_digest(current.head.tenant_id, desired),
        added=tuple(added),
        removed=tuple(removed),
        changed=tuple(changed),
        moved=moved,
        conflicts=tuple(conflicts),
        patterns=(*_patterns(added, model, added=True), *_patterns(removed, model, added=False)),
    )


def base_flips(
    tenant: CurrentRows,
    desired_base: Sequence[Row],
    model: ServedModel,
    *,
    now: datetime,
    limits: FlipLimits | None = None,
) -> TenantFlips:
    """Return the flips of one tenant when the base rows become `desired_base` and its own stay as they are."""
    after = planned_state(tenant, file_rows(tenant), desired_base=desired_base)
    return TenantFlips(tenant.head.slug, count_flips(state_of(tenant), after, model, now=now, limits=limits))


def rows_of(current: CurrentRows) -> list[Row]:
    """Return the tenant's own rows, whoever owns them."""
    return [*current.rules, *current.links, *current.entities]


def file_rows(current: CurrentRows) -> list[Row]:
    """Return the rows of a tenant that files own."""
    return [row for row in rows_of(current) if row.owner is Owner.FILES]


def state_of(current: CurrentRows) -> PolicyState:
    """Return what holds in the tenant today, base rows first."""
    return PolicyState(
        rules=(*current.base_rules, *current.rules),
        links=(*current.base_links, *current.links),
        entities=tuple(current.entities),
    )


def planned_state(
    current: CurrentRows, desired: Sequence[Row], *, desired_base: Sequence[Row] | None = None
) -> PolicyState:
    """Return what would hold: base rows, then the desired file rows, then what the API owns."""
    granted = [row for row in rows_of(current) if row.owner is Owner.API]
    taken = {row.key for row in granted}
    wanted = {row.key: row for row in desired if row.key not in taken}
    base: Sequence[Row] = (*current.base_rules, *current.base_links) if desired_base is None else desired_base
    rows = (*base, *wanted.values(), *granted)
    return PolicyState(
        rules=tuple(row for row in rows if isinstance(row, Rule)),
        links=tuple(row for row in rows if isinstance(row, RoleLink)),
        entities=tuple(row for row in rows if isinstance(row, StoredEntity)),
    )


def _by_key(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        first = found.setdefault(row.key, row)
        if first is not row and not says_the_same(first, row):
            where = " and ".join(str(r.source) for r in (first, row) if r.source is not None)
            raise DuplicateRowError(f"{where or 'two rows'} say different things about `{', '.join(row.key[1:])}`")
    return found


def _patterns(rows: Iterable[Row], model: ServedModel, *, added: bool) -> Iterator[PatternChange]:
    for row in rows:
        if isinstance(row, Rule) and (
            is_pattern(model.subject, row.subject)
            or is_pattern(model.resource, row.resource)
            or is_pattern(model.action, row.action)
        ):
            yield PatternChange(added, row)


def plan_digest(tenant_id: TenantId, desired: Sequence[Row]) -> str:
    """Return the SHA-256, hex, over the tenant and the desired rows with their order and provenance."""
    digest = hashlib.sha256(f"kasbah-plan-2\0{tenant_id}\0".encode())
    for row in desired:
        extra = ""
        if isinstance(row, RoleLink) and row.expires_at is not None:
            extra = row.expires_at.astimezone(UTC).isoformat()
        elif isinstance(row, StoredEntity):
            extra = canonical_json(dict(row.properties))
        where = "" if row.source is None else str(row.source)
        digest.update(row_id((*row.key, extra, where)).encode())
    return digest.hexdigest()
