"""The months of the audit: partitions are made ahead, so that no event falls into the one for what has no month."""

from sqlalchemy import text

from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.unit_of_work import Sessions, tenant_unit_of_work

MONTHS_AHEAD = 3
"""With this month."""


async def make_partitions(sessions: Sessions, months: int = MONTHS_AHEAD) -> int:
    """Make the partitions of this month and the ones to come that are missing; return how many.

    Raises:
        DatabaseUnavailableError: not now; nothing is half done.
    """
    async with tenant_unit_of_work(sessions, PLATFORM_TENANT_ID) as work:
        made = await work.session.execute(text("SELECT make_audit_partitions(:months)"), {"months": months})
        return int(made.scalar_one())
