"""Which access tokens are taken: RFC 9068, RFC 8725 and RFC 7662, and what attackers make of them."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from authn.access_tokens import (
    MAX_TOKEN,
    AccessToken,
    Expected,
    Refusal,
    SignIn,
    judge_claims,
    judge_introspection,
    read_header,
    read_object,
)
from authn.errors import AccessTokenRefusedError, BadKeySetError
from authn.jwks import ALGORITHMS, MAX_KEYS, read_key_set, verified_payload
from tests.support.issuer import AUDIENCE, Issuer, SigningKey, encoded, new_key, raw_token

KEYS = {algorithm: new_key(algorithm, f"kid-{algorithm}") for algorithm in ALGORITHMS}
_NOW = 1_800_000_000
NOW = datetime.fromtimestamp(_NOW, UTC)
ISSUER = Issuer(keys=list(KEYS.values()), now=lambda: _NOW)
EXPECTED = Expected(ISSUER.issuer, AUDIENCE, frozenset(ALGORITHMS))
ES256 = KEYS["ES256"]
STRANGER = new_key("ES256", ES256.kid)
OTHER_RSA = new_key("RS256", KEYS["RS256"].kid)


def key_set(*listings, algorithms=ALGORITHMS):
    """Read a set of these entries; without any the issuer's."""
    listed = list(listings) or [key.public for key in KEYS.values()]
    return read_key_set(json.dumps({"keys": listed}).encode(), algorithms)


def judge(token: str, expected: Expected = EXPECTED) -> AccessToken:
    """Take a token, or refuse it."""
    header = read_header(token, expected)
    key = key_set(algorithms=expected.algorithms).find(header)
    if key is None:
        raise AccessTokenRefusedError(Refusal.KEY)
    claims = read_object(verified_payload(token, key), Refusal.CLAIMS)
    return judge_claims(claims, expected, NOW)


def refusal(token: str, expected: Expected = EXPECTED) -> str:
    with pytest.raises(AccessTokenRefusedError) as refused:
        judge(token, expected)
    return refused.value.refusal


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token_says_who_and_what(algorithm):
    """Of every algorithm that may be configured; scopes lose the issuer's prefix, others are not Kasbah's."""
    token = ISSUER.token("alice", "openid kasbah:policy:read kasbah:decision:check policy:write", key=KEYS[algorithm])
    found = judge(token)
    assert (found.subject, found.client_id, found.of_client) == ("alice", "client-1", False)
    assert found.scopes == {"policy:read", "decision:check"}
    assert found.expires_at - found.issued_at == timedelta(minutes=5)
    assert found.sign_in == SignIn()


def test_the_sign_in_is_what_the_issuer_says_of_it():
    """Levels that mean nothing here are none; Ory Hydra's `ext` counts where the token itself says nothing."""
    moment = _NOW - 60
    said = {"acr": "aal2", "amr": ["pwd", "otp", "mfa"], "auth_time": moment}
    expected = SignIn("aal2", ("pwd", "otp", "mfa"), datetime.fromtimestamp(moment, UTC))
    assert judge(ISSUER.token("alice", **said)).sign_in == expected
    assert judge(ISSUER.token("alice", ext=said)).sign_in == expected
    assert judge(ISSUER.token("alice", acr="aal1", ext={"acr": "aal2"})).sign_in.acr == "aal1"
    for nonsense in (
        {"acr": "gold"},
        {"acr": ["aal2"]},
        {"acr": 2},
        {"amr": "pwd"},
        {"amr": [1]},
        {"auth_time": "now"},
        {"auth_time": _NOW + 11},
        {"ext": []},
    ):
        assert judge(ISSUER.token("alice", **nonsense)).sign_in == SignIn()


def test_hydras_list_of_scopes_is_read_and_must_agree():
    """`scp` alone or both alike; where they differ, somebody added one."""
    assert judge(ISSUER.token("alice", scope=None, scp=["kasbah:policy:read"])).scopes == {"policy:read"}
    both = ISSUER.token("alice", "kasbah:policy:read openid", scp=["openid", "kasbah:policy:read"])
    assert judge(both).scopes == {"policy:read"}
    assert judge(ISSUER.token("alice", scope=None, scp=[])).scopes == frozenset()
    assert refusal(ISSUER.token("alice", "kasbah:policy:write", scp=["kasbah:policy:read"])) == Refusal.CLAIMS
    assert refusal(ISSUER.token("alice", "kasbah:policy:write", scp=[])) == Refusal.CLAIMS
    for bad in ({"scope": 1}, {"scope": None, "scp": {"a": 1}}, {"scope": None, "scp": [1]}):
        assert refusal(ISSUER.token("alice", **bad)) == Refusal.CLAIMS


