"""Whatever a token, an answer or a key set holds, it is taken or refused: nothing else is raised, nothing is guessed."""

import contextlib
import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from authn.access_tokens import (
    LEVELS,
    AccessToken,
    Expected,
    Refusal,
    judge_claims,
    judge_introspection,
    read_header,
    read_object,
)
from authn.errors import AccessTokenRefusedError, BadKeySetError
from authn.jwks import ALGORITHMS, read_key_set
from tests.support.issuer import AUDIENCE, Issuer, encoded, new_key

NOW = 1_800_000_000
ISSUER = Issuer(keys=[new_key()], now=lambda: NOW)
EXPECTED = Expected(ISSUER.issuer, AUDIENCE, frozenset(ALGORITHMS))
KEY = ISSUER.keys[0].public

texts = st.text(alphabet="aA0 :.-_\0\n\u00e9\U0001f511", max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
claims_of_tokens = st.sampled_from(
    [
        "iss",
        "aud",
        "sub",
        "client_id",
        "azp",
        "iat",
        "exp",
        "nbf",
        "scope",
        "scp",
        "acr",
        "amr",
        "auth_time",
        "ext",
        "nonce",
        "cnf",
        "active",
        "token_use",
    ]
)


def holds(token: AccessToken, claims) -> None:
    """What was taken is what was said."""
    assert (claims["iss"], token.subject, token.client_id) == (ISSUER.issuer, claims["sub"], claims["client_id"])
    assert AUDIENCE in claims["aud"]
    assert token.client_id not in claims["aud"]
    assert token.issued_at.timestamp() - 10 <= NOW < token.expires_at.timestamp() + 10
    granted = claims.get("scope", claims.get("scp")) or []
    said = granted.split(" ") if isinstance(granted, str) else granted
    assert {f"kasbah:{scope}" for scope in token.scopes} <= set(said)
    assert token.sign_in.acr is None or token.sign_in.acr in LEVELS
    assert not {"nonce", "at_hash", "cnf"} & claims.keys()


@given(st.dictionaries(claims_of_tokens, values, max_size=4), st.sets(claims_of_tokens, max_size=2))
def test_any_claims_are_taken_or_refused(changed, left_out):
    """A good token with some claims of any kind in the place of its own, or without them."""
    whole = ISSUER.claims("alice", "kasbah:policy:read") | changed
    claims = {name: value for name, value in whole.items() if name not in left_out}
    now = datetime.fromtimestamp(NOW, UTC)
    with contextlib.suppress(AccessTokenRefusedError):
        holds(judge_claims(claims, EXPECTED, now), claims)
    with contextlib.suppress(AccessTokenRefusedError):
        holds(judge_introspection({"active": True} | claims, EXPECTED, now), claims)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jku", "jwk", "b64"]), values, max_size=4))
def test_any_header_is_read_or_refused(changed):
    """Never another type, another algorithm, or a key of the token's own."""
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "k"} | changed
    token = f"{encoded(json.dumps(header).encode())}.{encoded(b'{}')}.{encoded(b'signature')}"
    with contextlib.suppress(AccessTokenRefusedError):
        found = read_header(token, EXPECTED)
        assert found.algorithm in ALGORITHMS
        assert (found.algorithm, found.kid) == (header["alg"], header["kid"])
        assert not {"crit", "jku", "jwk", "b64"} & header.keys()


@given(st.text(alphabet="AZaz09-_.=+/ \n\u00e9", max_size=60))
def test_any_text_is_read_or_refused(text):
    """What is no token has no header."""
    with contextlib.suppress(AccessTokenRefusedError):
        read_header(text, EXPECTED)
        raise AssertionError("a header was read from what nobody signed")


@given(st.binary(max_size=80) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(data):
    """The one that every reader of JSON finds there."""
    with contextlib.suppress(AccessTokenRefusedError):
        assert read_object(data, Refusal.CLAIMS) == json.loads(data)


@given(
    st.lists(
        values | st.dictionaries(st.sampled_from([*KEY, "d", "key_ops"]), values, max_size=4).map(lambda c: KEY | c),
        max_size=4,
    )
)
def test_any_key_set_is_read_or_refused(keys):
    """Keys of any shape beside one that was changed; what is entered is public and has an id."""
    with contextlib.suppress(BadKeySetError):
        found = read_key_set(json.dumps({"keys": keys}).encode(), ALGORITHMS)
        assert 0 < len(found) <= len(keys)
