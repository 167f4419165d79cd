"""How a tenant moves on: the row lock, the new revisions, and the entry in its history, in the writer's transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from tenancy.audit import AuditEntry
from tenancy.audit_log import append_entries
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, Slug, TenantId, TenantStatus
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork, bind_tenant

HEAD_COLUMNS = "tenant_id, slug, status, revision, rules_revision, keys_revision, stamp, rules_stamp"

COUNTED = ("rules", "links", "memberships", "entities", "users")
"""Tables whose row counts the head keeps, so that a limit costs no count of a million rows."""

_COUNT_COLUMNS = ", ".join(f"{name}_count" for name in COUNTED)


def head_of(row: Row[Any]) -> TenantHead:
    """Return the head in a result row that has `HEAD_COLUMNS`."""
    return TenantHead(
        TenantId(row.tenant_id),
        Slug(row.slug),
        TenantStatus(row.status),
        row.revision,
        row.rules_revision,
        row.keys_revision,
        row.stamp,
        row.rules_stamp,
    )


async def find_head(session: AsyncSession, tenant_id: TenantId) -> TenantHead | None:
    """Return where the bound tenant stands."""
    query = text(f"SELECT {HEAD_COLUMNS} FROM tenants WHERE tenant_id = :tenant_id")  # noqa: S608 - constant columns
    row = (await session.execute(query, {"tenant_id": tenant_id})).one_or_none()
    return None if row is None else head_of(row)


async def lock_head(work: TenantUnitOfWork) -> tuple[TenantHead, dict[str, int]] | None:
    """Lock the tenant's row until the transaction ends; return where it stands, and its row counts.

    INVARIANT: every write does this first, so that writers of one tenant go one after the other and each sees all that
    came before it; and nothing is written for a tenant that is deleted, whose rows are being removed.
    """
    query = text(
        f"SELECT {HEAD_COLUMNS}, {_COUNT_COLUMNS} "  # noqa: S608 - constants
        "FROM tenants WHERE tenant_id = :tenant_id AND status <> 'deleted' FOR NO KEY UPDATE"
    )
    row = (await work.session.execute(query, {"tenant_id": work.tenant_id})).one_or_none()
    if row is None:
        return None
    return head_of(row), {name: getattr(row, f"{name}_count") for name in COUNTED}


async def raise_head(
    work: TenantUnitOfWork, *, rules: bool = False, keys: bool = False, counts: Mapping[str, int] | None = None
) -> TenantHead:
    """Raise the revision of the locked tenant, and what else the change concerns; return the new head.

    Args:
        work: Holds the lock.
        rules: The change concerns rules, hierarchy, base or model.
        keys: The change concerns API keys.
        counts: How many rows the change adds (or removes, below 0) per name in `COUNTED`.
    """
    changes = dict.fromkeys(COUNTED, 0) | dict(counts or {})
    query = text(
        "UPDATE tenants SET revision = revision + 1, changed_xid = pg_current_xact_id(), "  # noqa: S608 - constant columns
        "stamp = gen_random_uuid(), rules_stamp = CASE WHEN :rules THEN gen_random_uuid() ELSE rules_stamp END, "
        "rules_revision = CASE WHEN :rules THEN revision + 1 ELSE rules_revision END, "
        # An account that owns keys changed in this transaction, and they may have ended (migration 0015).
        "keys_revision = CASE WHEN :keys OR current_setting('app.owners_changed', true) = tenant_id::text "
        "THEN revision + 1 ELSE keys_revision END, "
        "rules_count = rules_count + :rules_more, links_count = links_count + :links_more, "
        "memberships_count = memberships_count + :memberships_more, entities_count = entities_count + :entities_more, "
        "users_count = users_count + :users_more "
        f"WHERE tenant_id = :tenant_id RETURNING {HEAD_COLUMNS}"
    )
    parameters = {"tenant_id": work.tenant_id, "rules": rules, "keys": keys}
    parameters |= {f"{name}_more": number for name, number in changes.items()}
    return head_of((await work.session.execute(query, parameters)).one())


async def record_change(
    session: AsyncSession,
    head: TenantHead,
    kind: str,
    meta: ChangeMeta,
    *,
    added: int = 0,
    removed: int = 0,
    rolled_back_to: int | None = None,
    audit: Sequence[AuditEntry] = (),
    touched: Sequence[str] = (),
) -> None:
    """Write the one entry of history that belongs to `head.revision`, and what the audit holds of it.

    Args:
        session: Of the transaction that changed something.
        head: As `raise_head` returned it.
        kind: What sort of write it was.
        meta: Who and why.
        added: How many rows it added.
        removed: How many it removed.
        rolled_back_to: Whose rows a rollback brought back.
        audit: What happened, for the tenant's chain; what follows from `kind` when there is nothing more to say.
        touched: Subjects and resources whose look-ups the change outdates and that no item of the history names.

    Raises:
        AuditUnavailableError: the audit must not be written now; nothing of the transaction may stay.
    """
    query = text(
        "INSERT INTO changes (tenant_id, revision, rules_revision, kind, actor, reason, git_commit, request_id, "
        "added, removed, rolled_back_to, stamp, touched) VALUES (:tenant_id, :revision, :rules_revision, :kind, "
        ":actor, :reason, :git_commit, :request_id, :added, :removed, :rolled_back_to, :stamp, :touched)"
    )
    parameters = {
        "tenant_id": head.tenant_id,
        "revision": head.revision,
        "rules_revision": head.rules_revision,
        "kind": kind,
        "added": added,
        "removed": removed,
        "rolled_back_to": rolled_back_to,
        "stamp": head.stamp,
        "touched": list(touched) or None,
    }
    await session.execute(query, parameters | _meta(meta))
    entries = audit or [_entry_of(head, kind, added=added, removed=removed, rolled_back_to=rolled_back_to)]
    await append_entries(session, head.tenant_id, meta, entries, revision=head.revision)


_ACTIONS = {
    "apply": "policy.apply",
    "rollback": "policy.rollback",
    "api": "policy.change",
    "model": "model.replace",
    "settings": "settings.change",
    "tenant": "tenant.create",
}
"""What a change of a kind is called in the audit, where its writer says nothing more."""


def _entry_of(head: TenantHead, kind: str, *, added: int, removed: int, rolled_back_to: int | None) -> AuditEntry:
    detail = {"added": added, "removed": removed, "rolled_back_to": rolled_back_to}
    said = {name: value for name, value in detail.items() if value}
    if kind == "key":
        return AuditEntry("key.create" if added else "key.revoke")
    action = "base.change" if head.tenant_id == BASE_TENANT_ID and kind != "model" else _ACTIONS[kind]
    return AuditEntry(action, target=f"tenant:{head.tenant_id}", detail=said or None)


async def raise_all_other_heads(work: TenantUnitOfWork, kind: str, meta: ChangeMeta) -> None:
    """Raise both revisions of every tenant but the one whose lock is held, and write each one's history.

    One statement for all: ten thousand tenants are one update and one insert. The audit holds the change once, in the
    chain of the tenant whose change it was.

    INVARIANT: the caller holds the lock of the base tenant. Whoever creates a tenant holds it shared, so that no tenant
    appears between the change of the base and this statement.
    """
    await bind_tenant(work.session, PLATFORM_TENANT_ID)
    query = text(
        "WITH raised AS (UPDATE tenants SET revision = revision + 1, rules_revision = revision + 1, "
        "changed_xid = pg_current_xact_id(), stamp = gen_random_uuid(), rules_stamp = gen_random_uuid() "
        "WHERE tenant_id <> :own AND status <> 'deleted' RETURNING tenant_id, revision, rules_revision, stamp) "
        "INSERT INTO changes (tenant_id, revision, rules_revision, kind, actor, reason, git_commit, request_id, stamp) "
        "SELECT tenant_id, revision, rules_revision, :kind, :actor, :reason, :git_commit, :request_id, stamp "
        "FROM raised"
    )
    await work.session.execute(query, {"own": work.tenant_id, "kind": kind} | _meta(meta))
    await bind_tenant(work.session, work.tenant_id)


async def share_base_lock(session: AsyncSession) -> None:
    """Keep the base and the model as they are until the transaction ends; several may hold this at once."""
    await session.execute(text("SELECT 1 FROM tenants WHERE tenant_id = :base FOR SHARE"), {"base": BASE_TENANT_ID})


def _meta(meta: ChangeMeta) -> dict[str, str | None]:
    return {
        "actor": meta.actor,
        "reason": meta.reason,
        "git_commit": meta.git_commit,
        "request_id": meta.request_id,
    }
