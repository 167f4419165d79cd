"""Access tokens on two running services with one database and one issuer: what ends one ends it on both."""

import asyncio
import time

import pytest

from tests.support.issuer import AUDIENCE, Issuer, serving
from tests.support.outside_checker import PATIENCE_SECONDS
from tests.support.persons import shipped_base
from tests.support.ports import free_port
from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

SCOPE = "kasbah:decision:check kasbah:policy:read"


class Nodes:
    """Two services, asked by an issuer's tokens; each beside the loop, where the issuer answers."""

    def __init__(self, services, key: str) -> None:
        self.services = services
        self.key = key

    async def send(self, node: int, method: str, path: str, body=None, key: str | None = None, **headers):
        """Send one request to one of them, with the tenant's key or another credential."""
        request = self.services[node].request
        return await asyncio.to_thread(request, method, path, body, key=key or self.key, headers=headers)

    async def decide(self, node: int, token: str, **headers) -> int:
        """Ask for a decision; return the status."""
        body = {
            "subject": {"type": "user", "id": "somebody"},
            "action": {"name": "read"},
            "resource": {"type": "doc", "id": "1"},
        }
        return (await self.send(node, "POST", "/access/v1/evaluation", body, token, **headers)).status

    async def until(self, node: int, token: str, status: int) -> None:
        """Ask until the answer has a status."""
        began = time.monotonic()
        while await self.decide(node, token) != status:
            assert time.monotonic() - began < PATIENCE_SECONDS


def settings(issuer: Issuer) -> dict[str, str]:
    return {
        "KASBAH_OAUTH__ISSUER": issuer.issuer,
        "KASBAH_OAUTH__AUDIENCE": AUDIENCE,
        "KASBAH_OAUTH__JWKS_URL": issuer.jwks_url,
        "KASBAH_OAUTH__INTROSPECTION_URL": issuer.introspection_url,
        "KASBAH_OAUTH__INTROSPECTION_SECONDS": "0.5",
        "KASBAH_OAUTH__UNKNOWN_KEY_SECONDS": "1",
        "KASBAH_OAUTH__KEYS_FRESH_SECONDS": "1",
        "KASBAH_WORKERS": "1",
    }


async def test_what_ends_a_token_ends_it_on_both_nodes(own_database_url, start_service):
    """The account, its sign-ins, the issuer's word, and its keys; decisions and administration alike."""
    made = await seed(own_database_url, {"acme": []}, shipped_base())
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    async with serving() as issuer:
        started = [
            asyncio.to_thread(start_service, database=own_database_url, redis=nobody, **settings(issuer))
            for _ in range(2)
        ]
        nodes = Nodes(await asyncio.gather(*started), made.keys["acme"])
        user = (await nodes.send(0, "POST", "/v1/users", {"username": "carol"})).json()
        row = {"type": "link", "member": user["subject"], "role": "role:security-auditor"}
        given = await nodes.send(0, "POST", "/v1/tenants/acme/memberships", {"add": [row]})
        demanded = {"Kasbah-Min-Revision": given.headers["kasbah-revision"]}

        token, opaque = issuer.token(user["id"], SCOPE), issuer.opaque(user["id"], SCOPE)
        for node in range(2):
            for credential in (token, opaque):
                assert await nodes.decide(node, credential, **demanded) == 200
            rules = await nodes.send(node, "GET", "/v1/tenants/acme/rules", key=token)
            assert rules.status == 200, rules.body
            export = await nodes.send(node, "GET", "/v1/tenants/acme/policy/export", key=token)
            assert export.status == 200, export.body  # the bulk worker verifies it, too

        # The issuer takes an opaque token back.
        del issuer.active[opaque]
        for node in range(2):
            await nodes.until(node, opaque, 401)

        # It rotates its keys.
        old = issuer.keys[0]
        issuer.rotate()
        fresh = issuer.token(user["id"], SCOPE)
        for node in range(2):
            await nodes.until(node, fresh, 200)
            await nodes.until(node, issuer.token(user["id"], SCOPE, key=old), 401)

        # The account is disabled on one node, and enabled on the other: the token stays dead.
        disabled = await nodes.send(0, "POST", f"/v1/users/{user['id']}/disable", {"reason": "left"})
        assert disabled.status == 200
        assert await nodes.decide(0, fresh) == 401
        await nodes.until(1, fresh, 401)
        enabled = await nodes.send(1, "POST", f"/v1/users/{user['id']}/enable", {"reason": "back"})
        demanded = {"Kasbah-Min-Revision": enabled.headers["kasbah-revision"]}
        for node in range(2):
            assert await nodes.decide(node, fresh, **demanded) == 401
            assert await nodes.decide(node, issuer.token(user["id"], SCOPE, iat=int(time.time()) + 2)) == 200

        # The issuer is gone: known keys go on, what only it could say is 503.
        later = issuer.token(user["id"], SCOPE, iat=int(time.time()) + 2)
        issuer.status = 500
        for node in range(2):
            assert await nodes.decide(node, later) == 200
            assert await nodes.decide(node, issuer.opaque(user["id"], SCOPE)) == 503
        metrics = await nodes.send(0, "GET", "/metrics", key=made.platform_key)
        counted = dict(line.rsplit(" ", 1) for line in metrics.body.decode().splitlines() if line[0] != "#")
        for name in ("taken", "unknown", "refused_inactive", "refused_key", "refused_account", "refused_signed_out"):
            assert float(counted[f'kasbah_events_total{{event="access_token_{name}"}}']) > 0, name
        for service in nodes.services:
            assert later not in service.log.read_text()
            assert fresh.split(".")[2] not in service.log.read_text()
