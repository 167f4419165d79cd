"""Failures of the authorization package. A refusal that callers expect is a value, not an error."""

from tenancy.errors import DatabaseUnavailableError


class AuthzError(Exception):
    """Base of all failures of this package."""


class StorageUnavailableError(AuthzError, DatabaseUnavailableError):
    """PostgreSQL did not answer in time: nothing may be decided from it."""


class TenantNotFoundError(AuthzError):
    """No tenant has this id or slug."""


class StaleError(AuthzError):
    """No confirmation from PostgreSQL within `max_staleness`, or a demanded revision was not reached in time."""


class ModelError(AuthzError):
    """A `model.conf` that cannot be compiled safely, or is not fit to be served; the message says why.

    `definition` is the definition that is at fault (`m`), where one is.
    """

    def __init__(self, message: str, definition: str = "") -> None:
        super().__init__(message)
        self.definition = definition


class ModelTooNarrowError(ModelError):
    """A model that has no place for rows which are stored; the message counts them and names a tenant."""


class ModelConflictError(AuthzError):
    """The platform's model is no longer the one that the caller looked at."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected the model {expected[:12]}, it is {actual[:12]} now")
        self.expected = expected
        self.actual = actual


class ConditionError(AuthzError):
    """A condition that does not parse, type-check, or keep its bounds."""


class ConflictError(AuthzError):
    """A change that meets a row of the other owner."""


class RevisionConflictError(AuthzError):
    """The tenant moved on since the caller looked."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected revision {expected}, the tenant is at {actual}")
        self.expected = expected
        self.actual = actual


class LimitExceededError(AuthzError):
    """A per-tenant limit would be passed."""


class RevisionNotFoundError(AuthzError):
    """The tenant never had this revision."""


class InvalidRowError(AuthzError):
    """A row that may not stand in this tenant's policy; the message names the row and what is wrong with it."""


class UnknownAccountNameError(InvalidRowError):
    """Policy files name accounts that the tenant does not have; the message says which, with file and line."""


class GrantRefusedError(AuthzError):
    """Somebody would get a right, a role or a permission that is not the writer's to give."""


class OwnRightsError(AuthzError):
    """A person's own rights would grow by what they write."""


class TargetTooPowerfulError(AuthzError):
    """An account has what is not the caller's to give, so its credentials and state are not the caller's to change."""
