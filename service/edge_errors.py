"""Failures of the HTTP edge itself; `service/problems.py` says how each is answered."""

from collections.abc import Mapping, Sequence
from typing import Any


class EdgeError(Exception):
    """Base of the edge's own failures.

    Args:
        detail: A sentence for the caller: lower case, no final stop, never a secret.
        pointer: RFC 6901 pointer into the request body, when the fault has a place there.
    """

    def __init__(self, detail: str | None = None, pointer: str | None = None) -> None:
        super().__init__(detail or "")
        self.detail = detail
        self.pointer = pointer


class InvalidRequestError(EdgeError):
    """A request that does not say what the route needs, or says it twice."""


class NotAuthenticatedError(EdgeError):
    """No credential, or one that is unknown, revoked or expired. They look alike."""

    def __init__(self, detail: str = "no credential, or one that is unknown, revoked or expired") -> None:
        super().__init__(detail)


class SubjectSessionError(EdgeError):
    """The session that a question is asked for is unknown, over, ended, or of another tenant. They look alike.

    Or it holds, and proves less than is demanded of its account: then `acr_values` says what would do.
    """

    def __init__(self, acr_values: str | None = None) -> None:
        """Keep which level is demanded, where the session is below it."""
        self.acr_values = acr_values
        self.members = {} if acr_values is None else {"acr_values": acr_values}
        held = "unknown, over, or of another tenant" if acr_values is None else f"below the demanded `{acr_values}`"
        super().__init__(f"the subject's session is {held}: the subject must sign in again")


class MissingScopeError(EdgeError):
    """The credential is good, but not for this."""


class MissingRightError(EdgeError):
    """The credential carries the scope, and its owner may not do this."""


class OtherTenantError(EdgeError):
    """A tenant-bound credential met another tenant's name, existing or not."""


class TenantConflictError(InvalidRequestError):
    """The request names more than one tenant, or one twice in one place."""


class TenantRequiredError(EdgeError):
    """A platform credential must name a tenant on this route."""


class NoSuchTenantError(EdgeError):
    """A platform credential named a tenant that is not there."""


class NoSuchResourceError(EdgeError):
    """The path names nothing that this caller may see."""


class BodyTooLargeError(EdgeError):
    """A body above the route's limit."""


class BodyTimeoutError(EdgeError):
    """A body that did not arrive within its deadline."""


class UnsupportedEncodingError(EdgeError):
    """A compressed body: Kasbah takes none, so that none can be a bomb."""


class BulkUnavailableError(EdgeError):
    """The bulk worker did not answer. What it was asked to write is written whole or not at all; which is not known."""


class OverloadedError(EdgeError):
    """Too much of this work is under way; try again soon."""


class BootstrapRefusedError(EdgeError):
    """A bootstrap token that is unknown, spent or expired, or was made before there was an administrator."""


class LinkRefusedError(EdgeError):
    """A link that is unknown, spent, expired, void, or for something else. They look alike."""


class GrantLapsedError(EdgeError):
    """Who sent an invitation may not grant its roles any more, so it makes no account."""


class ResetNotPossibleError(EdgeError):
    """No link can be sent to this account now; told to administrators, who may read the account anyway."""


class CrossSiteError(EdgeError):
    """A form that no page of ours sent."""


class TooManyRequestsError(EdgeError):
    """One address asked too often for what needs no credential; `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests from your address")
        self.retry_after = retry_after


class InvalidCredentialsError(EdgeError):
    """Nobody is signed in by this: wrong, unknown, disabled, locked, or of no tenant. They look alike."""


class KeyRateExceededError(EdgeError):
    """A key was used more often than it may be; `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("your key is used more often than it may be")
        self.retry_after = retry_after


class WrongPasswordError(EdgeError):
    """A password that was to prove something does not. The account may also have none; they look alike."""


class TooManyTriesError(EdgeError):
    """Too many failed proofs: the next one is judged later."""

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class CredentialLockedError(EdgeError):
    """So many failed proofs that no further one is judged: the credential must be replaced."""


class CredentialChangedError(EdgeError):
    """The credential is another one by now."""


class PasswordRefusedError(EdgeError):
    """A new password may not be chosen; `members` say why and what helps."""

    def __init__(self, detail: str, pointer: str, members: Mapping[str, object]) -> None:
        super().__init__(detail, pointer)
        self.members = members


class InteractiveOnlyError(EdgeError):
    """The credential is no session: nobody signed in with it."""


class EnrolmentRequiredError(EdgeError):
    """The session was made with a recovery code, and is good for the enrolment of second factors alone."""


class InsufficientAuthenticationError(EdgeError):
    """The sign-in is too old or too weak for this; `challenge` says, as RFC 9470 section 3 has it, what is enough."""

    def __init__(self, acr_values: str, max_age: int | None, amr_values: Sequence[str] = ()) -> None:
        """Keep what would be enough.

        Args:
            acr_values: Levels, any of which does, with blanks between them.
            max_age: Seconds; None where any age does.
            amr_values: Methods that must have been used, of which RFC 9470 cannot tell (RFC 8176).
        """
        fresh = "" if max_age is None else f", proven within the last {max_age} s"
        by = "".join(f", by `{method}`" for method in amr_values)
        super().__init__(f"sign in again: this needs `{acr_values}`{by}{fresh}")
        wanted: dict[str, Any] = {"acr_values": str(acr_values)}
        self.challenge = (
            'Bearer realm="kasbah", error="insufficient_user_authentication", '
            f'error_description="a fresh sign-in is needed", acr_values="{acr_values}"'
        )
        if max_age is not None:
            wanted["max_age"] = max_age
            self.challenge += f', max_age="{max_age}"'
        if amr_values:
            wanted["amr_values"] = list(amr_values)
        self.members = wanted


class WrongCodeError(EdgeError):
    """A code of an authenticator, or one that was mailed, that proves nothing: wrong, spent, or too old."""


class SecurityKeyRefusedError(EdgeError):
    """What a browser gave is no new security key for this account, here and now."""


class LastFactorError(EdgeError):
    """The account must keep an authenticator, and this is the last one."""


class EnrolmentNotPossibleError(EdgeError):
    """No second factor can be enrolled in this way: no verified address, or only by a ticket."""


class TenantSuspendedError(EdgeError):
    """The tenant of the key is suspended, or being deleted."""
