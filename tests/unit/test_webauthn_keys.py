"""Security keys: what is asked of a browser, which answers prove a key, and which forgeries do not."""

import base64
import json
import secrets
import uuid
from dataclasses import replace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from authn.relying_party import RelyingParty, UserVerification
from authn.webauthn_keys import (
    Asserted,
    KnownKey,
    NewKey,
    WebauthnFault,
    WebauthnRefused,
    creation_options,
    named_credential,
    request_options,
    verify_assertion,
    verify_attestation,
)
from tests.support.software_authenticator import (
    ATTESTED,
    BACKED_UP,
    PRESENT,
    VERIFIED,
    SoftwareAuthenticator,
    b64,
    cose_key,
    new_private_key,
    sign,
    unb64,
)

ORIGIN = "https://login.kasbah.example"
PARTY = RelyingParty("kasbah.example", "Kasbah", (ORIGIN, "https://app.kasbah.example:8443"))
ALICE = uuid.UUID("018f0000-0000-7000-8000-000000000001")
CHALLENGE = secrets.token_bytes(32)


def asked(party: RelyingParty = PARTY, present=(), challenge: bytes = CHALLENGE):
    return creation_options(
        party, user_id=ALICE, username="alice", display_name=None, challenge=challenge, present=present
    )


def registered(key: SoftwareAuthenticator, party: RelyingParty = PARTY) -> KnownKey:
    """A key that was made for alice."""
    made = verify_attestation(party, key.create(asked(party)), challenge=CHALLENGE)
    assert isinstance(made, NewKey)
    return KnownKey(made.credential_id, made.public_key, made.transports)


def judged(answer, known: KnownKey, party: RelyingParty = PARTY, user_id=ALICE, challenge: bytes = CHALLENGE):
    return verify_assertion(party, answer, challenge=challenge, key=known, user_id=user_id)


def options(known: KnownKey, party: RelyingParty = PARTY, challenge: bytes = CHALLENGE):
    return request_options(party, challenge=challenge, present=[known])


def fault(outcome) -> WebauthnFault:
    assert isinstance(outcome, WebauthnRefused), outcome
    return outcome.fault


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
@pytest.mark.parametrize("attestation", ["none", "self"])
def test_a_key_is_made_and_proves_itself(algorithm, attestation):
    """All three algorithms, with no attestation and with a key's own signature."""
    key = SoftwareAuthenticator(ORIGIN, algorithm=algorithm, attestation=attestation)
    known = registered(key)
    assert known.transports == ("usb", "nfc")
    assert judged(key.get(options(known)), known) == Asserted(1, True)
    assert judged(key.get(options(known)), known) == Asserted(2, True)


def test_options_for_a_new_key_say_what_we_want():
    """The account's id as the user handle, three algorithms, no attestation, a discoverable key where there can be one."""
    held = KnownKey(b"present", b"", ("usb", "a-transport-of-tomorrow"))
    found = asked(present=[held])
    assert found["rp"] == {"id": "kasbah.example", "name": "Kasbah"}
    assert unb64(found["user"]["id"]) == ALICE.bytes
    assert unb64(found["challenge"]) == CHALLENGE
    assert [one["alg"] for one in found["pubKeyCredParams"]] == [-8, -7, -257]
    assert found["attestation"] == "none"
    assert found["authenticatorSelection"] == {
        "residentKey": "preferred",
        "requireResidentKey": False,
        "userVerification": "preferred",
    }
    assert found["excludeCredentials"] == [{"id": b64(b"present"), "type": "public-key", "transports": ["usb"]}]
    json.dumps(found)


def test_options_for_a_sign_in_name_the_accounts_keys():
    """And nothing of another's."""
    found = options(KnownKey(b"present", b"", ("internal",)))
    assert found["rpId"] == "kasbah.example"
    assert found["allowCredentials"] == [{"id": b64(b"present"), "type": "public-key", "transports": ["internal"]}]
    assert found["userVerification"] == "preferred"
    assert unb64(found["challenge"]) == CHALLENGE


