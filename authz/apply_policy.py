"""Make a tenant's file-owned rows what its policy directory says."""

from collections.abc import Sequence

from authz.change_policy import check_new_rows, check_resulting_hierarchy
from authz.errors import RevisionConflictError
from authz.rules import Owner, RoleLink, Row
from authz.write_ports import ChangeKind, ChangeMeta, ChangeResult, Judge, PolicyWriter
from tenancy.ids import TenantId


async def apply_policy(
    tenant_id: TenantId,
    desired_rows: Sequence[Row],
    *,
    planned_revision: int,
    meta: ChangeMeta,
    writer: PolicyWriter,
    judge: Judge | None = None,
) -> ChangeResult:
    """Replace the rows that the files own; rows granted through the API stay. All or nothing.

    Args:
        tenant_id: A tenant, or the base.
        desired_rows: Everything the directory says.
        planned_revision: Where the tenant was when the plan was made.
        meta: Who, why, and from which commit.
        writer: Storage.
        judge: Whether who makes the change may make it.

    Raises:
        RevisionConflictError: the tenant moved on since the plan.
        ModelConflictError: the model was replaced meanwhile.
        InvalidRowError: a row may not stand in this tenant's policy.
        GrantRefusedError, OwnRightsError: `judge` says that it is not theirs to write.
        ConflictError: the API owns a row that the files want.
        LimitExceededError: the tenant would hold too much.
        TenantNotFoundError: no such tenant.
        StorageUnavailableError: no answer; the change may or may not have happened.
    """
    return await replace_policy(
        tenant_id,
        desired_rows,
        expected_revision=planned_revision,
        meta=meta,
        writer=writer,
        kind=ChangeKind.APPLY,
        judge=judge,
    )


async def replace_policy(
    tenant_id: TenantId,
    desired_rows: Sequence[Row],
    *,
    expected_revision: int,
    meta: ChangeMeta,
    writer: PolicyWriter,
    kind: ChangeKind,
    rolled_back_to: int | None = None,
    judge: Judge | None = None,
) -> ChangeResult:
    """Check rows, and make the file-owned ones exactly these; what apply and rollback share.

    Raises:
        As `apply_policy`.
    """
    if judge is not None:
        await judge.prepare()
    checked_model = await check_new_rows(desired_rows, tenant_id, writer)
    await _check_replacement(tenant_id, desired_rows, expected_revision, writer)
    return await writer.replace_file_rows(
        tenant_id,
        desired_rows,
        meta=meta,
        expected_revision=expected_revision,
        kind=kind,
        rolled_back_to=rolled_back_to,
        checked_model=checked_model,
        judge=judge,
    )


async def _check_replacement(
    tenant_id: TenantId, desired_rows: Sequence[Row], expected_revision: int, writer: PolicyWriter
) -> None:
    """Check the hierarchy that the tenant would have with these rows instead of those its files own now.

    Raises:
        RevisionConflictError: the tenant is not at `expected_revision`.
        InvalidRowError: the hierarchy would be circular or too deep.
    """
    current = await writer.hierarchy(tenant_id)
    if current.head.revision != expected_revision:
        raise RevisionConflictError(expected_revision, current.head.revision)
    links = [row for row in desired_rows if isinstance(row, RoleLink) and not row.is_membership]
    gone = {link.key for link in current.links if link.owner is Owner.FILES}
    await check_resulting_hierarchy(current, links, gone)
