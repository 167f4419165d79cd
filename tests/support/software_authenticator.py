"""A security key in software, with the browser around it: makes what `navigator.credentials` would give, and forgeries.

Nothing here is shared with what verifies: CBOR, COSE and signatures are made from the standards (W3C Web Authentication
Level 3 sections 5.8.1, 6.1 and 6.5; RFC 9053).
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

PRESENT, VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Return the bytes of base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Credential:
    """One key pair of an authenticator."""

    credential_id: bytes
    rp_id: str
    user_handle: bytes
    private: PrivateKey
    sign_count: int = 0


@dataclass
class SoftwareAuthenticator:
    """An authenticator and the browser that it is plugged into.

    Attributes:
        origin: The page that asks.
        algorithm: What it makes keys of, where the options allow it: ES256, EdDSA or RS256.
        counts: Whether it counts signatures; otherwise its counter stays 0, as that of most passkeys.
        verifies: Whether it asks for a PIN or a fingerprint.
        attestation: `none`, or `self`.
    """

    origin: str
    algorithm: str = "ES256"
    counts: bool = True
    verifies: bool = True
    attestation: str = "none"
    credentials: list[Credential] = field(default_factory=list)

    def create(self, options: Mapping[str, Any], **forged: Any) -> dict[str, Any]:
        """Return `RegistrationResponseJSON` for creation options; `forged` takes the place of what is true.

        `private` is the key pair that is put in; `client` are members of the client data; `rp_id`, `flags` and
        `attestation_object` are theirs.
        """
        known = {descriptor["id"] for descriptor in options["excludeCredentials"]}
        if known & {b64(held.credential_id) for held in self.credentials}:
            raise ValueError("InvalidStateError: the authenticator has a key for this account")
        private = forged.get("private") or new_private_key(self.algorithm)
        credential = Credential(
            forged.get("credential_id") or secrets.token_bytes(32),
            forged.get("rp_id") or options["rp"]["id"],
            unb64(options["user"]["id"]),
            private,
        )
        self.credentials.append(credential)
        cose = forged.get("cose") or cose_key(private)
        attested = (
            bytes(16) + len(credential.credential_id).to_bytes(2, "big") + credential.credential_id + cbor2.dumps(cose)
        )
        data = self._authenticator_data(credential, forged.get("flags", self._flags() | ATTESTED)) + attested
        client = self._client_data("webauthn.create", options["challenge"], forged.get("client", {}))
        statement: dict[str, Any] = {}
        if self.attestation == "self":
            statement = {"alg": cose[3], "sig": sign(private, data + hashlib.sha256(client).digest())}
        statement |= forged.get("statement", {})
        name = forged.get("fmt") or ("packed" if self.attestation == "self" else "none")
        whole = cbor2.dumps({"fmt": name, "attStmt": statement, "authData": data})
        response = {
            "clientDataJSON": b64(client),
            "attestationObject": b64(forged.get("attestation_object", whole)),
            "transports": forged.get("transports", ["usb", "nfc"]),
            "publicKeyAlgorithm": cose[3],
        }
        return self._public_key(credential, response)

    def get(self, options: Mapping[str, Any], **forged: Any) -> dict[str, Any]:
        """Return `AuthenticationResponseJSON` for request options; `forged` takes the place of what is true.

        `credential` is the one that signs, `sign_count` what it says to have counted; `client` are members of the
        client data; `rp_id`, `flags`, `signature` and `user_handle` are theirs.
        """
        allowed = {descriptor["id"] for descriptor in options.get("allowCredentials", [])}
        credential = forged.get("credential") or next(
            held for held in self.credentials if held.rp_id == options["rpId"] and b64(held.credential_id) in allowed
        )
        if self.counts:
            credential.sign_count += 1
        data = self._authenticator_data(credential, forged.get("flags", self._flags()), **_only(forged))
        client = self._client_data("webauthn.get", options["challenge"], forged.get("client", {}))
        signature = forged.get("signature") or sign(credential.private, data + hashlib.sha256(client).digest())
        handle = forged.get("user_handle", credential.user_handle)
        response = {
            "clientDataJSON": b64(client),
            "authenticatorData": b64(data),
            "signature": b64(signature),
            "userHandle": None if handle is None else b64(handle),
        }
        return self._public_key(credential, response)

    def _flags(self) -> int:
        return PRESENT | (VERIFIED if self.verifies else 0)

    def _client_data(self, kind: str, challenge: str, forged: Mapping[str, Any]) -> bytes:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(said | dict(forged)).encode()

    def _authenticator_data(
        self, credential: Credential, flags: int, *, rp_id: str | None = None, sign_count: int | None = None
    ) -> bytes:
        count = credential.sign_count if sign_count is None else sign_count
        scope = hashlib.sha256((rp_id or credential.rp_id).encode()).digest()
        return scope + bytes([flags]) + count.to_bytes(4, "big")

    @staticmethod
    def _public_key(credential: Credential, response: dict[str, Any]) -> dict[str, Any]:
        name = b64(credential.credential_id)
        return {
            "id": name,
            "rawId": name,
            "type": "public-key",
            "authenticatorAttachment": "cross-platform",
            "clientExtensionResults": {},
            "response": response,
        }


def _only(forged: Mapping[str, Any]) -> dict[str, Any]:
    return {name: forged[name] for name in ("rp_id", "sign_count") if name in forged}


def new_private_key(algorithm: str) -> PrivateKey:
    """Return a fresh key pair."""
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case _:
            raise ValueError(algorithm)


def cose_key(private: PrivateKey) -> dict[int, Any]:
    """Return the public half as a COSE key (RFC 9053 section 7, RFC 8230 section 4)."""
    match private.public_key():
        case ec.EllipticCurvePublicKey() as public:
            size = (public.curve.key_size + 7) // 8
            numbers = public.public_numbers()
            curve = {256: 1, 384: 2, 521: 3}[public.curve.key_size]
            return {1: 2, 3: -7, -1: curve, -2: numbers.x.to_bytes(size, "big"), -3: numbers.y.to_bytes(size, "big")}
        case ed25519.Ed25519PublicKey() as public:
            return {1: 1, 3: -8, -1: 6, -2: public.public_bytes_raw()}
        case rsa.RSAPublicKey() as public:
            modulus = public.public_numbers()
            size = (public.key_size + 7) // 8
            return {1: 3, 3: -257, -1: modulus.n.to_bytes(size, "big"), -2: modulus.e.to_bytes(3, "big")}


def sign(private: PrivateKey, data: bytes) -> bytes:
    """Return a signature of the key's algorithm, as authenticators make them (section 6.5.5)."""
    match private:
        case ec.EllipticCurvePrivateKey():
            return private.sign(data, ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PrivateKey():
            return private.sign(data)
        case rsa.RSAPrivateKey():
            return private.sign(data, padding.PKCS1v15(), hashes.SHA256())
