"""One table turns failures into RFC 9457 problems. Slugs are API: they are only added."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

import msgspec

from authn import errors as authn_errors
from authz import errors as authz_errors
from authz.plan import DuplicateRowError
from authz.request import InvalidNameError
from service import edge_errors
from service.http import admin_errors
from tenancy import errors as tenancy_errors
from tenancy.create_tenant import InvalidDisplayNameError
from tenancy.ids import InvalidSlugError

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:kasbah:problem:"
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """How one kind of failure is answered.

    `tells` says whether the error's own message may reach the caller.
    """

    slug: str
    status: HTTPStatus
    title: str
    tells: bool = True


@dataclass(frozen=True, slots=True)
class RenderedProblem:
    """Status, headers and body of one answer; `body` is UTF-8 JSON of type `application/problem+json`."""

    status: int
    headers: Mapping[str, str]
    body: bytes


FORBIDDEN = Problem("forbidden", HTTPStatus.FORBIDDEN, "Forbidden", tells=False)
INTERNAL = Problem("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error", tells=False)

STORAGE_UNAVAILABLE = Problem(
    "storage-unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "Storage is not available", tells=False
)
ENCRYPTION_UNAVAILABLE = Problem(
    "encryption-unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "Keys are not available", tells=False
)
ISSUER_UNAVAILABLE = Problem(
    "issuer-unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "The issuer of access tokens does not answer", tells=False
)
NOT_AUTHENTICATED = Problem("not-authenticated", HTTPStatus.UNAUTHORIZED, "Not authenticated")
TENANT_NOT_FOUND = Problem("tenant-not-found", HTTPStatus.NOT_FOUND, "Tenant not found", tells=False)
REVISION_CONFLICT = Problem("revision-conflict", HTTPStatus.PRECONDITION_FAILED, "The tenant moved on")

PROBLEMS: dict[type[Exception], Problem] = {
    edge_errors.InvalidRequestError: Problem("invalid-request", HTTPStatus.BAD_REQUEST, "Invalid request"),
    edge_errors.TenantConflictError: Problem("invalid-request", HTTPStatus.BAD_REQUEST, "Invalid request"),
    edge_errors.TenantRequiredError: Problem("tenant-required", HTTPStatus.BAD_REQUEST, "A tenant must be named"),
    edge_errors.NotAuthenticatedError: NOT_AUTHENTICATED,
    edge_errors.SubjectSessionError: Problem(
        "subject-session", HTTPStatus.UNAUTHORIZED, "The subject's session does not hold"
    ),
    edge_errors.MissingScopeError: Problem("missing-scope", HTTPStatus.FORBIDDEN, "Missing scope"),
    edge_errors.MissingRightError: Problem("missing-right", HTTPStatus.FORBIDDEN, "Missing right"),
    edge_errors.OtherTenantError: Problem("other-tenant", HTTPStatus.FORBIDDEN, "Not your tenant"),
    edge_errors.InteractiveOnlyError: Problem("interactive-only", HTTPStatus.FORBIDDEN, "Only for who signed in"),
    edge_errors.EnrolmentRequiredError: Problem(
        "enrolment-required", HTTPStatus.FORBIDDEN, "A second factor must be enrolled"
    ),
    edge_errors.InsufficientAuthenticationError: Problem(
        "insufficient-user-authentication", HTTPStatus.UNAUTHORIZED, "A fresh or stronger sign-in is needed"
    ),
    edge_errors.NoSuchTenantError: TENANT_NOT_FOUND,
    edge_errors.TenantSuspendedError: Problem(
        "tenant-suspended", HTTPStatus.FORBIDDEN, "The tenant is suspended", tells=False
    ),
    edge_errors.NoSuchResourceError: Problem("not-found", HTTPStatus.NOT_FOUND, "Not found", tells=False),
    edge_errors.BodyTimeoutError: Problem("body-timeout", HTTPStatus.REQUEST_TIMEOUT, "Body came too slowly"),
    edge_errors.BodyTooLargeError: Problem("body-too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large"),
    edge_errors.UnsupportedEncodingError: Problem(
        "unsupported-encoding", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content encoding not supported"
    ),
    edge_errors.OverloadedError: Problem(
        "overloaded", HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests under way", tells=False
    ),
    edge_errors.BootstrapRefusedError: Problem(
        "bootstrap-refused", HTTPStatus.FORBIDDEN, "Bootstrap token refused", tells=False
    ),
    edge_errors.LinkRefusedError: Problem(
        "link-not-valid", HTTPStatus.GONE, "The link is not valid (any more)", tells=False
    ),
    edge_errors.GrantLapsedError: Problem(
        "grant-lapsed", HTTPStatus.CONFLICT, "The inviter may not grant the roles any more"
    ),
    edge_errors.ResetNotPossibleError: Problem(
        "reset-not-possible", HTTPStatus.CONFLICT, "No link can be sent to this account"
    ),
    edge_errors.CrossSiteError: Problem("cross-site", HTTPStatus.FORBIDDEN, "Not sent by one of our pages"),
    edge_errors.TooManyRequestsError: Problem("too-many-requests", HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    edge_errors.InvalidCredentialsError: Problem(
        "invalid-credentials", HTTPStatus.UNAUTHORIZED, "Nobody is signed in by this", tells=False
    ),
    edge_errors.KeyRateExceededError: Problem(
        "key-rate-exceeded", HTTPStatus.TOO_MANY_REQUESTS, "The key is used too often"
    ),
    edge_errors.WrongCodeError: Problem("wrong-code", HTTPStatus.FORBIDDEN, "Wrong code"),
    edge_errors.SecurityKeyRefusedError: Problem(
        "security-key-refused", HTTPStatus.UNPROCESSABLE_ENTITY, "Security key refused"
    ),
    edge_errors.LastFactorError: Problem("last-factor", HTTPStatus.CONFLICT, "The last second factor must stay"),
    edge_errors.EnrolmentNotPossibleError: Problem(
        "enrolment-not-possible", HTTPStatus.CONFLICT, "No second factor can be enrolled in this way"
    ),
    edge_errors.WrongPasswordError: Problem("wrong-password", HTTPStatus.FORBIDDEN, "Wrong password"),
    edge_errors.TooManyTriesError: Problem("too-many-tries", HTTPStatus.TOO_MANY_REQUESTS, "Too many tries"),
    edge_errors.CredentialLockedError: Problem("credential-locked", HTTPStatus.FORBIDDEN, "Credential is locked"),
    edge_errors.CredentialChangedError: Problem("credential-changed", HTTPStatus.CONFLICT, "Credential is another now"),
    edge_errors.PasswordRefusedError: Problem(
        "password-refused", HTTPStatus.UNPROCESSABLE_ENTITY, "Password may not be chosen"
    ),
    edge_errors.BulkUnavailableError: Problem(
        "bulk-worker-unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "No answer from the bulk worker"
    ),
    tenancy_errors.DatabaseUnavailableError: STORAGE_UNAVAILABLE,
    tenancy_errors.AuditUnavailableError: Problem(
        "audit-unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "The audit cannot be written, so nothing was changed"
    ),
    tenancy_errors.SlugTakenError: Problem("slug-taken", HTTPStatus.CONFLICT, "Tenant name is taken"),
    tenancy_errors.IdempotencyConflictError: Problem(
        "idempotency-conflict", HTTPStatus.CONFLICT, "Answered before, and the answer is lost"
    ),
    tenancy_errors.IdempotencyKeyReusedError: Problem(
        "idempotency-key-reused", HTTPStatus.UNPROCESSABLE_ENTITY, "Idempotency key was used for another request"
    ),
    tenancy_errors.UnsafeDatabaseRoleError: INTERNAL,
    tenancy_errors.InvalidSettingsError: Problem(
        "invalid-settings", HTTPStatus.UNPROCESSABLE_ENTITY, "Settings refused"
    ),
    tenancy_errors.SettingsOutOfBoundsError: Problem(
        "settings-out-of-bounds", HTTPStatus.UNPROCESSABLE_ENTITY, "Settings are laxer than the platform allows"
    ),
    tenancy_errors.TenantGoneError: TENANT_NOT_FOUND,
    tenancy_errors.TenantMovedOnError: REVISION_CONFLICT,
    tenancy_errors.UnsealError: INTERNAL,
    tenancy_errors.EncryptionUnavailableError: ENCRYPTION_UNAVAILABLE,
    tenancy_errors.UnknownKeyError: ENCRYPTION_UNAVAILABLE,
    tenancy_errors.WrappedKeyRefusedError: ENCRYPTION_UNAVAILABLE,
    tenancy_errors.KeyNotEverywhereError: Problem("key-not-everywhere", HTTPStatus.CONFLICT, "A node lacks the key"),
    tenancy_errors.RotationUnderWayError: Problem(
        "rotation-under-way", HTTPStatus.CONFLICT, "Keys are being rotated already"
    ),
    tenancy_errors.TenantStatusError: Problem("tenant-status", HTTPStatus.CONFLICT, "Not with a tenant of this status"),
    authn_errors.AccessTokenRefusedError: replace(NOT_AUTHENTICATED, tells=False),
    authn_errors.BadKeySetError: ISSUER_UNAVAILABLE,
    authn_errors.IssuerUnavailableError: ISSUER_UNAVAILABLE,
    authn_errors.KeyStorageUnavailableError: STORAGE_UNAVAILABLE,
    authn_errors.UnknownScopeError: Problem("unknown-scope", HTTPStatus.BAD_REQUEST, "Unknown scope"),
    authn_errors.InvalidKeyNameError: Problem("invalid-key-name", HTTPStatus.BAD_REQUEST, "Invalid key name"),
    authn_errors.KeyLifeError: Problem("key-life", HTTPStatus.BAD_REQUEST, "Personal keys end"),
    authn_errors.ApiKeyNotFoundError: Problem("key-not-found", HTTPStatus.NOT_FOUND, "Key not found", tells=False),
    authn_errors.KeyTenantNotFoundError: TENANT_NOT_FOUND,
    authn_errors.KeyMakerEndedError: replace(NOT_AUTHENTICATED, tells=False),
    authn_errors.KeyLimitExceededError: Problem(
        "key-limit-exceeded", HTTPStatus.UNPROCESSABLE_ENTITY, "Too many live keys"
    ),
    authn_errors.KeyEndedError: Problem("key-ended", HTTPStatus.CONFLICT, "The key has ended"),
    authn_errors.KeyLivesElsewhereError: Problem("key-owned", HTTPStatus.CONFLICT, "The key belongs to an account"),
    authn_errors.InvalidKeyLimitError: Problem("invalid-key-limit", HTTPStatus.BAD_REQUEST, "Invalid limit"),
    authn_errors.InvalidServiceAccountError: Problem(
        "invalid-service-account", HTTPStatus.BAD_REQUEST, "Invalid name or description"
    ),
    authn_errors.ServiceAccountNotFoundError: Problem(
        "service-account-not-found", HTTPStatus.NOT_FOUND, "Service account not found", tells=False
    ),
    authn_errors.ServiceAccountDeletedError: Problem(
        "service-account-deleted", HTTPStatus.CONFLICT, "Service account is deleted"
    ),
    authn_errors.ServiceAccountNotActiveError: Problem(
        "service-account-not-active", HTTPStatus.CONFLICT, "Service account may do nothing"
    ),
    authn_errors.ServiceAccountNameTakenError: Problem(
        "service-account-name-taken", HTTPStatus.CONFLICT, "Service account's name is taken"
    ),
    authn_errors.ServiceAccountLimitExceededError: Problem(
        "service-account-limit-exceeded", HTTPStatus.UNPROCESSABLE_ENTITY, "Too many service accounts"
    ),
    authn_errors.ServiceAccountRevisionConflictError: REVISION_CONFLICT,
    authn_errors.UnusablePasswordError: Problem("unusable-password", HTTPStatus.BAD_REQUEST, "No usable password"),
    authn_errors.UnsupportedPasswordHashError: Problem(
        "unsupported-password-hash", HTTPStatus.UNPROCESSABLE_ENTITY, "Password hash refused"
    ),
    authn_errors.UnknownPepperError: Problem(
        "password-key-missing", HTTPStatus.SERVICE_UNAVAILABLE, "Passwords cannot be checked", tells=False
    ),
    authn_errors.PasswordHashingBusyError: Problem(
        "password-hashing-busy", HTTPStatus.SERVICE_UNAVAILABLE, "Too many passwords to check", tells=False
    ),
    authn_errors.UserStorageUnavailableError: STORAGE_UNAVAILABLE,
    authn_errors.VolatileStoreUnavailableError: STORAGE_UNAVAILABLE,
    authn_errors.ChallengeExpiredError: Problem(
        "challenge-expired", HTTPStatus.GONE, "The sign-in must begin again", tells=False
    ),
    authn_errors.PasswordExpiredError: Problem(
        "password-expired", HTTPStatus.FORBIDDEN, "The password must be replaced first"
    ),
    authn_errors.PasswordTooShortError: Problem(
        "password-too-short", HTTPStatus.FORBIDDEN, "The password must be replaced first"
    ),
    authn_errors.InvalidUsernameError: Problem("invalid-username", HTTPStatus.BAD_REQUEST, "Invalid username"),
    authn_errors.InvalidEmailError: Problem("invalid-email", HTTPStatus.BAD_REQUEST, "Invalid e-mail address"),
    authn_errors.InvalidPersonNameError: Problem(
        "invalid-display-name", HTTPStatus.BAD_REQUEST, "Invalid display name"
    ),
    authn_errors.SessionEndedError: replace(NOT_AUTHENTICATED, tells=False),
    authn_errors.InvalidFactorNameError: Problem("invalid-factor-name", HTTPStatus.BAD_REQUEST, "Invalid factor name"),
    authn_errors.FactorLimitExceededError: Problem(
        "factor-limit-exceeded", HTTPStatus.UNPROCESSABLE_ENTITY, "Too many authenticators"
    ),
    authn_errors.SecurityKeyTakenError: Problem(
        "security-key-taken", HTTPStatus.CONFLICT, "The security key is bound already"
    ),
    authn_errors.InvitationNotFoundError: Problem(
        "invitation-not-found", HTTPStatus.NOT_FOUND, "Invitation not found", tells=False
    ),
    authn_errors.InvitationLimitExceededError: Problem(
        "invitation-limit-exceeded", HTTPStatus.UNPROCESSABLE_ENTITY, "Too many open invitations"
    ),
    authn_errors.InvalidMailboxError: Problem("invalid-mailbox", HTTPStatus.BAD_REQUEST, "Invalid mail address"),
    authn_errors.UsernameTakenError: Problem("username-taken", HTTPStatus.CONFLICT, "Username is taken"),
    authn_errors.EmailTakenError: Problem("email-taken", HTTPStatus.CONFLICT, "E-mail address is taken"),
    authn_errors.UserNotFoundError: Problem("user-not-found", HTTPStatus.NOT_FOUND, "User not found", tells=False),
    authn_errors.UserDeletedError: Problem("user-deleted", HTTPStatus.CONFLICT, "User is deleted"),
    authn_errors.UserLimitExceededError: Problem(
        "user-limit-exceeded", HTTPStatus.UNPROCESSABLE_ENTITY, "Too many users"
    ),
    authn_errors.UserTenantNotFoundError: TENANT_NOT_FOUND,
    authn_errors.UserRevisionConflictError: Problem(
        "revision-conflict", HTTPStatus.PRECONDITION_FAILED, "The tenant moved on"
    ),
    InvalidNameError: Problem("invalid-name", HTTPStatus.BAD_REQUEST, "Invalid name"),
    InvalidSlugError: Problem("invalid-slug", HTTPStatus.BAD_REQUEST, "Invalid tenant name"),
    authz_errors.StorageUnavailableError: STORAGE_UNAVAILABLE,
    authz_errors.StaleError: Problem(
        "stale", HTTPStatus.SERVICE_UNAVAILABLE, "No confirmed policy at the demanded revision", tells=False
    ),
    authz_errors.TenantNotFoundError: TENANT_NOT_FOUND,
    authz_errors.RevisionNotFoundError: Problem("revision-not-found", HTTPStatus.NOT_FOUND, "Revision not found"),
    authz_errors.ModelError: Problem("invalid-model", HTTPStatus.UNPROCESSABLE_ENTITY, "Model refused"),
    authz_errors.ModelTooNarrowError: Problem(
        "model-too-narrow", HTTPStatus.CONFLICT, "Stored rows have no place in the model"
    ),
    authz_errors.ModelConflictError: Problem(
        "model-conflict", HTTPStatus.PRECONDITION_FAILED, "The model is another by now"
    ),
    authz_errors.ConditionError: Problem("invalid-condition", HTTPStatus.UNPROCESSABLE_ENTITY, "Condition refused"),
    authz_errors.ConflictError: Problem("ownership-conflict", HTTPStatus.CONFLICT, "Row belongs to another owner"),
    authz_errors.RevisionConflictError: REVISION_CONFLICT,
    authz_errors.InvalidRowError: Problem("invalid-row", HTTPStatus.UNPROCESSABLE_ENTITY, "Row refused"),
    authz_errors.UnknownAccountNameError: Problem(
        "unknown-account-name", HTTPStatus.UNPROCESSABLE_ENTITY, "No such account"
    ),
    authz_errors.LimitExceededError: Problem("limit-exceeded", HTTPStatus.UNPROCESSABLE_ENTITY, "Limit exceeded"),
    authz_errors.GrantRefusedError: Problem("grant-refused", HTTPStatus.FORBIDDEN, "Not yours to give"),
    authz_errors.OwnRightsError: Problem("own-rights", HTTPStatus.FORBIDDEN, "Own rights do not grow"),
    authz_errors.TargetTooPowerfulError: Problem(
        "target-too-powerful", HTTPStatus.FORBIDDEN, "The account may more than you may give"
    ),
    DuplicateRowError: Problem("contradicting-rows", HTTPStatus.UNPROCESSABLE_ENTITY, "Rows contradict each other"),
    InvalidDisplayNameError: Problem("invalid-display-name", HTTPStatus.BAD_REQUEST, "Invalid display name"),
    admin_errors.PlanMismatchError: Problem("plan-mismatch", HTTPStatus.CONFLICT, "Not what was planned"),
    admin_errors.KeyScopeError: Problem("scope-not-yours", HTTPStatus.FORBIDDEN, "A key cannot give what it lacks"),
}
"""Failure to problem. A subclass without a line of its own is answered as its nearest base."""


def problem_of(error: BaseException) -> Problem:
    """Return the table's line for `error`; unknown errors are `INTERNAL`, which tells nothing."""
    for kind in type(error).__mro__:
        found = PROBLEMS.get(kind)
        if found is not None:
            return found
    return INTERNAL


