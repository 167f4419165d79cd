"""OAuth 2 access tokens of one issuer: what such a token must be and say to be taken.

JWTs as RFC 9068 has them, judged by the rules of RFC 8725; answers of an introspection endpoint (RFC 7662) are held to
the same claims. Nothing that a token says about where its key is has a meaning here (`jku`, `x5u`, `jwk`): keys come
from the issuer's own set (`authn/jwks.py`).
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NoReturn

from authn.errors import AccessTokenRefusedError

MAX_TOKEN = 8_192
"""Characters; a header field of aiohttp's has no more."""

MAX_TEXT = 255
MAX_VALUES = 64
_LAST_SECOND = datetime(9999, 1, 1, tzinfo=UTC).timestamp()

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z")
_NOT_TAKEN = frozenset({"b64", "crit", "cty", "enc", "jku", "jwk", "x5u", "zip"})
"""Members of a header that change how a token is read, or offer a key: no issuer of access tokens needs them."""

_OF_OTHER_TOKENS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})
"""Claims that make a token one for the client: an ID token or a logout token (OpenID Connect Core 2, 3.3.2.11)."""

LEVELS = frozenset({"aal1", "aal2"})
"""Values of `acr` that mean something here."""


class Refusal(StrEnum):
    """Why a token is not taken: for counters and logs, never for its bearer."""

    FORM = "form"
    HEADER = "header"
    TYPE = "type"
    ALGORITHM = "algorithm"
    KEY = "key"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLIENT = "client"
    TIME = "time"
    OTHER_TOKEN = "other_token"  # noqa: S105 - no password
    BOUND = "bound"
    INACTIVE = "inactive"
    ACCOUNT = "account"
    SIGNED_OUT = "signed_out"


@dataclass(frozen=True, slots=True)
class Expected:
    """What is taken.

    `types` holds values of `typ`, lower case, without `application/`. `longest_life` is between `iat` and `exp`.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str] = frozenset({"ES256"})
    types: frozenset[str] = frozenset({"at+jwt"})
    clients: frozenset[str] = frozenset()
    """Clients whose tokens are taken; all, if empty."""
    scope_prefix: str = "kasbah:"
    leeway: timedelta = timedelta(seconds=10)
    longest_life: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What of a JWT's header is used: to find the issuer's key, which must then be one for the algorithm."""

    algorithm: str
    kid: str


@dataclass(frozen=True, slots=True)
class SignIn:
    """How and when the person signed in, as far as the issuer says (RFC 9068 section 2.2.1, RFC 9470 section 6)."""

    acr: str | None = None
    amr: tuple[str, ...] = ()
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a good token says. `scopes` are Kasbah's names, without the prefix that they have at the issuer."""

    subject: str
    client_id: str
    scopes: frozenset[str]
    issued_at: datetime
    expires_at: datetime
    sign_in: SignIn = SignIn()

    @property
    def of_client(self) -> bool:
        """Whether the client acts for itself (RFC 9068 section 2.2): its grant had no person."""
        return self.subject == self.client_id


def is_jwt(text: str) -> bool:
    """Whether a credential has the form of a signed JWT (RFC 7515 section 3.1); says nothing about what it holds."""
    return _COMPACT.match(text) is not None


def read_header(token: str, expected: Expected) -> TokenHeader:
    """Return what a JWT's header says of its signature; nothing of it is proven yet.

    Raises:
        AccessTokenRefusedError: no JWT in its one spelling, of another type or algorithm, or one that wants to be
            read by further rules.
    """
    found = _COMPACT.match(token) if len(token) <= MAX_TOKEN else None
    if found is None:
        _refuse(Refusal.FORM)
    segments = [_decoded(segment) for segment in found.groups()]
    header = read_object(segments[0], Refusal.HEADER)
    if not _NOT_TAKEN.isdisjoint(header):
        _refuse(Refusal.HEADER)
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in expected.types:
        _refuse(Refusal.TYPE)
    algorithm = header.get("alg")
    # SECURITY: the set is one of asymmetric algorithms, so neither `none` nor a MAC with a public key gets past here.
    if not isinstance(algorithm, str) or algorithm not in expected.algorithms:
        _refuse(Refusal.ALGORITHM)
    return TokenHeader(algorithm, _text(header, "kid", Refusal.KEY))


