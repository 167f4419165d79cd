"""What the decision point needs from the outside. Implementations: `authz/storage.py`, `authz/snapshot_cache.py`."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from authz.request import Ref
from authz.rules import Owner, RoleLink, Rule, Source
from tenancy.ids import TenantId
from tenancy.tenant import NO_STAMP
from tenancy.tenant import TenantHead as TenantHead  # noqa: PLC0414 - part of these ports

EVERY_ROLE = "*"
"""In `RuleSet.mfa_roles`: a second factor is demanded of everybody, so no role comes without."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The platform's `model.conf`; `digest` is the SHA-256 of its text, hex."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> "StoredModel":
        """Return a model as it is stored; whether it can be compiled is not looked at."""
        return cls(text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything a snapshot is built from, read in one database snapshot at `head.rules_revision`.

    `rules` and `links` hold the base rows (`base=True`) and the tenant's; `links` holds the role and group hierarchy
    and `g2`, no memberships. Rules come in policy order: base rows first, then file rows in line order, then API rows.
    `mfa_roles` are the roles and groups that a sign-in with one factor does not bring, by the tenant's settings;
    `EVERY_ROLE` among them means all.
    """

    head: TenantHead
    model: StoredModel
    rules: Sequence[Rule]
    links: Sequence[RoleLink]
    mfa_roles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StagedRules:
    """Where a rule set was left in a store before its change is committed."""

    tenant_id: TenantId
    name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """One direct role or group of a subject."""

    role: Ref
    expires_at: datetime | None = None
    owner: Owner = Owner.FILES
    source: Source | None = None


class AccountState(StrEnum):
    """Where the account stands that a subject is."""

    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


NO_SESSIONS: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Account:
    """What decides whether somebody who signed in as an account still is.

    A sign-in of another `auth_epoch` is over, and so is a session among `ended_sessions`, whatever else is remembered
    of it. `signed_out_at` is when the epoch or the state last changed, if ever: for what carries no epoch.
    `mfa_required`: a second factor is demanded of the account itself, whatever its tenant and its roles ask.
    """

    state: AccountState
    auth_epoch: int = 1
    ended_sessions: frozenset[UUID] = NO_SESSIONS
    has_factors: bool = False
    """Whether a second factor is bound to it, so that it can sign in better than by a password alone."""
    signed_out_at: datetime | None = None
    mfa_required: bool = False


@dataclass(frozen=True, slots=True)
class SubjectRecord:
    """What is stored about a subject; empty for an unknown one, which is no error.

    `account` is None for a subject that is no account of Kasbah's own directory: it is judged by rules alone.
    """

    grants: tuple[Grant, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
    account: Account | None = None

    @property
    def barred(self) -> AccountState | None:
        """The state of an account that may do nothing, whatever its rules say; None for all others."""
        account = self.account
        return None if account is None or account.state is AccountState.ACTIVE else account.state


@dataclass(frozen=True, slots=True)
class Lookup:
    """Answer of one SQL statement: rows together with the revisions they belong to."""

    head: TenantHead
    subjects: Mapping[Ref, SubjectRecord]
    resources: Mapping[Ref, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A rule or link of a tenant's own that a change added or removed."""

    added: bool
    row: Rule | RoleLink


@dataclass(frozen=True, slots=True)
class Touched:
    """What changed for one tenant after a revision, up to `head`. `everything` means: drop all cached entries.

    `changed_rows` are the rules and links (no memberships) that changed, in order; None when they are too many, or when
    they alone do not say what the rule set is. Without `same_history` the revision that was asked about is another one
    in this database: nothing follows from it.
    """

    head: TenantHead
    everything: bool
    subjects: frozenset[Ref] = frozenset()
    resources: frozenset[Ref] = frozenset()
    same_history: bool = True
    changed_rows: tuple[ChangedRow, ...] | None = None


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Heads of all tenants that changed since the cursor; `cursor` starts the next poll.

    `database_time` is the primary's clock (aware, UTC). An empty page confirms that nothing changed. `restarted` says
    that the database is not the one the cursor came from (restored): `heads` then holds every tenant, and its numbers
    may be lower than before. `lineage` names the database so that a restored copy or a promoted standby has another
    one (empty where that is not known): the same revision may stand for other rules there. `run` names the run of the
    server and the file that holds the heads (empty where not known): whatever puts a database back to an earlier state
    needs a new one of either.
    """

    heads: Sequence[TenantHead]
    cursor: int
    database_time: datetime
    restarted: bool = False
    lineage: str = ""
    run: str = ""


class PolicyReader(Protocol):
    """Reads for the decision path. Every method raises `StorageUnavailableError` when PostgreSQL cannot answer."""

    async def find_tenant(self, tenant_id: TenantId) -> TenantHead | None:
        """Return the head, or None for an unknown tenant."""

    async def find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        """Return the head, or None for an unknown slug."""

    async def load_rules(self, tenant_id: TenantId) -> RuleSet:
        """Return the rule set as of one database snapshot; raises `TenantNotFoundError`."""

    async def lookup(self, tenant_id: TenantId, subjects: Sequence[Ref], resources: Sequence[Ref]) -> Lookup:
        """Return grants and stored properties of the named subjects and resources, from one SQL statement."""

    async def touched_since(self, tenant_id: TenantId, revision: int, stamp: UUID = NO_STAMP) -> Touched:
        """Return which subjects and resources changed after `revision`, which is the one with this stamp."""

    async def poll(self, cursor: int | None) -> FeedPage:
        """Return what changed since `cursor`; None starts at now with no heads, 0 is all of them.

        Refuses to run on a standby.
        """

    async def list_subject_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return ids > `after` (by code point) of subjects of type `kind` in memberships and entities, ascending."""

    async def list_resource_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return ids > `after` (by code point) of resources of type `kind` in stored entities, ascending."""


class SnapshotCache(Protocol):
    """Valkey as the decision point sees it. No method raises: a cache that is down is a miss."""

    async def find_rules(self, head: TenantHead, model_digest: str, lineage: str = "") -> RuleSet | None:
        """Return the authenticated rule set of exactly (tenant, rules_version, model) of one database, or None.

        An empty `model_digest` stands for the model that the revision implies.
        """

    async def store_rules(self, rule_set: RuleSet, lineage: str = "") -> None:
        """Keep a rule set for other nodes on the same database."""

    async def stage_rules(self, rule_set: RuleSet, lineage: str = "") -> StagedRules | None:
        """Bring over a rule set that is not committed yet, to where no node looks; None when that failed."""

    async def release_rules(self, staged: StagedRules) -> None:
        """Keep a staged rule set, as `store_rules`; called after the commit only."""

    async def publish(self, head: TenantHead) -> None:
        """Tell the other nodes that a tenant moved on. Only hastens; the poll is what counts."""

    def notices(self) -> AsyncIterator[TenantId]:
        """Yield ids of tenants that were said to have moved; reconnects for ever."""
