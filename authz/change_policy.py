"""Add and remove rows of a tenant's policy, after checking what may stand there."""

import asyncio
from collections.abc import Sequence

from authz.errors import ModelConflictError, ModelError, RevisionConflictError
from authz.policy_files.columns import read_columns
from authz.row_changes import kind_of_key
from authz.row_checks import check_hierarchy, check_rows
from authz.rules import Owner, RoleLink, Row
from authz.write_ports import ChangeMeta, ChangeResult, CurrentRows, Judge, PolicyWriter
from tenancy.ids import TenantId
from tenancy.once import Once

_ATTEMPTS = 5
_LARGE = 1000
"""From so many rows on, checks go to a thread: decisions on the same node must not wait for them."""


async def change_policy(
    tenant_id: TenantId,
    add: Sequence[Row],
    remove: Sequence[tuple[str, ...]],
    *,
    owner: Owner = Owner.API,
    meta: ChangeMeta,
    expected_revision: int | None = None,
    writer: PolicyWriter,
    once: Once[ChangeResult] | None = None,
    judge: Judge | None = None,
) -> ChangeResult:
    """Add rows and remove rows by key, all or nothing.

    Args:
        tenant_id: A tenant, the base or the platform.
        add: Rows; those that are there already are no change.
        remove: Keys; those that are not there are no error.
        owner: In whose name.
        meta: Who and why.
        expected_revision: Refuse if the tenant is elsewhere; None takes it as it is.
        writer: Storage.
        once: Has it act once for a request that may be sent twice.
        judge: Whether who makes the change may make it; None for what Kasbah does by itself.

    Raises:
        InvalidRowError: a row may not stand in this tenant's policy.
        GrantRefusedError, OwnRightsError: `judge` says that it is not theirs to write.
        RevisionConflictError: the tenant moved on.
        ModelConflictError: the model is changed again and again.
        ConflictError: a row belongs to the other owner.
        LimitExceededError: the tenant would hold too much.
        TenantNotFoundError: no such tenant.
        StorageUnavailableError: no answer; the change may or may not have happened.
    """
    links = [row for row in add if isinstance(row, RoleLink) and not row.is_membership]
    removed = {key for key in remove if kind_of_key(key) == "links"}
    if judge is not None:
        await judge.prepare()
    for attempt in range(_ATTEMPTS):
        # INVARIANT: the model and the hierarchy that rows were checked with are those that they are written under;
        # otherwise two changes, each fine by itself, could close a circle together.
        checked_model = await check_new_rows(add, tenant_id, writer)
        checked_revision = expected_revision
        if links:
            current = await writer.hierarchy(tenant_id)
            await check_resulting_hierarchy(current, links, removed)
            checked_revision = current.head.revision if expected_revision is None else expected_revision
        try:
            return await writer.change_rows(
                tenant_id,
                add=add,
                remove=remove,
                owner=owner,
                meta=meta,
                expected_revision=checked_revision,
                checked_model=checked_model,
                once=once,
                judge=judge,
            )
        except (RevisionConflictError, ModelConflictError):
            if expected_revision is not None or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


async def check_new_rows(rows: Sequence[Row], tenant_id: TenantId, writer: PolicyWriter) -> str | None:
    """Raise `InvalidRowError` for a row that may not stand in this tenant's policy under the platform's model.

    Returns:
        The digest of the model that the rows were checked against; None without rows.
    """
    if not rows:
        return None
    model = await writer.get_model()
    columns = read_columns(model.text)
    if columns is None:
        raise ModelError("the platform's model has no policy definition that can be served")
    if len(rows) < _LARGE:
        check_rows(rows, tenant_id, columns)
    else:
        await asyncio.to_thread(check_rows, rows, tenant_id, columns)
    return model.digest


async def check_resulting_hierarchy(
    current: CurrentRows, added: Sequence[RoleLink], removed: set[tuple[str, ...]]
) -> None:
    """Raise `InvalidRowError` if the hierarchy would be circular or too deep after a change."""
    kept = [link for link in current.links if link.key not in removed]
    links = [*current.base_links, *kept, *added]
    if len(links) < _LARGE:
        check_hierarchy(links)
    else:
        await asyncio.to_thread(check_hierarchy, links)
