"""What a policy directory holds, typed, with the place of every part."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from authz.findings import Finding, in_order
from authz.policy_files.columns import PolicyColumns
from authz.policy_files.csv_text import field_positions, offset_position
from authz.request import EvaluationRequest
from authz.rules import BASE_SLUG, Effect, RoleLink, Row, Rule, Source, StoredEntity

POLICY_FILE = "policy.csv"
ENTITIES_FILE = "entities.yaml"
CASES_FILE = "cases.yaml"
MODEL_FILE = "model.conf"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One entry of `cases.yaml`. `rules` is None when the case does not say which rules must determine the answer."""

    name: str
    request: EvaluationRequest
    expected: Effect
    now: datetime | None
    rules: tuple[str, ...] | None
    why: str | None
    source: Source
    rule_positions: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TenantFiles:
    """The files of one tenant (or of the base): the rows that could be read, and what was wrong with the others.

    Rows of the base have the source file `_base/policy.csv`, those of a tenant `policy.csv`: relative to the tenant.
    `present` is false for a base whose directory does not exist.
    """

    slug: str
    rules: tuple[Rule, ...] = ()
    links: tuple[RoleLink, ...] = ()
    entities: tuple[StoredEntity, ...] = ()
    cases: tuple[GoldenCase, ...] = ()
    findings: tuple[Finding, ...] = ()
    present: bool = True
    policy_lines: Sequence[str] = field(default=(), compare=False, repr=False)
    entity_columns: Mapping[tuple[str, ...], int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_base(self) -> bool:
        """Whether these are the rules that every tenant inherits."""
        return self.slug == BASE_SLUG

    @property
    def rows(self) -> tuple[Row, ...]:
        """Everything that `apply` writes: rules and links in line order, then entities."""
        policy: list[Rule | RoleLink] = [*self.rules, *self.links]
        policy.sort(key=_line_of)
        return (*policy, *self.entities)

    @property
    def has_errors(self) -> bool:
        """Whether a finding keeps these files from being applied."""
        return any(finding.is_error for finding in self.findings)

    def path_of(self, file: str) -> str:
        """Return `file` as findings name it: relative to the policy directory."""
        return f"{self.slug}/{file}"

    def position_of(self, line: int, column_index: int) -> tuple[int, int]:
        """Return (line, column) of one field of the `policy.csv` record at `line`; field 0 is `p` or `g`."""
        positions = field_positions(self.policy_lines, line)
        return positions[min(column_index, len(positions) - 1)]

    def position_inside(self, line: int, column_index: int, offset: int) -> tuple[int, int]:
        """Return (line, column) of the character at `offset` of one field's value."""
        return offset_position(self.policy_lines, self.position_of(line, column_index), offset)


@dataclass(frozen=True, slots=True)
class PolicyDirectory:
    """A whole policy directory; `model_text` is the default model's when it has none of its own.

    `findings` are those of no tenant; `all_findings` has every one, in file order.
    """

    model_text: str
    base: TenantFiles
    tenants: Mapping[str, TenantFiles]
    findings: tuple[Finding, ...] = ()
    columns: PolicyColumns = field(default_factory=PolicyColumns)
    columns_known: bool = True
    model_present: bool = True

    def parts(self) -> Iterator[TenantFiles]:
        """Yield the base and every tenant."""
        yield self.base
        yield from self.tenants.values()

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """What reading found, sorted by place."""
        return tuple(in_order([*self.findings, *(finding for part in self.parts() for finding in part.findings)]))

    @property
    def has_errors(self) -> bool:
        """Whether anything keeps this directory from being applied."""
        return any(part.has_errors for part in self.parts()) or any(finding.is_error for finding in self.findings)


def _line_of(row: Rule | RoleLink) -> int:
    return row.source.line if row.source is not None else 0