def hs256_with(secret: bytes, **header) -> str:
    """Sign with a MAC, as who knows only public keys can."""
    head = {"alg": "HS256", "typ": "at+jwt", "kid": ES256.kid} | header
    signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(ISSUER.claims('alice')).encode())}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def pem(key: SigningKey) -> bytes:
    return key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def with_header(**header) -> str:
    return ISSUER.token("alice", key=ES256, header=header)


def unsigned(algorithm: str) -> str:
    head = {"alg": algorithm, "typ": "at+jwt", "kid": ES256.kid}
    return f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(ISSUER.claims('alice')).encode())}."


GOOD = ISSUER.token("alice", key=ES256)
_HEAD, _BODY, _SIGNATURE = GOOD.split(".")
_SMUGGLED = STRANGER.public

FORGED = {
    "alg none without signature": (unsigned("none"), Refusal.FORM),
    "alg none with a signature": (with_header(alg="none"), Refusal.ALGORITHM),
    "alg None": (with_header(alg="None"), Refusal.ALGORITHM),
    "alg missing": (raw_token({"typ": "at+jwt", "kid": ES256.kid}, b"{}", ES256), Refusal.ALGORITHM),
    "alg in a list": (with_header(alg=["ES256"]), Refusal.ALGORITHM),
    "HS256 with the public key": (hs256_with(pem(ES256)), Refusal.ALGORITHM),
    "HS256 with the RSA key's JWK": (hs256_with(json.dumps(KEYS["RS256"].public).encode()), Refusal.ALGORITHM),
    "HS256 with nothing": (hs256_with(b""), Refusal.ALGORITHM),
    "ES512, which is not on the list": (with_header(alg="ES512"), Refusal.ALGORITHM),
    "RS256 by the ES256 key's id": (ISSUER.token("alice", key=KEYS["RS256"], header={"kid": ES256.kid}), Refusal.KEY),
    "PS256 by the key for RS256": (
        ISSUER.token("alice", key=SigningKey(KEYS["RS256"].kid, "PS256", KEYS["RS256"].private)),
        Refusal.KEY,
    ),
    "another's key under the same id": (ISSUER.token("alice", key=STRANGER), Refusal.SIGNATURE),
    "another's RSA key under the same id": (ISSUER.token("alice", key=OTHER_RSA), Refusal.SIGNATURE),
    "no key id": (with_header(kid=None), Refusal.KEY),
    "key id of a path": (with_header(kid="../../../../dev/null"), Refusal.KEY),
    "key id of a file": (with_header(kid="file:///etc/passwd"), Refusal.KEY),
    "key id with SQL": (with_header(kid="x' UNION SELECT 'key"), Refusal.KEY),
    "key id of a URL": (with_header(kid="https://evil.example/key"), Refusal.KEY),
    "key id that is none": (with_header(kid=7), Refusal.KEY),
    "key id without end": (with_header(kid="k" * 3000), Refusal.KEY),
    "key id with a NUL": (with_header(kid=f"{ES256.kid}\0"), Refusal.KEY),
    "jku": (with_header(jku="https://evil.example/jwks.json"), Refusal.HEADER),
    "x5u": (with_header(x5u="https://evil.example/cert.pem"), Refusal.HEADER),
    "embedded key": (ISSUER.token("alice", key=STRANGER, header={"jwk": _SMUGGLED}), Refusal.HEADER),
    "crit": (with_header(crit=["exp"]), Refusal.HEADER),
    "crit that is empty": (with_header(crit=[]), Refusal.HEADER),
    "unencoded payload": (with_header(b64=False, crit=["b64"]), Refusal.HEADER),
    "compressed": (with_header(zip="DEF"), Refusal.HEADER),
    "nested": (with_header(cty="JWT"), Refusal.HEADER),
    "ID token's type": (with_header(typ="JWT"), Refusal.TYPE),
    "logout token's type": (with_header(typ="logout+jwt"), Refusal.TYPE),
    "no type": (with_header(typ=None), Refusal.TYPE),
    "member of the header twice": (
        raw_token(b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"kid-ES256"}', b"{}", ES256),
        Refusal.HEADER,
    ),
    "header that is a list": (raw_token(b'["alg","ES256"]', b"{}", ES256), Refusal.HEADER),
    "header that is no JSON": (raw_token(b"{'alg': 'ES256'}", b"{}", ES256), Refusal.HEADER),
    "header with a byte order mark": (raw_token(b'\xef\xbb\xbf{"alg":"ES256"}', b"{}", ES256), Refusal.HEADER),
    "header nested without end": (raw_token(b"[" * 4000, b"{}", ES256), Refusal.HEADER),
    "truncated": (GOOD[:-10], Refusal.SIGNATURE),
    "cut to two parts": (f"{_HEAD}.{_BODY}", Refusal.FORM),
    "without signature": (f"{_HEAD}.{_BODY}.", Refusal.FORM),
    "five parts": (f"{GOOD}.x.y", Refusal.FORM),
    "padded": (f"{_HEAD}.{_BODY}.{_SIGNATURE}==", Refusal.FORM),
    "line end inside": (f"{_HEAD}.{_BODY[:10]}\n{_BODY[10:]}.{_SIGNATURE}", Refusal.FORM),
    "line end behind": (f"{GOOD}\n", Refusal.FORM),
    "standard alphabet": (f"{_HEAD}.{_BODY}.{'+/' * 43}", Refusal.FORM),
    "other letters that look alike": (f"{_HEAD}.{_BODY}.{_SIGNATURE[:-1]}\uff21", Refusal.FORM),
    "length that no bytes have": (f"{_HEAD}.{_BODY}.{'A' * 85}", Refusal.FORM),
    "huge": (f"{_HEAD}.{'A' * MAX_TOKEN}.{_SIGNATURE}", Refusal.FORM),
    "payload of another": (f"{_HEAD}.{encoded(json.dumps(ISSUER.claims('root')).encode())}.{_SIGNATURE}", "signature"),
    "signature in DER": (
        f"{_HEAD}.{_BODY}.{encoded(bytes.fromhex('3006020101020101'))}",
        Refusal.SIGNATURE,
    ),
    "signature of zeros": (f"{_HEAD}.{_BODY}.{encoded(bytes(64))}", Refusal.SIGNATURE),
    "empty": ("", Refusal.FORM),
    "dots": ("..", Refusal.FORM),
}