def render_error(error: BaseException) -> RenderedProblem:
    """Return the answer for a failure."""
    problem = problem_of(error)
    detail = str(error) if problem.tells and str(error) else None
    pointer = getattr(error, "pointer", None)
    wait = getattr(error, "retry_after", None)
    headers = {} if wait is None else {"Retry-After": str(wait)}
    challenge = getattr(error, "challenge", None)
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    return render(problem, detail=detail, pointer=pointer, headers=headers, members=getattr(error, "members", None))


def render(
    problem: Problem,
    *,
    detail: str | None = None,
    pointer: str | None = None,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> RenderedProblem:
    """Return the answer for a line of the table.

    Args:
        problem: What happened.
        detail: A sentence about this occurrence.
        pointer: RFC 6901 pointer to the field at fault.
        headers: Further headers, for example `Allow`.
        members: Extension members (RFC 9457 section 3.2) that this kind of problem has.
    """
    body: dict[str, object] = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": int(problem.status),
    }
    if detail is not None:
        body["detail"] = detail
    if pointer is not None:
        body["pointer"] = pointer
    body |= members or {}
    all_headers = dict(headers or {})
    if problem.status is HTTPStatus.UNAUTHORIZED:
        all_headers.setdefault("WWW-Authenticate", 'Bearer realm="kasbah"')
    elif problem.status is HTTPStatus.SERVICE_UNAVAILABLE:
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    elif problem.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        all_headers["Accept-Encoding"] = "identity"
    return RenderedProblem(int(problem.status), all_headers, msgspec.json.encode(body))


def of_status(status: int) -> Problem:
    """Return the problem for a bare HTTP status, as aiohttp's own 404, 405 and 413 are."""
    known = HTTP_PROBLEMS.get(status)
    if known is not None:
        return known
    try:
        named = HTTPStatus(status)
    except ValueError:
        return INTERNAL
    return Problem(named.phrase.lower().replace(" ", "-"), named, named.phrase, tells=False)


HTTP_PROBLEMS = {
    problem.status.value: problem
    for problem in (
        PROBLEMS[edge_errors.InvalidRequestError],
        PROBLEMS[edge_errors.NoSuchResourceError],
        Problem("method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED, "Method not allowed"),
        PROBLEMS[edge_errors.BodyTooLargeError],
        INTERNAL,
    )
}
