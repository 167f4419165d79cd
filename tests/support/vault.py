"""A small server that answers as Vault's documented transit API does, over HTTP or TLS, and can fail as Vault can.

https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

import asyncio
import base64
import contextlib
import datetime as dt
import ipaddress
import json
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID


@dataclass
class FakeVault:
    """One transit engine with the keys that were made in it."""

    token: str = "s.test-token"
    namespace: str | None = None
    mount: str = "transit"
    keys: dict[str, list[bytes]] = field(default_factory=lambda: {"kasbah": [os.urandom(32)]})
    sealed: bool = False
    hangs: bool = False
    calls: list[str] = field(default_factory=list)
    """`encrypt` and `decrypt`, as they came."""
    url: str = ""

    def rotate(self, name: str = "kasbah") -> None:
        """Make a newer version of a key, as `POST /v1/transit/keys/:name/rotate` does."""
        self.keys[name].append(os.urandom(32))

    async def answer(self, request: web.Request) -> web.Response:
        """Answer `encrypt` or `decrypt`."""
        self.calls.append(request.match_info["operation"])
        if self.hangs:
            await asyncio.Event().wait()
        if self.sealed:
            return _errors(503, "Vault is sealed")
        if request.headers.get("X-Vault-Token") != self.token:
            return _errors(403, "permission denied")
        if request.headers.get("X-Vault-Namespace") != self.namespace:
            return _errors(404, 'no handler for route "transit". route entry not found.')
        versions = self.keys.get(request.match_info["key"])
        body = await request.json()
        if request.match_info["operation"] == "encrypt":
            if versions is None:  # a token with `update` alone makes no key
                return _errors(403, "1 error occurred:\n\t* permission denied\n\n")
            return self._encrypt(versions, body)
        return _errors(400, "encryption key not found") if versions is None else self._decrypt(versions, body)

    def _encrypt(self, versions: list[bytes], body: dict[str, Any]) -> web.Response:
        try:
            plaintext = base64.b64decode(body["plaintext"], validate=True)
        except (KeyError, ValueError):
            return _errors(400, "failed to base64-decode plaintext")
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, plaintext, None)
        text = f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"
        return _data({"ciphertext": text, "key_version": len(versions)})

    def _decrypt(self, versions: list[bytes], body: dict[str, Any]) -> web.Response:
        prefix, _, rest = str(body.get("ciphertext")).partition(":v")
        version, _, encoded = rest.partition(":")
        if prefix != "vault" or not version.isdigit() or not 0 < int(version) <= len(versions):
            return _errors(400, "invalid ciphertext: no prefix")
        sealed = base64.b64decode(encoded)
        try:
            plaintext = AESGCM(versions[int(version) - 1]).decrypt(sealed[:12], sealed[12:], None)
        except InvalidTag:
            return _errors(400, "cipher: message authentication failed")
        return _data({"plaintext": base64.b64encode(plaintext).decode()})

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["FakeVault"]:
        """Serve on a free port of loopback."""
        app = web.Application()
        app.router.add_post(f"/v1/{self.mount}/{{operation:encrypt|decrypt}}/{{key}}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()


def _data(data: dict[str, Any]) -> web.Response:
    envelope = {"request_id": "0", "lease_id": "", "renewable": False, "lease_duration": 0, "data": data}
    return web.json_response(envelope | {"wrap_info": None, "warnings": None, "auth": None})


def _errors(status: int, *errors: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"errors": list(errors)}), content_type="application/json")


def self_signed(directory: Path, address: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for an address, and the file with its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / f"{address}.pem", directory / f"{address}.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return context, public