def test_each_origin_of_the_deployment_may_ask():
    """Compared whole, with its port."""
    key = SoftwareAuthenticator("https://app.kasbah.example:8443")
    known = registered(key)
    assert isinstance(judged(key.get(options(known)), known), Asserted)


@pytest.mark.parametrize(
    "forged",
    [
        {"client": {"origin": "https://evil.example"}},
        {"client": {"origin": "https://login.kasbah.example:444"}},
        {"client": {"origin": "http://login.kasbah.example"}},
        {"client": {"origin": "https://login.kasbah.example.evil.example"}},
        {"client": {"origin": ["https://login.kasbah.example"]}},
        {"client": {"type": "webauthn.get"}},
        {"client": {"challenge": b64(bytes(32))}},
        {"rp_id": "evil.example"},
        {"flags": VERIFIED | ATTESTED},
        {"flags": PRESENT | VERIFIED},
        {"flags": PRESENT | BACKED_UP | ATTESTED},
    ],
    ids=str,
)
def test_a_key_that_was_made_elsewhere_is_refused(forged):
    """Another page, ceremony, challenge or RP id; nobody there; no key in it; impossible flags."""
    key = SoftwareAuthenticator(ORIGIN)
    outcome = verify_attestation(PARTY, key.create(asked(), **forged), challenge=CHALLENGE)
    assert fault(outcome) in {WebauthnFault.NOT_VERIFIED, WebauthnFault.UNREADABLE, WebauthnFault.ALGORITHM}


@pytest.mark.parametrize(
    "forged",
    [
        {"client": {"origin": "https://evil.example"}},
        {"client": {"type": "webauthn.create"}},
        {"client": {"challenge": b64(bytes(32))}},
        {"rp_id": "evil.example"},
        {"flags": VERIFIED},
        {"flags": PRESENT | BACKED_UP},
        {"signature": bytes(64)},
        {"user_handle": bytes(16)},
    ],
    ids=str,
)
def test_an_assertion_from_elsewhere_proves_nothing(forged):
    """Another page, ceremony, challenge, RP id, account or signature; nobody there."""
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key)
    assert fault(judged(key.get(options(known), **forged), known)) is WebauthnFault.NOT_VERIFIED


def test_a_page_in_a_frame_of_another_site_proves_nothing():
    """`crossOrigin` says so, at registration and at sign-in."""
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key)
    framed = {"client": {"crossOrigin": True}}
    assert fault(judged(key.get(options(known), **framed), known)) is WebauthnFault.CROSS_ORIGIN
    made = verify_attestation(PARTY, SoftwareAuthenticator(ORIGIN).create(asked(), **framed), challenge=CHALLENGE)
    assert fault(made) is WebauthnFault.CROSS_ORIGIN


def test_another_accounts_key_proves_nothing():
    """Neither its signature under our key's id, nor our key for another account."""
    mine, theirs = SoftwareAuthenticator(ORIGIN), SoftwareAuthenticator(ORIGIN)
    known, other = registered(mine), registered(theirs)
    answer = theirs.get(options(other))
    assert fault(judged(answer, known)) is WebauthnFault.NOT_VERIFIED
    renamed = answer | {"id": b64(known.credential_id), "rawId": b64(known.credential_id)}
    assert fault(judged(renamed, known)) is WebauthnFault.NOT_VERIFIED
    assert fault(judged(mine.get(options(known)), known, user_id=uuid.UUID(int=7))) is WebauthnFault.NOT_VERIFIED


def test_an_assertion_counts_for_its_challenge_alone():
    """What was signed for one sign-in is worth nothing in another."""
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key)
    answer = key.get(options(known))
    assert fault(judged(answer, known, challenge=secrets.token_bytes(32))) is WebauthnFault.NOT_VERIFIED