def test_the_token_that_all_others_are_made_from_is_good():
    """Otherwise they might be refused for something else."""
    assert judge(GOOD).subject == "alice"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_or_damaged_token_is_refused(name):
    """Each for the reason that it was made for."""
    token, expected = FORGED[name]
    assert refusal(token) == expected


def test_bits_that_decode_to_nothing_may_not_be_changed():
    """The last character of a signature has bits that say nothing: another one would be a second spelling."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = GOOD[:-1] + alphabet[alphabet.index(GOOD[-1]) + 1]
    padding = "=" * (-len(_SIGNATURE) % 4)
    assert base64.urlsafe_b64decode(other.split(".")[2] + padding) == base64.urlsafe_b64decode(_SIGNATURE + padding)
    assert refusal(other) == Refusal.FORM


CLAIMS = {
    "another issuer": ({"iss": "https://evil.example"}, Refusal.ISSUER),
    "issuer with a slash more": ({"iss": f"{ISSUER.issuer}/"}, Refusal.ISSUER),
    "issuer in other letters": ({"iss": ISSUER.issuer.upper()}, Refusal.ISSUER),
    "issuer in a list": ({"iss": [ISSUER.issuer]}, Refusal.ISSUER),
    "no issuer": ({"iss": None}, Refusal.ISSUER),
    "another audience": ({"aud": "https://other.example"}, Refusal.AUDIENCE),
    "no audience": ({"aud": None}, Refusal.AUDIENCE),
    "empty audience, as Hydra's without one": ({"aud": []}, Refusal.AUDIENCE),
    "audience that begins alike": ({"aud": [f"{AUDIENCE}.evil.example"]}, Refusal.AUDIENCE),
    "audience inside a list": ({"aud": [[AUDIENCE]]}, Refusal.AUDIENCE),
    "audience as an object": ({"aud": {AUDIENCE: True}}, Refusal.AUDIENCE),
    "audience without end": ({"aud": [AUDIENCE] * 1000}, Refusal.AUDIENCE),
    "ID token: for its client": ({"aud": [AUDIENCE, "client-1"]}, Refusal.OTHER_TOKEN),
    "ID token: nonce": ({"nonce": "n"}, Refusal.OTHER_TOKEN),
    "ID token: at_hash": ({"at_hash": "h"}, Refusal.OTHER_TOKEN),
    "logout token": ({"events": {}}, Refusal.OTHER_TOKEN),
    "no client": ({"client_id": None}, Refusal.CLIENT),
    "client that is none": ({"client_id": ""}, Refusal.CLIENT),
    "another party": ({"azp": "client-2"}, Refusal.CLIENT),
    "bound to a key": ({"cnf": {"jkt": "x"}}, Refusal.BOUND),
    "no subject": ({"sub": None}, Refusal.CLAIMS),
    "subject that is no text": ({"sub": 7}, Refusal.CLAIMS),
    "subject with a line end": ({"sub": "alice\n"}, Refusal.CLAIMS),
    "subject without end": ({"sub": "a" * 300}, Refusal.CLAIMS),
    "expired": ({"iat": _NOW - 600, "exp": _NOW - 60}, Refusal.TIME),
    "not yet valid": ({"nbf": _NOW + 120}, Refusal.TIME),
    "issued tomorrow": ({"iat": _NOW + 86_400, "exp": _NOW + 90_000}, Refusal.TIME),
    "ends before it begins": ({"iat": _NOW + 5, "exp": _NOW + 4}, Refusal.TIME),
    "for two days": ({"exp": _NOW + 172_800}, Refusal.TIME),
    "for ever": ({"exp": 9_999_999_999}, Refusal.TIME),
    "no expiry": ({"exp": None}, Refusal.CLAIMS),
    "no time of issue": ({"iat": None}, Refusal.CLAIMS),
    "expiry as text": ({"exp": str(_NOW + 300)}, Refusal.CLAIMS),
    "expiry that is true": ({"exp": True}, Refusal.CLAIMS),
    "expiry beyond all time": ({"exp": 10**400}, Refusal.CLAIMS),
    "negative time": ({"iat": -1}, Refusal.CLAIMS),
    "beginning as text": ({"nbf": "0"}, Refusal.CLAIMS),
    "scopes without end": ({"scope": " ".join(f"s{number}" for number in range(1000))}, Refusal.CLAIMS),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_signed_token_of_another_kind_is_refused(name):
    """The issuer's signature alone is not enough, by either way of asking."""
    changed, expected = CLAIMS[name]
    token = ISSUER.token("alice", key=ES256, **changed)
    assert refusal(token) == (expected if len(token) <= MAX_TOKEN else Refusal.FORM)
    with pytest.raises(AccessTokenRefusedError) as refused:
        judge_introspection({"active": True} | ISSUER.claims("alice", **changed), EXPECTED, NOW)
    assert refused.value.refusal == expected


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"alice","sub":"root"}',
        b'{"ext":{"acr":"aal1","acr":"aal2"}}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b"[]",
        b'"alice"',
        b"\xff\xfe{}",
        b"{}{}",
        b'{"a":' + b"[" * 4000,
    ],
)
def test_claims_that_can_be_read_in_two_ways_are_refused(payload):
    """Though signed: what another reader takes for the subject must be what is taken here."""
    assert refusal(raw_token({"alg": "ES256", "typ": "at+jwt", "kid": ES256.kid}, payload, ES256)) == Refusal.CLAIMS


