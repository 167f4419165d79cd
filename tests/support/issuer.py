"""A small issuer of access tokens: an aiohttp server with keys that rotate, introspection, and every way to fail."""

import asyncio
import base64
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "https://kasbah.example"
PATH = "/.well-known/jwks.json"
INTROSPECTION = "/oauth2/introspect"


@dataclass
class SigningKey:
    """A key of the issuer, as it signs and as it is published."""

    kid: str
    algorithm: str
    private: Any

    @property
    def public(self) -> dict[str, Any]:
        """The entry of a JWK Set."""
        made = jwt.algorithms.get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**made, "kid": self.kid, "alg": self.algorithm, "use": "sig"}


def new_key(algorithm: str = "ES256", kid: str | None = None, *, bits: int = 2048) -> SigningKey:
    """Make a key."""
    private: Any
    match algorithm:
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            private = ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        case _:
            private = rsa.generate_private_key(65537, bits)
    return SigningKey(kid or f"key-{uuid4().hex[:8]}", algorithm, private)


@dataclass
class Issuer:
    """What it publishes and says. `fetches` and `questions` count what it was asked."""

    keys: list[SigningKey] = field(default_factory=lambda: [new_key()])
    url: str = "https://issuer.example"
    issuer: str = "https://issuer.example"
    body: bytes | None = None
    """Published instead of the keys."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What introspection says of tokens, by token; of others that they are not active."""
    credentials: str | None = None
    """The `Authorization` that introspection wants."""
    now: Callable[[], float] = time.time
    fetches: int = 0
    questions: list[dict[str, str]] = field(default_factory=list)

    @property
    def jwks_url(self) -> str:
        """Where the keys are."""
        return f"{self.url}{PATH}"

    @property
    def introspection_url(self) -> str:
        """Where tokens are asked about."""
        return f"{self.url}{INTROSPECTION}"

    def rotate(self, algorithm: str = "ES256", *, keep: bool = False) -> SigningKey:
        """Sign with a new key; without `keep` the old ones are published no more."""
        key = new_key(algorithm)
        self.keys = [key, *(self.keys if keep else [])]
        return key

    def claims(self, subject: str, scope: str = "", **changed: Any) -> dict[str, Any]:
        """Return the claims of a good token; a change to None leaves one out."""
        now = int(self.now())
        claims = {
            "iss": self.issuer,
            "aud": [AUDIENCE],
            "sub": subject,
            "client_id": "client-1",
            "iat": now,
            "exp": now + 300,
            "jti": uuid4().hex,
            "scope": scope,
        } | changed
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        subject: str,
        scope: str = "",
        *,
        key: SigningKey | None = None,
        header: Mapping[str, Any] | None = None,
        **changed: Any,
    ) -> str:
        """Return a signed token."""
        return self.sign(self.claims(subject, scope, **changed), key=key, header=header)

    def sign(
        self, claims: dict[str, Any], *, key: SigningKey | None = None, header: Mapping[str, Any] | None = None
    ) -> str:
        """Return a token with exactly these claims."""
        signing = key or self.keys[0]
        return raw_token(
            {"alg": signing.algorithm, "typ": "at+jwt", "kid": signing.kid} | dict(header or {}),
            json.dumps(claims).encode(),
            signing,
        )

    def opaque(self, subject: str, scope: str = "", **changed: Any) -> str:
        """Return a token that only introspection can read, as Ory Hydra's are."""
        token = f"ory_at_{uuid4().hex}.{uuid4().hex}"
        self.active[token] = {"active": True, "token_type": "Bearer", "token_use": "access_token"} | self.claims(
            subject, scope, **changed
        )
        return token

    async def publish(self, request: web.Request) -> web.Response:
        """Answer with the keys, or however it fails."""
        self.fetches += 1
        if self.hangs:
            await asyncio.Event().wait()
        body = self.body
        if body is None:
            body = json.dumps({"keys": [key.public for key in self.keys]}).encode()
        return web.Response(status=self.status, body=body, headers=self.headers, content_type="application/json")

    async def introspect(self, request: web.Request) -> web.Response:
        """Answer about a token."""
        form = await request.post()
        self.questions.append({name: str(value) for name, value in form.items()})
        if self.hangs:
            await asyncio.Event().wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if self.credentials is not None and request.headers.get("Authorization") != self.credentials:
            return web.Response(status=401)
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json")
        return web.json_response(self.active.get(str(form.get("token")), {"active": False}))


def encoded(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: Mapping[str, Any] | bytes, payload: bytes, key: SigningKey) -> str:
    """Sign a header and a payload as they are, whatever they say."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signed = f"{encoded(head)}.{encoded(payload)}"
    algorithm = jwt.algorithms.get_default_algorithms()[key.algorithm]
    return f"{signed}.{encoded(algorithm.sign(signed.encode(), key.private))}"


@contextlib.asynccontextmanager
async def serving(issuer: Issuer | None = None, *, port: int = 0) -> AsyncIterator[Issuer]:
    """Serve an issuer on loopback, under its own URL as its name."""
    served = issuer or Issuer()
    app = web.Application()
    app.router.add_get(PATH, served.publish)
    app.router.add_post(INTROSPECTION, served.introspect)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    served.url = served.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield served
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def serving_beside() -> Iterator[Issuer]:
    """Serve an issuer in a thread of its own, for tests that wait for processes; its values may be set from outside."""
    made: Future[Issuer] = Future()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with serving() as issuer:
            made.set_result(issuer)
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        yield made.result(30)
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(30)
        loop.close()