def test_user_verification_is_asked_for_and_demanded_where_it_is_required():
    """A touch alone is then no proof, and makes no key."""
    strict = replace(PARTY, user_verification=UserVerification.REQUIRED)
    touched = SoftwareAuthenticator(ORIGIN, verifies=False)
    assert asked(strict)["authenticatorSelection"]["userVerification"] == "required"
    assert fault(verify_attestation(strict, touched.create(asked(strict)), challenge=CHALLENGE))
    known = registered(SoftwareAuthenticator(ORIGIN, verifies=False))
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key, strict)
    assert options(known, strict)["userVerification"] == "required"
    assert isinstance(judged(key.get(options(known, strict)), known, strict), Asserted)
    key.verifies = False
    assert fault(judged(key.get(options(known, strict)), known, strict)) is WebauthnFault.NOT_VERIFIED
    assert judged(key.get(options(known)), known) == Asserted(3, False)


def wrong_curve():
    private = ec.generate_private_key(ec.SECP384R1())
    return {"private": private, "cose": cose_key(private)}


def weak_rsa():
    private = rsa.generate_private_key(65537, 1024)
    return {"private": private, "cose": cose_key(private)}


def another_algorithm(alg: int):
    private = new_private_key("ES256")
    return {"private": private, "cose": cose_key(private) | {3: alg}}


def huge_rsa():
    return {"cose": {1: 3, 3: -257, -1: b"\xff" * 1024, -2: b"\x01\x00\x01"}}


@pytest.mark.parametrize(
    "forged",
    [
        wrong_curve(),
        weak_rsa(),
        huge_rsa(),
        another_algorithm(-36),
        another_algorithm(-8),
        another_algorithm(-65535),
        another_algorithm(-37),
        {"cose": {1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)}},
        {"cose": {1: 2, 3: -7, -1: 1, -2: "x", -3: "y"}},
        {"cose": {1: 2, 3: -7}},
        {"cose": {1: 1, 3: -8, -1: 6, -2: b"short"}},
        {"cose": {1: 4, 3: -7}},
        {"cose": {1: [], 3: -7}},
    ],
    ids=lambda forged: str({name: value for name, value in forged["cose"].items() if isinstance(value, int)}),
)
def test_a_key_of_another_kind_is_refused(forged):
    """Other curves, short and endless moduli, algorithms that do not fit the key, points that are on no curve."""
    outcome = verify_attestation(PARTY, SoftwareAuthenticator(ORIGIN).create(asked(), **forged), challenge=CHALLENGE)
    assert fault(outcome) in {WebauthnFault.ALGORITHM, WebauthnFault.UNREADABLE, WebauthnFault.NOT_VERIFIED}


@pytest.mark.parametrize("fmt", ["fido-u2f", "tpm", "android-key", "android-safetynet", "apple", "compound", "", 7])
def test_certificates_are_not_even_read(fmt):
    """None was asked for; a client that sends one all the same is refused before its parser runs."""
    key = SoftwareAuthenticator(ORIGIN)
    outcome = verify_attestation(
        PARTY, key.create(asked(), fmt=fmt or "x", statement={"x5c": [b"no"]}), challenge=CHALLENGE
    )
    assert fault(outcome) is WebauthnFault.ATTESTATION
    packed = key.create(asked(), fmt="packed", statement={"x5c": [b"no"], "sig": b"", "alg": -7})
    assert fault(verify_attestation(PARTY, packed, challenge=CHALLENGE)) is WebauthnFault.ATTESTATION


def test_a_self_attestation_must_be_the_keys_own():
    """A statement that another key has signed is no statement."""
    key, other = SoftwareAuthenticator(ORIGIN, attestation="self"), new_private_key("ES256")
    forged = key.create(asked(), statement={"sig": sign(other, b"something")})
    assert fault(verify_attestation(PARTY, forged, challenge=CHALLENGE)) is WebauthnFault.NOT_VERIFIED


def test_a_browser_takes_no_key_twice():
    """`excludeCredentials` is what tells it."""
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key)
    with pytest.raises(ValueError, match="InvalidStateError"):
        key.create(asked(present=[known]))