def read_object(data: bytes, refusal: Refusal) -> Mapping[str, Any]:
    """Return a JSON object that can be read in one way only: UTF-8, no member twice at any depth, no NaN."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except (ValueError, RecursionError):
        _refuse(refusal)
    if not isinstance(found, dict):
        _refuse(refusal)
    return found


def judge_claims(claims: Mapping[str, Any], expected: Expected, now: datetime) -> AccessToken:
    """Return what the claims of a token say whose origin is proven.

    Args:
        claims: Of a JWT whose signature holds, or of the issuer's own answer about a token.
        expected: What is taken.
        now: Aware.

    Raises:
        AccessTokenRefusedError: for another issuer, audience or client, not valid now, of another kind, or malformed.
    """
    if claims.get("iss") != expected.issuer:
        _refuse(Refusal.ISSUER)
    client_id = _text(claims, "client_id", Refusal.CLIENT)
    if claims.get("azp", client_id) != client_id or (expected.clients and client_id not in expected.clients):
        _refuse(Refusal.CLIENT)
    audience = _strings(claims.get("aud"), Refusal.AUDIENCE)
    if expected.audience not in audience:
        _refuse(Refusal.AUDIENCE)
    # SECURITY: an ID token is for its client, and says nothing about what the client may do here.
    if client_id in audience or not _OF_OTHER_TOKENS.isdisjoint(claims):
        _refuse(Refusal.OTHER_TOKEN)
    # SECURITY: a token that is bound to a key of its client (RFC 7800) is worth nothing from somebody without it.
    if "cnf" in claims:
        _refuse(Refusal.BOUND)
    issued_at, expires_at = _judge_times(claims, expected, now)
    return AccessToken(
        _text(claims, "sub", Refusal.CLAIMS),
        client_id,
        _scopes(claims, expected.scope_prefix),
        issued_at,
        expires_at,
        _sign_in(claims, issued_at + expected.leeway),
    )


def judge_introspection(claims: Mapping[str, Any], expected: Expected, now: datetime) -> AccessToken:
    """Return what the answer of an introspection endpoint says of a token (RFC 7662 section 2.2).

    Raises:
        AccessTokenRefusedError: not active, a refresh token (which some endpoints call active), or as `judge_claims`.
    """
    if claims.get("active") is not True:
        _refuse(Refusal.INACTIVE)
    if claims.get("token_use", "access_token") != "access_token":
        _refuse(Refusal.OTHER_TOKEN)
    kind = claims.get("token_type", "Bearer")
    if not isinstance(kind, str) or kind.lower() not in {"bearer", "access_token"}:
        _refuse(Refusal.BOUND)
    return judge_claims(claims, expected, now)


def _judge_times(claims: Mapping[str, Any], expected: Expected, now: datetime) -> tuple[datetime, datetime]:
    issued_at, expires_at = _moment(claims.get("iat")), _moment(claims.get("exp"))
    if issued_at is None or expires_at is None:
        _refuse(Refusal.CLAIMS)
    begins = _moment(claims["nbf"]) if "nbf" in claims else issued_at
    if begins is None:
        _refuse(Refusal.CLAIMS)
    if now >= expires_at + expected.leeway or max(issued_at, begins) > now + expected.leeway:
        _refuse(Refusal.TIME)
    if not timedelta(0) < expires_at - issued_at <= expected.longest_life:
        _refuse(Refusal.TIME)
    return issued_at, expires_at


def _scopes(claims: Mapping[str, Any], prefix: str) -> frozenset[str]:
    """Return those of the token's scopes that are Kasbah's.

    `scope` is RFC 9068's text, `scp` Ory Hydra's list. Where both are there they say the same: whoever may add claims
    at such an issuer could else name more in one than was granted in the other.
    """
    said = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            said.append(frozenset(value.split(" ")) - {""})
        elif value is not None:
            said.append(frozenset(_strings(value, Refusal.CLAIMS)) if value != [] else frozenset())
    if len(set(said)) > 1:
        _refuse(Refusal.CLAIMS)
    granted = said[0] if said else frozenset()
    if len(granted) > MAX_VALUES * 4:
        _refuse(Refusal.CLAIMS)
    return frozenset(scope.removeprefix(prefix) for scope in granted if scope.startswith(prefix))


def _sign_in(claims: Mapping[str, Any], latest: datetime) -> SignIn:
    """Return what is said of the sign-in; a value that means nothing here is none, so that it proves nothing.

    Ory Hydra puts what a consent application adds to an access token under `ext`. Nobody signed in after `latest`, or
    a token could say that its sign-in is fresh for as long as it likes.
    """
    more = claims.get("ext")
    said = {**(more if isinstance(more, dict) else {}), **claims}
    acr, amr = said.get("acr"), said.get("amr")
    methods: tuple[str, ...] = ()
    if isinstance(amr, list) and len(amr) <= MAX_VALUES and all(isinstance(method, str) for method in amr):
        methods = tuple(amr)
    moment = _moment(said.get("auth_time"))
    return SignIn(
        acr if isinstance(acr, str) and acr in LEVELS else None,
        methods,
        None if moment is None or moment > latest else moment,
    )


def _moment(value: object) -> datetime | None:
    """Return a NumericDate (RFC 7519 section 2), or None where there is no such thing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_SECOND:
        return None
    return datetime.fromtimestamp(value, UTC)


def _text(members: Mapping[str, Any], name: str, refusal: Refusal) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        _refuse(refusal)
    return value


def _strings(value: object, refusal: Refusal) -> tuple[str, ...]:
    """Return a string, or a list of some, as a tuple."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not 0 < len(values) <= MAX_VALUES:
        _refuse(refusal)
    if not all(isinstance(one, str) and one for one in values):
        _refuse(refusal)
    return tuple(values)


def _decoded(segment: str) -> bytes:
    """Return what a segment holds, if it is the one spelling of that (RFC 7515 section 2: no padding, no rest)."""
    try:
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError):
        _refuse(Refusal.FORM)
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        _refuse(Refusal.FORM)
    return data


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _refuse(refusal: Refusal) -> NoReturn:
    raise AccessTokenRefusedError(refusal)
