"""Failures of the authentication package."""

from tenancy.errors import DatabaseUnavailableError


class AuthnError(Exception):
    """Base of all failures of this package."""


class KeyStorageUnavailableError(AuthnError, DatabaseUnavailableError):
    """PostgreSQL did not answer in time: no key may be accepted from it."""


class UnknownScopeError(AuthnError):
    """A scope outside the closed set."""


class InvalidKeyNameError(AuthnError):
    """A name of a key that cannot be shown."""


class ApiKeyNotFoundError(AuthnError):
    """The tenant has no key with this id."""


class KeyTenantNotFoundError(AuthnError):
    """No tenant has the id that a key was to be made for."""


class KeyLimitExceededError(AuthnError):
    """The tenant has as many live keys as it may have."""


class UnusablePasswordError(AuthnError):
    """What cannot be a password at all: empty, too long, or no text. The message never holds it."""


class UnsupportedPasswordHashError(AuthnError):
    """A stored or imported hash of a form that is not read, or that costs too much."""


class UnknownPepperError(AuthnError):
    """A stored hash needs a key that this process was not given: an operator's fault, no wrong password."""


class PasswordHashingBusyError(AuthnError):
    """More passwords wait to be hashed than may; try again soon."""
