"""The issuer over HTTP: what is sent, and an issuer that is slow, dead, huge, or not the one that was meant."""

import asyncio
import base64
import contextlib
import socket

import pytest
from aiohttp import web

from authn.errors import IssuerUnavailableError
from authn.jwks import MAX_KEY_SET_BYTES
from service.issuer_client import FAILURES, IssuerClient
from service.oauth_settings import OAuthSettings
from tests.support.issuer import AUDIENCE, INTROSPECTION, PATH, Issuer, serving
from tests.support.vault import self_signed


def settings(issuer: Issuer, **more) -> OAuthSettings:
    known = {"jwks_url": issuer.jwks_url, "introspection_url": issuer.introspection_url, "timeout_seconds": 0.3}
    return OAuthSettings(issuer=issuer.issuer, audience=AUDIENCE, **(known | more))


async def asked(found: OAuthSettings, what: str) -> bytes:
    """Ask once, with a client of its own."""
    client = IssuerClient(found)
    try:
        return await (client.fetch_keys() if what == "keys" else client.introspect("token"))
    finally:
        await client.close()


async def failure(found: OAuthSettings, what: str) -> str:
    with pytest.raises(IssuerUnavailableError) as failed:
        async with asyncio.timeout(30):  # the test ends, also when the client does not
            await asked(found, what)
    return str(failed.value)


async def test_keys_come_as_they_are_published():
    """By a plain GET."""
    async with serving() as issuer:
        assert issuer.keys[0].kid.encode() in await asked(settings(issuer), "keys")
        assert issuer.fetches == 1


async def test_a_token_is_sent_as_rfc_7662_has_it():
    """A form with the token and what it is thought to be."""
    async with serving() as issuer:
        assert await asked(settings(issuer), "token") == b'{"active": false}'
        assert issuer.questions == [{"token": "token", "token_type_hint": "access_token"}]


@pytest.mark.parametrize(
    ("credential", "header"),
    [
        ({}, None),
        ({"introspection_token": "t0ken"}, "Bearer t0ken"),
        (
            {"introspection_client_id": "kasbah:1", "introspection_client_secret": "s c/ü"},
            "Basic " + base64.b64encode(b"kasbah%3A1:s+c%2F%C3%BC").decode(),
        ),
    ],
)
async def test_kasbah_authenticates_itself(credential, header):
    """RFC 6749 section 2.3.1 encodes name and secret first; a wrong credential is an outage, not a refused token."""
    async with serving() as issuer:
        issuer.credentials = header
        assert await asked(settings(issuer, **credential), "token") == b'{"active": false}'
        issuer.credentials = "Basic other"
        assert "401" in await failure(settings(issuer, **credential), "token")


@pytest.mark.parametrize("what", ["keys", "token"])
async def test_an_issuer_that_hangs_is_waited_for_no_longer_than_set(what):
    """It took the connection and says nothing."""
    async with serving() as issuer:
        issuer.hangs = True
        assert "TimeoutError" in await failure(settings(issuer), what)


@pytest.mark.parametrize("what", ["keys", "token"])
async def test_an_issuer_that_drips_is_waited_for_no_longer_than_set(what):
    """Each byte comes in time, and the answer never ends."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    async with serving_by(drip) as issuer:
        assert "TimeoutError" in await failure(settings(issuer), what)


@pytest.mark.parametrize("what", ["keys", "token"])
async def test_an_answer_without_end_is_cut(what):
    """Read to its bound and not further."""
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" " * 65_536)
            sent += 65_536
        return response

    async with serving_by(flood) as issuer:
        assert "too large" in await failure(settings(issuer, timeout_seconds=2.0), what)
    assert sent < 40 * MAX_KEY_SET_BYTES


@pytest.mark.parametrize("what", ["keys", "token"])
@pytest.mark.parametrize("status", [204, 301, 302, 307, 400, 404, 500, 503])
async def test_only_a_200_counts_and_no_redirect_is_followed(what, status):
    """Whoever may redirect could else name the keys, or be sent the token."""
    async with serving() as other, serving() as issuer:
        issuer.status = status
        issuer.headers = {"Location": other.jwks_url}
        assert str(status) in await failure(settings(issuer), what)
        assert (other.fetches, other.questions) == (0, [])


@pytest.mark.parametrize("what", ["keys", "token"])
async def test_a_dead_issuer_is_an_outage(what):
    """Nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        dead = Issuer(url=f"http://127.0.0.1:{reserved.getsockname()[1]}")
        assert "did not answer" in await failure(settings(dead), what)


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(tmp_path):
    """TLS with another name or authority is no issuer."""
    context, certificate = self_signed(tmp_path)
    issuer = Issuer()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        issuer.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert "Certificate" in await failure(settings(issuer), "keys")
        trusting = await failure(settings(issuer, ca_file=certificate), "keys")
        assert "Certificate" not in trusting


async def test_an_endpoint_that_keeps_failing_is_left_alone():
    """After three failures a token is refused without a question; an answer opens the way again."""
    async with serving() as issuer:
        client = IssuerClient(settings(issuer))
        try:
            issuer.status = 500
            for _ in range(FAILURES + 5):
                with pytest.raises(IssuerUnavailableError):
                    await client.introspect("token")
            assert len(issuer.questions) == FAILURES
            issuer.status = 200
            client._breaker._closed_at = 0.0  # the pause is over
            assert await client.introspect("token") == b'{"active": false}'
            assert await client.introspect("token") == b'{"active": false}'
        finally:
            await client.close()


@contextlib.asynccontextmanager
async def serving_by(handler):
    """Serve every path of an issuer by one handler."""
    app = web.Application()
    app.router.add_get(PATH, handler)
    app.router.add_post(INTROSPECTION, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Issuer(url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
