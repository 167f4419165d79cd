"""Security keys and passkeys: what a browser is asked, and whether its answer proves one (Web Authentication Level 3).

The library `webauthn` reads and verifies; here is what we take from it, and what we demand beside it. Nothing in an
answer is believed before it was checked, and whatever goes wrong in reading one is a refusal.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import (
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    options_to_json_dict,
    parse_attestation_object,
    parse_client_data_json,
)
from webauthn.helpers.cose import COSECRV, COSEAlgorithmIdentifier
from webauthn.helpers.decode_credential_public_key import DecodedEC2PublicKey
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AttestationFormat,
    AuthenticationCredential,
    AuthenticatorAssertionResponse,
    AuthenticatorAttestationResponse,
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    RegistrationCredential,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from authn.relying_party import RelyingParty, UserVerification

CHALLENGE_BYTES = 32
"""Section 13.4.3 asks for 16 at least."""
TIMEOUT_MILLISECONDS = 300_000
"""How long a browser waits for the person: as long as the sign-in's challenge lives (section 15.1)."""
MAX_CREDENTIAL_ID = 1023
"""Bytes (section 4, "credential ID")."""
MAX_PART = 16 << 10
"""Characters of one base64url part of an answer; those of real keys have some hundreds."""

ALGORITHMS: Sequence[COSEAlgorithmIdentifier] = (
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
)
"""EdDSA with Ed25519, ES256 with P-256, RS256 with 2,048 to 4,096 bits; the first is preferred."""
_RSA_BITS = range(2048, 4097)

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")
_UNREADABLE = (
    WebAuthnException,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What the library raises about answers that are none: it takes CBOR's types for granted."""


class WebauthnFault(StrEnum):
    """Why an answer proves nothing; for the audit and for tests, never for the one who asks."""

    UNREADABLE = "unreadable"
    NOT_VERIFIED = "not-verified"
    """Another challenge, origin, RP id, account or signature, or the person was not there."""
    CROSS_ORIGIN = "cross-origin"
    ATTESTATION = "attestation"
    ALGORITHM = "algorithm"


@dataclass(frozen=True, slots=True)
class WebauthnRefused:
    """The answer proves nothing."""

    fault: WebauthnFault


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that an account has. `public_key` is a COSE key (RFC 9052 section 7)."""

    credential_id: bytes
    public_key: bytes
    transports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made: it signs what `public_key` verifies. `sign_count` 0: it may not count at all."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asserted:
    """The key has signed the challenge; its counter is judged where the last one is stored."""

    sign_count: int
    user_verified: bool


def creation_options(
    party: RelyingParty,
    *,
    user_id: UUID,
    username: str,
    display_name: str | None,
    challenge: bytes,
    present: Iterable[KnownKey],
) -> dict[str, Any]:
    """Return what `navigator.credentials.create({publicKey: …})` is given, in JSON's form (section 5.1.9).

    Keys are discoverable where they can be, and their user handle is the account's id: so those that are made today
    could sign in without a username. A key of `present` is not taken twice.
    """
    options = generate_registration_options(
        rp_id=party.id,
        rp_name=party.name,
        user_id=user_id.bytes,
        user_name=username,
        user_display_name=display_name or username,
        challenge=challenge,
        timeout=TIMEOUT_MILLISECONDS,
        attestation=AttestationConveyancePreference.NONE,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED,
            user_verification=UserVerificationRequirement(party.user_verification.value),
        ),
        exclude_credentials=_descriptors(present),
        supported_pub_key_algs=list(ALGORITHMS),
    )
    return options_to_json_dict(options)


def request_options(party: RelyingParty, *, challenge: bytes, present: Iterable[KnownKey]) -> dict[str, Any]:
    """Return what `navigator.credentials.get({publicKey: …})` is given, in JSON's form (section 5.1.9)."""
    options = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=TIMEOUT_MILLISECONDS,
        allow_credentials=_descriptors(present),
        user_verification=UserVerificationRequirement(party.user_verification.value),
    )
    return options_to_json_dict(options)


def verify_attestation(party: RelyingParty, given: Mapping[str, Any], *, challenge: bytes) -> NewKey | WebauthnRefused:
    """Judge what `navigator.credentials.create` gave, `RegistrationResponseJSON` (section 7.1).

    No attestation is asked for, so none is read but a signature of the key itself: certificates that a client sends
    all the same would prove nothing to us, and their parsers are much code.
    """
    try:
        credential, transports = _registration(given)
        attested = parse_attestation_object(credential.response.attestation_object)
        itself = attested.fmt == AttestationFormat.PACKED and attested.att_stmt.x5c is None
        if attested.fmt != AttestationFormat.NONE and not itself:
            return WebauthnRefused(WebauthnFault.ATTESTATION)
        if _is_framed(credential.response.client_data_json):
            return WebauthnRefused(WebauthnFault.CROSS_ORIGIN)
        found = attested.auth_data.attested_credential_data
        if found is None or not _is_strong(found.credential_public_key):
            return WebauthnRefused(WebauthnFault.ALGORITHM)
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            require_user_verification=party.user_verification is UserVerification.REQUIRED,
            supported_pub_key_algs=list(ALGORITHMS),
        )
    except WebAuthnException:
        return WebauthnRefused(WebauthnFault.NOT_VERIFIED)
    except _UNREADABLE:
        return WebauthnRefused(WebauthnFault.UNREADABLE)
    if verified.credential_id != credential.raw_id or not 0 < len(verified.credential_id) <= MAX_CREDENTIAL_ID:
        return WebauthnRefused(WebauthnFault.UNREADABLE)
    return NewKey(verified.credential_id, verified.credential_public_key, verified.sign_count, transports)