@pytest.mark.parametrize("size", [0, 1024])
def test_the_id_of_a_key_has_its_bounds(size):
    """At least one byte, at most 1,023."""
    key = SoftwareAuthenticator(ORIGIN)
    answer = key.create(asked(), credential_id=bytes(size) or None)
    if size == 0:
        answer["id"] = answer["rawId"] = ""
    assert isinstance(verify_attestation(PARTY, answer, challenge=CHALLENGE), WebauthnRefused)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "AAAA"},
        {"id": 7},
        {"type": "password"},
        {"response": None},
        {"response": []},
        {"rawId": None},
    ],
    ids=str,
)
def test_an_answer_of_another_shape_is_refused(change):
    """Parts that are missing, of another type, or that disagree."""
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key)
    assert fault(judged(key.get(options(known)) | change, known)) is WebauthnFault.UNREADABLE
    made = SoftwareAuthenticator(ORIGIN).create(asked()) | change
    assert fault(verify_attestation(PARTY, made, challenge=CHALLENGE)) is WebauthnFault.UNREADABLE
    for name in change:
        without = {member: value for member, value in made.items() if member != name}
        assert fault(verify_attestation(PARTY, without, challenge=CHALLENGE)) is WebauthnFault.UNREADABLE


@pytest.mark.parametrize("text", ["ab=d", "a b", "a", "ä", "A" * (16 << 10) + "A", "a\n", "+/+/"])
def test_only_base64url_is_read(text):
    """What other decoders would overlook is not overlooked."""
    key = SoftwareAuthenticator(ORIGIN)
    known = registered(key)
    answer = key.get(options(known))
    for name in ("clientDataJSON", "authenticatorData", "signature", "userHandle"):
        forged = answer | {"response": answer["response"] | {name: text}}
        assert fault(judged(forged, known)) is WebauthnFault.UNREADABLE
    assert named_credential({"id": text}) is None


def test_the_key_that_an_answer_names_is_found_without_trusting_it():
    """It is how the row is found that then must have signed."""
    assert named_credential({"id": b64(b"present")}) == b"present"
    assert named_credential({}) is None
    assert named_credential({"id": ["x"]}) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.text(max_size=8) | st.binary(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(-4, 4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(cose=values, fmt=values, statement=values, auth=st.none() | st.binary(max_size=120))
def test_no_attestation_object_stops_the_service(cose, fmt, statement, auth):
    """Whatever CBOR a client makes is a refusal, never a failure of ours."""
    key = SoftwareAuthenticator(ORIGIN)
    answer = key.create(asked())
    whole = cbor2.loads(unb64(answer["response"]["attestationObject"]))
    plain = whole["authData"][: 37 + 18 + 32]
    whole |= {
        "fmt": fmt or "none",
        "attStmt": statement,
        "authData": plain + cbor2.dumps(cose) if auth is None else auth,
    }
    response = answer["response"] | {"attestationObject": b64(cbor2.dumps(whole))}
    assert isinstance(verify_attestation(PARTY, answer | {"response": response}, challenge=CHALLENGE), WebauthnRefused)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_changed_byte_is_no_proof(data):
    """Of what was signed, of the signature, of what the browser said."""
    key = SoftwareAuthenticator(ORIGIN, algorithm="EdDSA")
    known = registered(key)
    answer = key.get(options(known))
    name = data.draw(st.sampled_from(["clientDataJSON", "authenticatorData", "signature"]))
    changed = bytearray(unb64(answer["response"][name]))
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    forged = answer | {"response": answer["response"] | {name: b64(bytes(changed))}}
    assert isinstance(judged(forged, known), WebauthnRefused)


def test_a_deep_attestation_object_is_refused():
    """Nesting that would end the interpreter's stack."""
    answer = SoftwareAuthenticator(ORIGIN).create(asked())
    deep = base64.urlsafe_b64encode(b"\x81" * 11_000).rstrip(b"=").decode()
    response = answer["response"] | {"attestationObject": deep}
    assert isinstance(verify_attestation(PARTY, answer | {"response": response}, challenge=CHALLENGE), WebauthnRefused)


@pytest.mark.parametrize("given", ["usb", {"usb": 1}, None, 7])
def test_transports_that_are_no_list_are_none(given):
    """They are a hint; a key is made without them."""
    key = SoftwareAuthenticator(ORIGIN)
    answer = key.create(asked())
    answer["response"]["transports"] = given
    made = verify_attestation(PARTY, answer, challenge=CHALLENGE)
    assert isinstance(made, NewKey)
    assert made.transports == ()
