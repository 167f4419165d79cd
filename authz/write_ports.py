"""What the policy administration point needs from storage. Implementation: `authz/storage_write.py`.

Every write is one transaction: the tenant's row is locked and its revisions raised first, then rows, then one change
with its items. Nothing is half applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from authz.ports import RuleSet, StagedRules, StoredModel
from authz.request import Ref
from authz.row_changes import RowChanges
from authz.rules import Owner, RoleLink, Row, Rule, StoredEntity
from tenancy.ids import TenantId
from tenancy.once import Once
from tenancy.tenant import ChangeMeta as ChangeMeta  # noqa: PLC0414 - part of these ports
from tenancy.tenant import TenantHead


class ChangeKind(StrEnum):
    """What sort of write made a change."""

    APPLY = "apply"
    ROLLBACK = "rollback"
    API = "api"
    BASE = "base"
    MODEL = "model"
    TENANT = "tenant"
    KEY = "key"
    SETTINGS = "settings"
    USER = "user"
    SERVICE_ACCOUNT = "service_account"


@dataclass(frozen=True, slots=True)
class ChangeItem:
    """One row that a change added or removed."""

    added: bool
    row: Row


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of history and of the change feed; `revision` is its position."""

    revision: int
    rules_revision: int
    kind: ChangeKind
    meta: ChangeMeta
    at: datetime
    added: int
    removed: int
    rolled_back_to: int | None = None


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """Outcome of a write. With nothing to do, `head` is unchanged and both counts are 0."""

    head: TenantHead
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class RowPage:
    """A page of rows, ascending by row id; `cursor` is None on the last page."""

    rows: Sequence[Row]
    cursor: str | None
    head: TenantHead


@dataclass(frozen=True, slots=True)
class CurrentRows:
    """All rows of a tenant (both owners) in one database snapshot, and the model; what a plan compares with."""

    head: TenantHead
    model: StoredModel
    rules: Sequence[Rule]
    links: Sequence[RoleLink]
    entities: Sequence[StoredEntity]
    base_rules: Sequence[Rule] = field(default=())
    base_links: Sequence[RoleLink] = field(default=())


class Judge(Protocol):
    """Says whether a write may be made by who makes it."""

    async def prepare(self) -> None:
        """Bring up what the judgement needs, before the tenant is locked."""

    async def judge(self, head: TenantHead, changes: RowChanges) -> None:
        """Raise for what may not be written. The tenant is locked at `head`, and nothing is written yet."""


class RuleSetShelf(Protocol):
    """Where a writer leaves a large rule set for the nodes, before they ask for it. No method raises."""

    async def stage_rules(self, rule_set: RuleSet) -> StagedRules | None:
        """Bring over a rule set that is not committed yet, to where no node looks; None when that failed."""

    async def release_rules(self, staged: StagedRules) -> None:
        """Let nodes use it: its change is committed."""


class PolicyWriter(Protocol):
    """Writes and administrative reads. `tenant_id` may be `BASE_TENANT_ID`: then all tenants' revisions rise.

    Raises everywhere: `TenantNotFoundError`, `StorageUnavailableError`; on writes also `RevisionConflictError` (when
    `expected_revision` is given and differs), `ConflictError` (a row belongs to the other owner; names file and line)
    and `LimitExceededError` (per-tenant limits).
    """

    async def change_rows(
        self,
        tenant_id: TenantId,
        *,
        add: Sequence[Row],
        remove: Sequence[tuple[str, ...]],
        owner: Owner,
        meta: ChangeMeta,
        expected_revision: int | None = None,
        checked_model: str | None = None,
        once: Once[ChangeResult] | None = None,
        judge: Judge | None = None,
    ) -> ChangeResult:
        """Add rows and remove rows by key, all or nothing. Present rows and absent keys are no error, and no change.

        `judge` is asked when the tenant is locked and what changes is known. `checked_model` is the digest of the model
        that the rows were checked against: raises `ModelConflictError` when it is another by now. With `once`, it acts
        once for its request.
        """

    async def replace_file_rows(
        self,
        tenant_id: TenantId,
        desired: Sequence[Row],
        *,
        meta: ChangeMeta,
        expected_revision: int,
        kind: ChangeKind = ChangeKind.APPLY,
        rolled_back_to: int | None = None,
        checked_model: str | None = None,
        judge: Judge | None = None,
    ) -> ChangeResult:
        """Make the file-owned rows exactly `desired`; API-owned rows stay. Only differing rows are written.

        `checked_model` and `judge` are as in `change_rows`.
        """

    async def current_rows(self, tenant_id: TenantId) -> CurrentRows:
        """Return everything a plan needs, from one database snapshot."""

    async def hierarchy(self, tenant_id: TenantId) -> CurrentRows:
        """Return hierarchy and `g2` links alone (the tenant's and the base's): no rules, memberships or entities."""

    async def file_rows_at(self, tenant_id: TenantId, revision: int) -> Sequence[Row]:
        """Return the file-owned rows as they were at `revision`; raises `RevisionNotFoundError`."""

    async def list_rules(
        self, tenant_id: TenantId, *, after: str | None, limit: int, owner: Owner | None = None
    ) -> RowPage:
        """Return rules and hierarchy links (`g` between roles and groups, `g2`)."""

    async def list_memberships(
        self, tenant_id: TenantId, *, after: str | None, limit: int, subject: Ref | None = None, role: Ref | None = None
    ) -> RowPage:
        """Return memberships, filtered by subject or role when given."""

    async def list_entities(self, tenant_id: TenantId, *, after: str | None, limit: int) -> RowPage:
        """Return stored attributes."""

    async def list_changes(
        self, tenant_id: TenantId, *, after_revision: int, limit: int, newest_first: bool = False
    ) -> Sequence[Change]:
        """Return changes with a revision above `after_revision` (below it when `newest_first`; 0 starts at the end)."""

    async def list_change_items(
        self, tenant_id: TenantId, revision: int, *, after: int, limit: int
    ) -> Sequence[ChangeItem]:
        """Return items of one change, leaving out the first `after`; raises `RevisionNotFoundError`."""

    async def get_model(self) -> StoredModel:
        """Return the platform's model."""

    async def set_model(self, model: StoredModel, *, meta: ChangeMeta, replaces: str | None = None) -> None:
        """Replace the model; raises every tenant's revisions when it differs.

        Raises `ModelTooNarrowError` when it has no place for a stored row of any tenant, and `ModelConflictError` when
        it would replace another one than `replaces`, a digest; setting what is set already is no conflict.
        """

    async def require_model(self, model: StoredModel) -> None:
        """Raise `ModelTooNarrowError` when `set_model` would; changes nothing."""