def test_what_is_taken_can_be_narrowed_and_widened():
    """Algorithms, types and clients are configured."""
    narrow = Expected(ISSUER.issuer, AUDIENCE, frozenset({"ES384"}))
    assert refusal(GOOD, narrow) == Refusal.ALGORITHM
    assert judge(ISSUER.token("alice", key=KEYS["ES384"]), narrow).subject == "alice"
    hydra = Expected(ISSUER.issuer, AUDIENCE, frozenset(ALGORITHMS), types=frozenset({"at+jwt", "jwt"}))
    assert judge(with_header(typ="JWT"), hydra).subject == "alice"
    assert judge(with_header(typ="application/at+JWT"), hydra).subject == "alice"
    known = Expected(ISSUER.issuer, AUDIENCE, frozenset(ALGORITHMS), clients=frozenset({"client-2"}))
    assert refusal(GOOD, known) == Refusal.CLIENT
    assert judge(ISSUER.token("alice", client_id="client-2"), known).client_id == "client-2"
    bare = Expected(ISSUER.issuer, AUDIENCE, frozenset(ALGORITHMS), scope_prefix="")
    assert judge(ISSUER.token("alice", "policy:read"), bare).scopes == {"policy:read"}


@pytest.mark.parametrize(
    ("seconds", "taken"), [(-1, True), (0, True), (309.9, True), (310, False), (-10, True), (-10.1, False)]
)
def test_time_is_judged_with_the_leeway_on_both_sides_and_no_more(seconds, taken):
    """`seconds` after the token was issued, for five minutes, with ten seconds for the issuer's clock."""
    claims = ISSUER.claims("alice", iat=_NOW, exp=_NOW + 300)
    now = NOW + timedelta(seconds=seconds)
    if taken:
        assert judge_claims(claims, EXPECTED, now).subject == "alice"
    else:
        with pytest.raises(AccessTokenRefusedError):
            judge_claims(claims, EXPECTED, now)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"active": False}, Refusal.INACTIVE),
        ({"active": None}, Refusal.INACTIVE),
        ({"active": "true"}, Refusal.INACTIVE),
        ({"active": 1}, Refusal.INACTIVE),
        ({"token_use": "refresh_token"}, Refusal.OTHER_TOKEN),
        ({"token_type": "DPoP"}, Refusal.BOUND),
        ({"token_type": 1}, Refusal.BOUND),
    ],
)
def test_an_introspected_token_must_be_an_active_access_token(changed, expected):
    """Some endpoints call refresh tokens active."""
    answer = {"active": True, "token_use": "access_token", "token_type": "bearer"} | ISSUER.claims("alice")
    assert judge_introspection(answer, EXPECTED, NOW).subject == "alice"
    with pytest.raises(AccessTokenRefusedError) as refused:
        judge_introspection(answer | changed, EXPECTED, NOW)
    assert refused.value.refusal == expected


