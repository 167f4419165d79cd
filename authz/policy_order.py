"""The order in which PyCasbin evaluates the rows of a policy: by subject hierarchy, then by priority, else as written.

Source: `Model.sort_policies_by_subject_hierarchy` and `sort_policies_by_priority` of PyCasbin 2.8.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from authz.compiler import ParsedModel
from authz.served_model import PolicyEffect


class PolicyOrderError(ValueError):
    """PyCasbin cannot sort the policy either, or sorts its priorities as text."""


class Row(Protocol):
    """What is sorted."""

    @property
    def kind(self) -> str:
        """`p`, `p2`, `g`, …."""

    @property
    def values(self) -> tuple[str, ...]:
        """The row's values."""

    @property
    def source(self) -> str:
        """Where the row stands."""


AnyRow = TypeVar("AnyRow", bound=Row)


def order_rows(model: ParsedModel, rows: Sequence[AnyRow], effect: PolicyEffect) -> Mapping[str, list[AnyRow]]:
    """Return the rows of every policy definition in the order of their evaluation.

    Raises:
        PolicyOrderError: a cycle or short row in the subject hierarchy, or a priority that is no whole number.
    """
    ordered: dict[str, list[AnyRow]] = {kind: [] for kind in model.policies}
    for row in rows:
        if row.kind in ordered:
            ordered[row.kind].append(row)
    if effect is PolicyEffect.SUBJECT_PRIORITY:
        _by_subject(model, rows, ordered)
    for kind, names in model.policies.items():
        if "priority" in names:
            ordered[kind] = _by_priority(ordered[kind], names.index("priority"), effect)
    return ordered


def _by_subject(model: ParsedModel, rows: Sequence[AnyRow], ordered: dict[str, list[AnyRow]]) -> None:
    if "g" not in model.roles:
        raise PolicyOrderError("subjectPriority needs a role definition `g`")
    levels = _levels([row for row in rows if row.kind == "g"])
    domain_place: int | None = None
    for kind, names in model.policies.items():
        # PyCasbin keeps the place of `dom` from one definition to the next; so do we.
        domain_place = names.index("dom") if "dom" in names else domain_place
        place = domain_place

        def level(row: AnyRow, place: int | None = place) -> int:
            if not row.values or (place is not None and len(row.values) <= place):
                raise PolicyOrderError(f"{row.source}: the row is too short to be sorted")
            domain = "" if place is None else row.values[place]
            return levels.get(_qualified(domain, row.values[0]), 0)

        ordered[kind] = sorted(ordered[kind], key=level)


def _qualified(domain: str, name: str) -> str:
    return f"{domain}::{name}"


def _levels(rows: Sequence[Row]) -> Mapping[str, int]:
    """Return the level of every name: 0 for those that no one is a member of, rising towards the parents."""
    links: list[tuple[str, str]] = []
    for row in rows:
        if len(row.values) < 2:  # noqa: PLR2004 - member and role
            raise PolicyOrderError(f"{row.source}: a `g` row needs 2 values")
        domain = "" if len(row.values) == 2 else row.values[2]  # noqa: PLR2004 - the third value is the domain
        links.append((_qualified(domain, row.values[0]), _qualified(domain, row.values[1])))
    unsorted = {name for link in links for name in link}
    levels: dict[str, int] = {}
    level = 0
    while links:
        lowest = unsorted - {parent for _, parent in links}
        if not lowest:
            raise PolicyOrderError("the subject hierarchy has a cycle")
        levels.update(dict.fromkeys(lowest, level))
        level += 1
        links = [(child, parent) for child, parent in links if child not in lowest]
        unsorted -= lowest
    levels.update(dict.fromkeys(unsorted, level))
    return levels


def _by_priority(rows: list[AnyRow], place: int, effect: PolicyEffect) -> list[AnyRow]:
    cells = []
    for row in rows:
        if len(row.values) <= place:
            raise PolicyOrderError(f"{row.source}: the row is too short to have a priority")
        cells.append(row.values[place])
    try:
        numbers = [int(cell) if cell.isdigit() else None for cell in cells]
    except ValueError as error:
        raise PolicyOrderError(f"a priority is no whole number: {error}") from error
    if None not in numbers:
        return [row for _, row in sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0] or 0)]
    wrong = next(row for row, number in zip(rows, numbers, strict=True) if number is None)
    ranked = effect in {PolicyEffect.PRIORITY, PolicyEffect.SUBJECT_PRIORITY}
    if ranked or any(number is not None for number in numbers):
        # SECURITY: PyCasbin compares such priorities as text (`-10` after `-1`), or not at all.
        raise PolicyOrderError(f"{wrong.source}: the priority `{wrong.values[place]}` is no whole number from 0")
    return sorted(rows, key=lambda row: row.values[place])