def named_credential(given: Mapping[str, Any]) -> bytes | None:
    """Return the id of the key that an answer says it is of, or None when it says nothing readable."""
    try:
        return _decoded(given, "id")
    except _UNREADABLE:
        return None


def verify_assertion(
    party: RelyingParty, given: Mapping[str, Any], *, challenge: bytes, key: KnownKey, user_id: UUID
) -> Asserted | WebauthnRefused:
    """Judge what `navigator.credentials.get` gave, `AuthenticationResponseJSON` (section 7.2).

    The counter is only returned: the library would judge it before the signature, and then anybody could pretend
    that a key was copied.
    """
    try:
        credential = _assertion(given)
        if _is_framed(credential.response.client_data_json):
            return WebauthnRefused(WebauthnFault.CROSS_ORIGIN)
        if credential.raw_id != key.credential_id or credential.response.user_handle not in {None, user_id.bytes}:
            return WebauthnRefused(WebauthnFault.NOT_VERIFIED)
        verified = verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            credential_public_key=key.public_key,
            credential_current_sign_count=0,
            require_user_verification=party.user_verification is UserVerification.REQUIRED,
        )
    except WebAuthnException:
        return WebauthnRefused(WebauthnFault.NOT_VERIFIED)
    except _UNREADABLE:
        return WebauthnRefused(WebauthnFault.UNREADABLE)
    return Asserted(verified.new_sign_count, verified.user_verified)


def _descriptors(keys: Iterable[KnownKey]) -> list[PublicKeyCredentialDescriptor]:
    return [
        PublicKeyCredentialDescriptor(
            id=key.credential_id, transports=[AuthenticatorTransport(name) for name in _known(key.transports)] or None
        )
        for key in keys
    ]


def _known(transports: object) -> tuple[str, ...]:
    """Return which of what was given are transports, each once; clients may name new ones, which are left out."""
    if not isinstance(transports, list | tuple):
        return ()
    return tuple(one.value for one in AuthenticatorTransport if one.value in transports)


def _registration(given: Mapping[str, Any]) -> tuple[RegistrationCredential, tuple[str, ...]]:
    response = _response(given)
    answer = AuthenticatorAttestationResponse(
        client_data_json=_decoded(response, "clientDataJSON"),
        attestation_object=_decoded(response, "attestationObject"),
    )
    credential = RegistrationCredential(id=given["id"], raw_id=_decoded(given, "rawId"), response=answer)
    return credential, _known(response.get("transports"))


def _assertion(given: Mapping[str, Any]) -> AuthenticationCredential:
    response = _response(given)
    answer = AuthenticatorAssertionResponse(
        client_data_json=_decoded(response, "clientDataJSON"),
        authenticator_data=_decoded(response, "authenticatorData"),
        signature=_decoded(response, "signature"),
        user_handle=None if response.get("userHandle") is None else _decoded(response, "userHandle"),
    )
    return AuthenticationCredential(id=given["id"], raw_id=_decoded(given, "rawId"), response=answer)


def _response(given: Mapping[str, Any]) -> Mapping[str, Any]:
    response = given["response"]
    if given["type"] != "public-key" or given["id"] != given["rawId"] or not isinstance(response, Mapping):
        raise ValueError("no credential of a public key")
    return response


def _decoded(given: Mapping[str, Any], name: str) -> bytes:
    """Return a part's bytes; the library would overlook whatever is no base64url."""
    text = given[name]
    if not isinstance(text, str) or len(text) > MAX_PART or _BASE64URL.match(text) is None:
        raise ValueError(f"`{name}` is not base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(f"`{name}` is not base64url") from error


def _is_framed(client_data: bytes) -> bool:
    """Return whether a page of another origin has ours in a frame; the library does not look (section 13.4.9)."""
    return bool(parse_client_data_json(client_data).cross_origin)


def _is_strong(public_key: bytes) -> bool:
    """Return whether a COSE key is of a kind that we take: the library looks at `alg`, not at curve and length."""
    decoded = decode_credential_public_key(public_key)
    if decoded.alg not in ALGORITHMS:
        return False
    key = decoded_public_key_to_cryptography(decoded)
    if isinstance(decoded, DecodedEC2PublicKey):
        return decoded.alg == COSEAlgorithmIdentifier.ECDSA_SHA_256 and decoded.crv == COSECRV.P256
    if isinstance(key, RSAPublicKey):
        return decoded.alg == COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256 and key.key_size in _RSA_BITS
    return decoded.alg == COSEAlgorithmIdentifier.EDDSA
