"""What one tenant's checks look at: its own rows, those it inherits, and where to report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from authz.findings import Finding, Severity
from authz.policy_files import PolicyColumns, TenantFiles
from authz.policy_files.values import ENTITIES_FILE, POLICY_FILE
from authz.rules import RoleLink, Rule, Source, StoredEntity
from authz.served_model import ServedModel

_FIELD_OF_LINK = {"member": 1, "role": 2}


@dataclass(slots=True)
class Part:
    """One tenant (or the base) under lint."""

    own: TenantFiles
    base: TenantFiles
    columns: PolicyColumns
    model: ServedModel | None
    findings: list[Finding] = field(default_factory=list)

    @property
    def rules(self) -> chain[Rule]:
        """All rules that apply: those of the base first, each file in line order."""
        return chain(() if self.own.is_base else self.base.rules, self.own.rules)

    @property
    def links(self) -> chain[RoleLink]:
        """All links that apply."""
        return chain(() if self.own.is_base else self.base.links, self.own.links)

    def is_own(self, row: Rule | RoleLink) -> bool:
        """Whether a row stands in the file under lint."""
        return row.base == self.own.is_base

    def at_rule(
        self, rule: Rule, column: str, code: str, message: str, hint: str, *, severity: Severity = Severity.WARNING
    ) -> None:
        """Report a rule, at one of its columns."""
        place = self.columns.rule.index(column) + 1 if column in self.columns.rule else 0
        self.at_line(_line(rule), place, code, message, hint, severity=severity)

    def at_link(
        self,
        link: RoleLink,
        column: str,
        code: str,
        message: str,
        hint: str,
        *,
        severity: Severity = Severity.WARNING,
    ) -> None:
        """Report a link at its `member`, `role` or `expires_at`."""
        last = 4 if self.columns.links.get(link.kind, True) else 3
        self.at_line(_line(link), _FIELD_OF_LINK.get(column, last), code, message, hint, severity=severity)

    def at_line(self, line: int, place: int, code: str, message: str, hint: str, *, severity: Severity) -> None:
        """Report a record of `policy.csv` at one of its fields, counted from 0."""
        self.at_place(POLICY_FILE, self.own.position_of(line, place), code, message, hint, severity=severity)

    def at_entity(
        self, entity: StoredEntity, code: str, message: str, hint: str, *, severity: Severity = Severity.WARNING
    ) -> None:
        """Report the name of an entity."""
        position = (_line(entity), self.own.entity_columns.get(entity.key, 1))
        self.at_place(ENTITIES_FILE, position, code, message, hint, severity=severity)

    def at_place(
        self, file: str, position: tuple[int, int], code: str, message: str, hint: str, *, severity: Severity
    ) -> None:
        """Report any place of one of the tenant's files."""
        path = self.own.path_of(file)
        self.findings.append(Finding(path, position[0], position[1], code, severity, message, hint))


def place_of(row: Rule | RoleLink) -> str:
    """Return where a row stands, for a message."""
    return str(row.source) if row.source is not None else "elsewhere"


def spelled(names: Sequence[str]) -> str:
    """Return names in backticks, joined by arrows."""
    return " → ".join(f"`{name}`" for name in names)


def _line(row: Rule | RoleLink | StoredEntity) -> int:
    source: Source | None = row.source
    return source.line if source is not None else 1
