"""Bring back the file-owned rows of an earlier revision, as a new revision."""

from authz.apply_policy import replace_policy
from authz.write_ports import ChangeKind, ChangeMeta, ChangeResult, Judge, PolicyWriter
from tenancy.ids import TenantId


async def rollback_policy(
    tenant_id: TenantId,
    to_revision: int,
    *,
    expected_revision: int | None = None,
    meta: ChangeMeta,
    writer: PolicyWriter,
    judge: Judge | None = None,
) -> ChangeResult:
    """Make the file-owned rows what they were at `to_revision`; what the API granted or revoked since stays as it is.

    The rows are checked as new ones are: what the model or the base no longer allows does not come back.

    Raises:
        RevisionNotFoundError: the tenant never had `to_revision`.
        RevisionConflictError: the tenant is not at `expected_revision`, or moved on meanwhile.
        ModelConflictError: the model was replaced meanwhile.
        InvalidRowError: an old row may no longer stand in this tenant's policy.
        LimitExceededError: the tenant would hold too much.
        TenantNotFoundError: no such tenant.
        StorageUnavailableError: no answer; the change may or may not have happened.
    """
    if expected_revision is None:
        expected_revision = (await writer.hierarchy(tenant_id)).head.revision
    rows = await writer.file_rows_at(tenant_id, to_revision)
    return await replace_policy(
        tenant_id,
        rows,
        expected_revision=expected_revision,
        meta=meta,
        writer=writer,
        kind=ChangeKind.ROLLBACK,
        rolled_back_to=to_revision,
        judge=judge,
    )