# --- keys


def listing(key: SigningKey = ES256, **changed):
    return {name: value for name, value in (key.public | changed).items() if value is not None}


@pytest.mark.parametrize(
    "bad",
    [
        listing(use="enc"),
        listing(key_ops=["sign"]),
        listing(key_ops="verify"),
        listing(kid=None),
        listing(kid=""),
        listing(kid=7),
        listing(kid="k" * 300),
        listing(alg="ES384"),
        listing(alg="HS256"),
        listing(crv="P-384"),
        listing(crv="secp256k1"),
        listing(kty="RSA"),
        listing(x="AA"),
        listing(x="not base64!"),
        listing(x=None),
        listing(y=ES256.public["x"]),
        listing(d="c2VjcmV0"),
        listing(KEYS["EdDSA"], crv="Ed448"),
        listing(KEYS["EdDSA"], x="AA"),
        listing(KEYS["RS256"], n="AQAB"),
        listing(KEYS["RS256"], e=KEYS["RS256"].public["n"]),
        listing(KEYS["RS256"], e="Ag"),
        listing(KEYS["RS256"], n="A" * 5000),
        new_key("RS256", bits=1024).public,
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "mac", "alg": "HS256"},
        "key",
        None,
        [],
    ],
)
def test_a_key_that_may_not_verify_is_left_out(bad):
    """Alone it makes no set; beside a good one it changes nothing."""
    with pytest.raises(BadKeySetError):
        key_set(bad)
    good = new_key("ES384", "good")
    assert len(key_set(bad, good.public)) == 1


def test_a_key_without_alg_serves_what_its_type_can():
    """RFC 7517 section 4.4: `alg` is optional. One with it serves that alone."""
    bare = listing(KEYS["RS256"], alg=None, use=None, key_ops=["verify"])
    keys = key_set(bare)
    for algorithm in ("RS256", "PS256"):
        token = ISSUER.token("alice", key=SigningKey(bare["kid"], algorithm, KEYS["RS256"].private))
        found = keys.find(read_header(token, EXPECTED))
        assert found is not None
        assert verified_payload(token, found)
    assert key_set(bare, algorithms=["RS256"]).find(read_header(token, EXPECTED)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[],"keys":[]}',
        b"\xff",
        b"<html></html>",
        b'{"keys":' + b"[" * 50_000,
        json.dumps({"keys": [ES256.public] * (MAX_KEYS + 1)}).encode(),
        json.dumps({"keys": [ES256.public], "more": "x" * 300_000}).encode(),
    ],
)
def test_what_is_no_set_of_keys_is_refused_whole(body):
    """Too large, too many, or not readable in one way only."""
    with pytest.raises(BadKeySetError):
        read_key_set(body, ALGORITHMS)


def test_of_two_keys_with_one_id_the_first_counts():
    """RFC 7517 section 4.5 leaves it open; a second one never replaces a first."""
    token = ISSUER.token("alice", key=STRANGER)
    found = key_set(ES256.public, STRANGER.public).find(read_header(token, EXPECTED))
    assert found is not None
    with pytest.raises(AccessTokenRefusedError):
        verified_payload(token, found)
