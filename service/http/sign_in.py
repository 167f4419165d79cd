"""`/v1/auth/…`: somebody signs in, in one step or two. What else begins sessions shares the answers of this module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Annotated, Any, assert_never

import msgspec
from aiohttp import web

from authn.begin_session import Client
from authn.challenges import Challenge, ChallengeStep, client_of
from authn.errors import (
    ChallengeExpiredError,
    PasswordExpiredError,
    PasswordHashingBusyError,
    PasswordTooShortError,
    UserNotFoundError,
    VolatileStoreUnavailableError,
)
from authn.factors import FactorMethod
from authn.finish_sign_in import SignedIn
from authn.second_step import FactorLocked, NotOffered
from authn.sessions import device_of, is_session_token
from authn.sign_in import PASSWORD_METHOD, MoreNeeded, PasswordGiven, SignInRefused, Whence
from authn.tries import MustWait
from authn.users import subject_ref
from authz.errors import AuthzError
from service.client_address import address_of
from service.edge_errors import (
    CredentialLockedError,
    EdgeError,
    InvalidCredentialsError,
    InvalidRequestError,
    OverloadedError,
    TenantRequiredError,
    TooManyTriesError,
)
from service.http.account_links import meta_by_link, named
from service.http.admin import json_answer
from service.http.policy_wire import read_struct
from service.http.session_wire import shown_device, shown_new
from service.keys import METRICS, NODE, SESSION_ENDS, SESSION_STORE
from service.mail_part import hurry_mails
from service.request_body import read_json_body
from service.routes import Public, Route
from service.sign_in_part import AFTERMATH, SECOND_STEPS, SIGN_INS
from service.throttling import network_of
from tenancy.errors import DatabaseUnavailableError

MAX_BODY = 16 << 10
MAX_IDENTIFIER = 512
MAX_TOKEN = 256

Token = Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who signs in: `identifier` is a username or an address, `device` the token of a device that is known."""

    identifier: Annotated[str, msgspec.Meta(max_length=MAX_IDENTIFIER)]
    password: str
    device: Token | None = None
    remember_device: bool = False

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a password."""
        return "Login(...)"


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A challenge and the proof of a second factor: a code that is typed, or what a security key answered."""

    challenge: Token
    method: FactorMethod
    code: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    assertion: dict[str, Any] | None = None
    remember_device: bool = False

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return "Verify(...)"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A challenge, and the method that will answer it."""

    challenge: Token
    method: FactorMethod

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token."""
        return "Options(...)"


_login = msgspec.json.Decoder(Login)
_verify = msgspec.json.Decoder(Verify)
_options = msgspec.json.Decoder(Options)


async def login(request: web.Request) -> web.Response:
    """POST who one is, and one's password."""
    wanted = read_struct(await read_json_body(request), _login)
    slug = named(request)
    if slug is None:
        raise TenantRequiredError("name a tenant: `X-Tenant-ID`, `tenant` or subdomain")
    given = PasswordGiven(slug, wanted.identifier, wanted.password, wanted.device, wanted.remember_device)
    meta = meta_by_link(request)
    with _counted(request, PASSWORD_METHOD), request.app[AFTERMATH].place():
        outcome = await request.app[SIGN_INS].begin(given, whence_of(request), meta=meta)
        match outcome:
            case SignedIn():
                return await signed_in_answer(request, outcome)
            case MoreNeeded(token=token, challenge=challenge):
                return _more_needed(request, token, challenge)
            case SignInRefused():
                raise refusal(request, outcome)
            case MustWait(seconds=seconds):
                raise must_wait(request, PASSWORD_METHOD, seconds)
            case _:
                assert_never(outcome)


async def options(request: web.Request) -> web.Response:
    """POST a challenge and a method: what the client needs to prove it."""
    wanted = read_struct(await read_json_body(request), _options)
    with request.app[AFTERMATH].place():
        found = await request.app[SECOND_STEPS].options(wanted.challenge, wanted.method, whence_of(request))
    if isinstance(found, NotOffered):
        raise _not_offered()
    return json_answer({"method": wanted.method.value, "options": found})


async def verify(request: web.Request) -> web.Response:
    """POST the proof of a second factor; the challenge is over when it is right."""
    wanted = read_struct(await read_json_body(request), _verify)
    if (wanted.code is None) == (wanted.assertion is None):
        raise InvalidRequestError("give one of `code` and `assertion`")
    given: str | Mapping[str, Any] = wanted.code if wanted.code is not None else wanted.assertion or {}
    method = wanted.method
    with _counted(request, method.value), request.app[AFTERMATH].place():
        outcome = await request.app[SECOND_STEPS].prove(
            wanted.challenge,
            method,
            given,
            whence_of(request),
            remember_device=wanted.remember_device,
            meta=meta_by_link(request),
        )
        match outcome:
            case SignedIn():
                return await signed_in_answer(request, outcome)
            case SignInRefused():
                raise refusal(request, outcome)
            case FactorLocked(refused=refused):
                refusal(request, refused)
                raise CredentialLockedError("too many wrong proofs: use another method")
            case MustWait(seconds=seconds):
                raise must_wait(request, method.value, seconds)
            case NotOffered():
                raise _not_offered()
            case _:
                assert_never(outcome)


