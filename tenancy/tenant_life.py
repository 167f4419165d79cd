"""The life of a tenant: which status follows from which act. What is done already is no change, what cannot be is told.

active <-> suspended        suspend, reactivate
active, suspended -> deleting -> (restore) what it was
deleting -> deleted         once its grace is over: everything is removed, and nothing leads back
"""

from enum import StrEnum
from types import MappingProxyType

from tenancy.errors import TenantStatusError
from tenancy.ids import TenantStatus


class TenantAct(StrEnum):
    """What may be done to a tenant as a whole."""

    SUSPEND = "suspend"
    REACTIVATE = "reactivate"
    DELETE = "delete"
    RESTORE = "restore"


_ACTIVE, _SUSPENDED, _DELETING = TenantStatus.ACTIVE, TenantStatus.SUSPENDED, TenantStatus.DELETING

_FOLLOWS = MappingProxyType(
    {
        (TenantAct.SUSPEND, _ACTIVE): _SUSPENDED,
        (TenantAct.SUSPEND, _SUSPENDED): _SUSPENDED,
        (TenantAct.REACTIVATE, _SUSPENDED): _ACTIVE,
        (TenantAct.REACTIVATE, _ACTIVE): _ACTIVE,
        (TenantAct.DELETE, _ACTIVE): _DELETING,
        (TenantAct.DELETE, _SUSPENDED): _DELETING,
        (TenantAct.DELETE, _DELETING): _DELETING,
        (TenantAct.RESTORE, _ACTIVE): _ACTIVE,
        (TenantAct.RESTORE, _SUSPENDED): _SUSPENDED,
    }
)


def status_after(
    act: TenantAct, status: TenantStatus, *, was: TenantStatus | None, grace_is_over: bool
) -> TenantStatus:
    """Return the status that an act leads to.

    Args:
        act: What is wanted.
        status: What the tenant is.
        was: What it was before it was deleted.
        grace_is_over: Whether a deleted tenant can no longer be restored.

    Raises:
        TenantStatusError: the act does not fit the status.
    """
    if act is TenantAct.RESTORE and status is _DELETING and was is not None:
        if grace_is_over:
            raise TenantStatusError("its grace is over: it is being removed")
        return was
    found = _FOLLOWS.get((act, status))
    if found is None:
        raise TenantStatusError("it is deleted: restore it first")
    return found
