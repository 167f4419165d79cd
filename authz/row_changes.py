"""What turns the rows that are there into the rows that are wanted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from authz.errors import ConflictError
from authz.row_codec import canonical_json
from authz.rules import HIERARCHY_PREFIXES, Owner, RoleLink, Row, Rule, RuleId, StoredEntity, row_id

MAX_NAMED_CONFLICTS = 10

KINDS = ("rules", "links", "memberships", "entities")
"""Where rows live, and what a tenant's limits count."""


@dataclass(slots=True)
class RowChanges:
    """The difference. `updated` and `moved` hold (old, new): a new expiry or new properties; or only a new line."""

    added: dict[RuleId, Row] = field(default_factory=dict)
    removed: dict[RuleId, Row] = field(default_factory=dict)
    updated: dict[RuleId, tuple[Row, Row]] = field(default_factory=dict)
    moved: dict[RuleId, tuple[Row, Row]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written."""
        return not (self.added or self.removed or self.updated or self.moved)

    @property
    def touches_rules(self) -> bool:
        """Whether snapshots are outdated: rules, hierarchy or `g2` changed, or moved in their file."""
        return any(
            kind_of(row) in {"rules", "links"}
            for rows in (self.added.values(), self.removed.values(), self._new_rows())
            for row in rows
        )

    def growth(self) -> dict[str, int]:
        """Return how many rows each kind gains; below 0 when it loses some."""
        numbers = dict.fromkeys(KINDS, 0)
        for row in self.added.values():
            numbers[kind_of(row)] += 1
        for row in self.removed.values():
            numbers[kind_of(row)] -= 1
        return numbers

    def _new_rows(self) -> Iterable[Row]:
        for pairs in (self.updated, self.moved):
            for _, new in pairs.values():
                yield new


def kind_of(row: Row) -> str:
    """Return where a row lives; one of `KINDS`."""
    match row:
        case Rule():
            return "rules"
        case RoleLink():
            return "memberships" if row.is_membership else "links"
        case StoredEntity():
            return "entities"


def kind_of_key(key: tuple[str, ...]) -> str:
    """Return where the row with this key lives, if it is there."""
    match key:
        case ("p", *_):
            return "rules"
        case ("e", *_):
            return "entities"
        case ("g", str(member), str()) if not member.startswith(HIERARCHY_PREFIXES):
            return "memberships"
        case _:
            return "links"


def index_rows(rows: Iterable[Row], *, owner: Owner, base: bool) -> dict[RuleId, Row]:
    """Return rows by id, as `owner` would write them; the first of equal rows counts.

    Raises:
        ConflictError: two rows of one key say different things (expiry, properties).
    """
    found: dict[RuleId, Row] = {}
    conflicts: list[str] = []
    for given in rows:
        row = _adopt(given, owner=owner, base=base)
        first = found.setdefault(row_id(row.key), row)
        if first is not row and not says_the_same(first, row):
            conflicts.append(f"{describe(row)} says something else than {first.source or 'another row of this change'}")
    refuse(conflicts)
    return found


def changes_to(
    desired: Mapping[RuleId, Row],
    present: Mapping[RuleId, Row],
    *,
    owner: Owner,
    remove: Iterable[RuleId] = (),
    leave_others: bool = False,
) -> RowChanges:
    """Return what makes the rows of `owner` in `present` those in `desired`, and removes the rows named by `remove`.

    Args:
        desired: Rows wanted, by id.
        present: Rows that are there, of both owners: those of `desired` and `remove`, at least.
        owner: Who writes.
        remove: Ids to remove unless they are desired.
        leave_others: A wanted row that the other owner has is left as it is, instead of a conflict.

    Raises:
        ConflictError: a row belongs to the other owner; names file and line.
    """
    changes = RowChanges()
    conflicts: list[str] = []
    for identifier, new in desired.items():
        old = present.get(identifier)
        if old is None:
            changes.added[identifier] = new
        elif old.owner is not owner:
            if not leave_others:
                conflicts.append(_conflict(old, new))
        elif not says_the_same(old, new):
            changes.updated[identifier] = (old, new)
        elif old.source != new.source:
            changes.moved[identifier] = (old, new)
    for identifier in remove:
        old = present.get(identifier)
        if old is None or identifier in desired:
            continue
        if old.owner is owner:
            changes.removed[identifier] = old
        elif not leave_others:
            conflicts.append(_conflict(old, None))
    refuse(conflicts)
    return changes


def says_the_same(one: Row, other: Row) -> bool:
    """Whether two rows of one key also agree in what the key leaves out."""
    if isinstance(one, RoleLink) and isinstance(other, RoleLink):
        return one.expires_at == other.expires_at
    if isinstance(one, StoredEntity) and isinstance(other, StoredEntity):
        # Not `==`: Python holds 1, 1.0 and True for equal, conditions do not.
        return canonical_json(dict(one.properties)) == canonical_json(dict(other.properties))
    return True


def describe(row: Row) -> str:
    """Return a row as messages name it, with its place when it has one."""
    return _name(row) if row.source is None else f"{row.source}: {_name(row)}"


def refuse(conflicts: list[str]) -> None:
    """Raise a `ConflictError` that names the first few conflicts, if there are any."""
    if conflicts:
        more = len(conflicts) - MAX_NAMED_CONFLICTS
        named = conflicts[:MAX_NAMED_CONFLICTS] + ([f"and {more} more"] if more > 0 else [])
        raise ConflictError("; ".join(named))


def _conflict(old: Row, new: Row | None) -> str:
    if old.owner is Owner.FILES:
        return f"{describe(old)}: the policy files own it, change it there"
    return f"{describe(new or old)}: the admin API owns it, revoke it there first"


def _adopt(row: Row, *, owner: Owner, base: bool) -> Row:
    match row:
        case StoredEntity():
            return row if row.owner is owner else replace(row, owner=owner)
        case Rule() | RoleLink():
            return row if row.owner is owner and row.base is base else replace(row, owner=owner, base=base)


def _name(row: Row) -> str:
    match row:
        case Rule():
            return f"rule `{row.subject}, {row.resource}, {row.action}, {row.effect.value}`"
        case RoleLink():
            return f"`{row.kind}` link `{row.member}` to `{row.role}`"
        case StoredEntity():
            return f"attributes of {row.kind.value} `{row.ref}`"