async def signed_in_answer(request: web.Request, done: SignedIn) -> web.Response:
    """Answer that somebody is signed in, and end the session of theirs that they sent along (ASVS 5.0, 7.2.4)."""
    await _end_previous(request, done)
    return json_answer(shown_signed_in(request, done))


def shown_signed_in(request: web.Request, done: SignedIn) -> dict[str, Any]:
    """Return what somebody is told who is signed in now; it is counted, and its mails are sent soon."""
    hurry_mails(request.app)
    request.app[METRICS].count_sign_in("authenticated", done.method)
    answer: dict[str, Any] = {"status": "authenticated", "session": shown_new(done.new)}
    if done.device is not None:
        answer["device"] = shown_device(done.device)
    return answer


def refusal(request: web.Request, refused: SignInRefused) -> EdgeError:
    """Return the one answer to whatever signs nobody in, and have what follows from it follow later."""
    request.app[METRICS].count_sign_in("refused", refused.method)
    request.app[AFTERMATH].begin(refused, meta_by_link(request))
    return InvalidCredentialsError()


def must_wait(request: web.Request, method: str, seconds: int) -> EdgeError:
    """Return how it is answered that too many proofs failed."""
    request.app[METRICS].count_sign_in("throttled", method)
    return TooManyTriesError(f"too many failed sign-ins: try again in {seconds} s", seconds)


def whence_of(request: web.Request) -> Whence:
    """Return where a request comes from."""
    address = address_of(request)
    network, agent = network_of(address), request.headers.get("User-Agent", "")
    return Whence(network, client_of(network, agent), Client(device_of(agent), address), named(request))


def _more_needed(request: web.Request, token: str, challenge: Challenge) -> web.Response:
    enrol = challenge.step is ChallengeStep.ENROL
    status = "enrollment_required" if enrol else "mfa_required"
    request.app[METRICS].count_sign_in(status, PASSWORD_METHOD)
    return json_answer(
        {
            "status": status,
            "challenge": token,
            "methods": list(challenge.methods),
            "expires_at": challenge.expires_at,
        }
    )


async def _end_previous(request: web.Request, done: SignedIn) -> None:
    """End the session that was sent along, if it is the same account's: a new sign-in takes its place."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not is_session_token(token):
        return
    new, app = done.new.session, request.app
    with suppress(VolatileStoreUnavailableError, UserNotFoundError):
        previous = await app[SESSION_STORE].find(token)
        if previous is None or (previous.tenant_id, previous.user_id) != (new.tenant_id, new.user_id):
            return
        meta = replace(meta_by_link(request), actor=subject_ref(new.user_id), credential=f"session:{new.session_id}")
        head = await app[SESSION_ENDS].end([previous], meta=meta)
        if head is not None:
            await app[NODE].note_write(head)
        await app[SESSION_STORE].forget(new.tenant_id, new.user_id, [previous.session_id])


@contextmanager
def _counted(request: web.Request, method: str) -> Iterator[None]:
    """Count what signed nobody in for another reason than a proof."""
    try:
        yield
    except ChallengeExpiredError:
        request.app[METRICS].count_sign_in("expired", method)
        raise
    except PasswordExpiredError:
        request.app[METRICS].count_sign_in("password_expired", method)
        raise
    except PasswordTooShortError:
        request.app[METRICS].count_sign_in("password_too_short", method)
        raise
    except (PasswordHashingBusyError, OverloadedError):
        request.app[METRICS].count_sign_in("busy", method)
        raise
    except (DatabaseUnavailableError, VolatileStoreUnavailableError, AuthzError):
        request.app[METRICS].count_sign_in("unavailable", method)
        raise


def _not_offered() -> InvalidRequestError:
    return InvalidRequestError("the challenge does not take this method", "/method")


_WITHOUT = Public("proves who somebody is; the answer tells nothing else")

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/auth/login", login, _WITHOUT, body_limit=MAX_BODY, bulk=True, hashes=True, signs_in=True),
    Route("POST", "/v1/auth/mfa/options", options, _WITHOUT, body_limit=MAX_BODY, bulk=True),
    Route("POST", "/v1/auth/mfa/verify", verify, _WITHOUT, body_limit=MAX_BODY, bulk=True),
)
