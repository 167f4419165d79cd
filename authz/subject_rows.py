"""What the API granted to one subject, and stored about it: removed with the account that the subject was."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text

from authz.row_changes import RowChanges
from authz.rules import Owner, row_id
from authz.storage_rows import ENTITY_COLUMNS, INDEXED_CHARACTERS, MEMBERSHIP_COLUMNS
from authz.storage_tables import value_of, write_changes, write_items
from tenancy.unit_of_work import TenantUnitOfWork

_MEMBERSHIPS = text(
    f"SELECT {MEMBERSHIP_COLUMNS} FROM memberships WHERE tenant_id = :tenant_id "  # noqa: S608 - constant columns
    "AND subject_start = :start AND subject = :subject AND owner = :owner"
)
_ENTITIES = text(
    f"SELECT {ENTITY_COLUMNS} FROM entities WHERE tenant_id = :tenant_id AND kind = 'subject' "  # noqa: S608 - as above
    "AND ref_start = :start AND ref = :subject AND owner = :owner"
)


@dataclass(frozen=True, slots=True)
class ApiRows:
    """Rows of one subject that the API owns."""

    changes: RowChanges

    @property
    def growth(self) -> Mapping[str, int]:
        """How many rows of each kind the tenant loses, below 0."""
        return self.changes.growth()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.changes.removed)

    async def remove(self, work: TenantUnitOfWork, revision: int) -> None:
        """Remove them, and write that into the history of `revision`, whose entry is there."""
        if not self.changes.is_empty:
            await write_changes(work, self.changes, revision)
            await write_items(work, self.changes, revision)


class PostgresSubjectPolicy:
    """`authn.subject_policy.SubjectPolicy` on the tables of policy rows."""

    async def owned_by_api(self, work: TenantUnitOfWork, subject: str) -> ApiRows:
        """Return the subject's memberships and attributes that the API owns; the tenant's lock is held."""
        parameters = {
            "tenant_id": work.tenant_id,
            "subject": subject,
            "start": subject[:INDEXED_CHARACTERS],
            "owner": Owner.API.value,
        }
        changes = RowChanges()
        for kind, query in (("memberships", _MEMBERSHIPS), ("entities", _ENTITIES)):
            for found in (await work.session.execute(query, parameters)).mappings():
                row = value_of(kind, found)
                changes.removed[row_id(row.key)] = row
        return ApiRows(changes)
