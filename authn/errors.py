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


class KeyLifeError(AuthnError):
    """A personal key that would live too long."""


class ApiKeyNotFoundError(AuthnError):
    """The tenant has no key with this id."""


class KeyEndedError(AuthnError):
    """A key that was to be replaced has ended."""


class KeyLivesElsewhereError(AuthnError):
    """A key that belongs to somebody: it is replaced where its owner's keys are, and by whom it concerns."""


class InvalidKeyLimitError(AuthnError):
    """A limit of a key's requests that cannot be; `pointer` is the place in what was sent."""

    def __init__(self, message: str, pointer: str = "/limits") -> None:
        super().__init__(message)
        self.pointer = pointer


class KeyTenantNotFoundError(AuthnError):
    """No tenant has the id that a key was to be made for."""


class KeyMakerEndedError(AuthnError):
    """The key that was to make another one has ended meanwhile."""


class KeyLimitExceededError(AuthnError):
    """The tenant has as many live keys as it may have."""


class AccessTokenRefusedError(AuthnError):
    """An access token that is not taken. `refusal` says why, for counters; its bearer is not told."""

    def __init__(self, refusal: str) -> None:
        super().__init__(f"the access token is not taken: {refusal}")
        self.refusal = refusal


class BadKeySetError(AuthnError):
    """What an issuer gave is no set of keys that can be used."""


class IssuerUnavailableError(AuthnError):
    """The issuer of access tokens did not answer, so it is not known whether one is good."""


class InvalidServiceAccountError(AuthnError):
    """A name or description that a service account cannot have; `pointer` is the place in what was sent."""

    def __init__(self, message: str, pointer: str) -> None:
        super().__init__(message)
        self.pointer = pointer


class ServiceAccountNotFoundError(AuthnError):
    """The tenant has no service account with this id."""


class ServiceAccountDeletedError(AuthnError):
    """The service account is a tombstone: nothing brings it back."""


class ServiceAccountNameTakenError(AuthnError):
    """Another service account of the tenant has this name."""


class ServiceAccountLimitExceededError(AuthnError):
    """The tenant has as many service accounts as it may have."""


class ServiceAccountRevisionConflictError(AuthnError):
    """The tenant moved on since the caller read it."""


class ServiceAccountNotActiveError(AuthnError):
    """A key for a service account that is disabled or deleted."""


class UnusablePasswordError(AuthnError):
    """What cannot be a password at all: empty, too long, or no text. The message never holds it."""


class UnsupportedPasswordHashError(AuthnError):
    """A stored or imported hash of a form that is not read, or that costs too much."""


class UnknownPepperError(AuthnError):
    """A stored hash needs a key that this process was not given: an operator's fault, no wrong password."""


class PasswordHashingBusyError(AuthnError):
    """More passwords wait to be hashed than may; try again soon."""


class SessionEndedError(AuthnError):
    """The session that asks for a change ended after its request was admitted."""


class VolatileStoreUnavailableError(AuthnError):
    """Valkey did not answer in time: what is half done, or who is signed in, is not known."""


class ChallengeExpiredError(AuthnError):
    """A challenge that is unknown, expired, finished, another client's, or tried too often. They look alike."""


class PasswordExpiredError(AuthnError):
    """The tenant has its people replace passwords after some time, and this one's was over. The message says how."""


class PasswordTooShortError(AuthnError):
    """A right password, chosen beside a second factor, that is too short to sign in alone. The message says how."""


class UserStorageUnavailableError(AuthnError, DatabaseUnavailableError):
    """PostgreSQL did not answer in time: nothing is known about an account."""


class InvalidUsernameError(AuthnError):
    """Text that cannot be a username. The message says why, and does not repeat it."""


class InvalidEmailError(AuthnError):
    """Text that cannot be an e-mail address of an account. The message says why, and does not repeat it."""


class InvalidPersonNameError(AuthnError):
    """A name of a person that cannot be shown."""


class UsernameTakenError(AuthnError):
    """Another account of the tenant has this username. For administrators only."""


class EmailTakenError(AuthnError):
    """Another account of the tenant has this e-mail address. For administrators only."""


class UserNotFoundError(AuthnError):
    """The tenant has no account with this id."""


class UserDeletedError(AuthnError):
    """The account is a tombstone: nothing brings it back."""


class UserLimitExceededError(AuthnError):
    """The tenant has as many accounts as it may have."""


class UserTenantNotFoundError(AuthnError):
    """No tenant has the id that an account was to be looked for in."""


class UserRevisionConflictError(AuthnError):
    """The tenant moved on since the caller read it."""


class InvitationNotFoundError(AuthnError):
    """The tenant has no invitation with this id, or none that this could be done to."""


class InvitationLimitExceededError(AuthnError):
    """The tenant has as many open invitations as it may have."""


class InvalidMailboxError(AuthnError):
    """Text that is not exactly one plain mail address."""


class InvalidFactorNameError(AuthnError):
    """A name of an authenticator that cannot be shown."""


class FactorLimitExceededError(AuthnError):
    """The account has as many authenticators as it may have."""


class SecurityKeyTakenError(AuthnError):
    """An account of the tenant has this security key already."""
