"""The platform's model in PostgreSQL: replaced only by one that has a place for every stored row."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from authz.errors import ModelConflictError, ModelError, ModelTooNarrowError
from authz.model_needs import Need, StoredNeed, offers_as_much, unmet
from authz.policy_files.columns import PolicyColumns, read_columns
from authz.ports import StoredModel
from authz.storage_rows import read_model
from authz.write_ports import ChangeKind
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_all_other_heads, raise_head, record_change
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import TenantUnitOfWork, bind_tenant


async def replace_model(work: TenantUnitOfWork, model: StoredModel, meta: ChangeMeta, replaces: str | None) -> None:
    """Set the model and raise every tenant's revisions, in the caller's unit of work on the base.

    Raises:
        ModelConflictError: another model than `replaces` is set; setting what is set already is no conflict.
        ModelTooNarrowError: it has no place for a stored row.
        ModelError: it has no policy definition that can be served.
    """
    columns = served_columns(model)
    # INVARIANT: whoever replaces the model holds the lock of the base first, so what is read is what is replaced.
    await lock_head(work)
    current = await read_model(work.session)
    if current == model:
        return
    if replaces is not None and replaces != current.digest:
        raise ModelConflictError(replaces, current.digest)
    head = await raise_head(work, rules=True)
    entry = AuditEntry("model.replace", before={"digest": current.digest}, after={"digest": model.digest})
    await record_change(work.session, head, ChangeKind.MODEL.value, meta, audit=[entry])
    await raise_all_other_heads(work, ChangeKind.MODEL.value, meta)
    # INVARIANT: every tenant is locked now and none can be created, so no row appears after this has looked.
    await require_place_for_rows(work.session, columns)
    await bind_tenant(work.session, PLATFORM_TENANT_ID)
    await work.session.execute(
        text(
            "UPDATE platform_model SET text = :text, digest = :digest, columns = :columns, domain_links = :domain_links"
        ),
        {
            "text": model.text,
            "digest": model.digest,
            "columns": list(columns.rule),
            "domain_links": sorted(kind for kind, has_domain in columns.links.items() if has_domain),
        },
    )


async def require_place_for_rows(session: AsyncSession, columns: PolicyColumns) -> None:
    """Raise `ModelTooNarrowError` unless every stored row of every tenant fits a model with these columns.

    INVARIANT: stored rows fit the present model, since they are written only under the one they were checked against.
    So they are counted, which reads every rule there is, only for a model that offers less.
    """
    if offers_as_much(columns, served_columns(await read_model(session))):
        return
    query = text(
        "SELECT need, CAST(sum(row_count) AS bigint) AS row_count, count(*) AS tenant_count, min(slug) AS example "
        "FROM policy_needs() GROUP BY need ORDER BY need"
    )
    rows = await session.execute(query)
    fault = unmet((StoredNeed(Need(row.need), row.row_count, row.tenant_count, row.example) for row in rows), columns)
    if fault is not None:
        raise ModelTooNarrowError(f"{fault}: remove or change these rows first")


async def require_same_model(session: AsyncSession, digest: str) -> None:
    """Raise `ModelConflictError` unless the model still has this digest; the caller holds its tenant's lock.

    INVARIANT: a change of the model raises every tenant's head, so it waits for that lock, and the next writer who gets
    it sees the new model.
    """
    current = (await session.execute(text("SELECT digest FROM platform_model"))).scalar_one()
    if current != digest:
        raise ModelConflictError(digest, current)


def served_columns(model: StoredModel) -> PolicyColumns:
    """Return the columns of a model; raises `ModelError` when they are not those of a served one."""
    columns = read_columns(model.text)
    if columns is None:
        raise ModelError("the model has no policy definition that can be served")
    return columns
