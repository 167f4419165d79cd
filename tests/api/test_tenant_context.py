"""Which tenant a request is about, on every such route: each place that names it, alone and against the others."""

import itertools
import json
import re
from collections.abc import Iterable

import pytest

from service.all_routes import all_routes
from service.http_settings import HttpSettings
from service.refusals import QUIET_SECONDS, REMEMBERED, Refusals
from service.routes import Needs, Route
from tenancy.database import open_sessions
from tenancy.tenant import ChangeMeta
from tests.support.administration import Service
from tests.unit.test_callers import key as found_key

pytestmark = pytest.mark.integration

DOMAIN = "kasbah.example"
ROUTES = [route for route in all_routes() if isinstance(route.access, Needs) and route.access.tenant]


class Asking:
    """Requests to one route that name tenants in chosen places."""

    def __init__(self, service: Service, route: Route) -> None:
        self.service = service
        self.route = route
        self.places = ["path"] if "{tenant}" in route.label else []
        self.places += ["header", "query", "subdomain"]

    async def named(self, key: str, names: Iterable[tuple[str, str]]) -> tuple[int, bytes]:
        """Ask with names in places; without one in the path, that has the key's own."""
        given = list(names)
        own = dict(given).get("path", "acme")
        path = re.sub(r"\{\w+\}", "1", self.route.label.replace("{tenant}", own))
        query = "&".join(f"tenant={name}" for place, name in given if place == "query")
        headers = [("X-Tenant-ID", name) for place, name in given if place == "header"]
        headers += [("Host", f"{name}.{DOMAIN}") for place, name in given if place == "subdomain"]
        if key:
            headers.append(("Authorization", f"Bearer {key}"))
        url = f"{self.service.url}{path}?{query}"
        async with self.service.client.request(self.route.method, url, headers=headers) as answer:
            return answer.status, await answer.read()


async def test_what_disagrees_is_refused_on_every_route(own_database_url: str) -> None:
    """Every pair of places; another tenant's name alone; a name twice: each with equal bytes whether it exists or not."""
    async with Service(own_database_url, http=HttpSettings(base_domain=DOMAIN)).serving() as service:
        own = await service.tenant("acme")
        await service.tenant("rival")
        for route in ROUTES:
            asking = Asking(service, route)
            await another_name_alone(asking, own)
            await names_that_disagree(asking, own)


async def another_name_alone(asking: Asking, own: str) -> None:
    """403 for a key that is bound, 400 where the path has its own name; alike for all names; without a key 401."""
    alone: set[tuple[int, bytes]] = set()
    for place in asking.places:
        for name in ("rival", "nobody", "_platform", "_base"):
            found = await asking.named(own, [(place, name)])
            if "path" in asking.places and place != "path" and not asking.route.access.platform:
                assert found[0] == 400, (asking.route, place, name)
            else:
                alone.add(found)
        assert (await asking.named("", [(place, "rival")]))[0] == 401, asking.route
    assert {status for status, _ in alone} == {403}, asking.route
    assert len(alone) == 1, asking.route
    assert json.loads(alone.pop()[1])["type"].endswith("other-tenant")


async def names_that_disagree(asking: Asking, own: str) -> None:
    """400 for every pair of places and every key, with equal bytes; the same for a name that is said twice."""
    pairs: set[tuple[int, bytes]] = set()
    keys = [asking.service.platform] if asking.route.access.platform else [own, asking.service.platform]
    for one, two in itertools.combinations(asking.places, 2):
        for key in keys:
            for names in (("acme", "rival"), ("rival", "acme"), ("acme", "nobody"), ("nobody", "rival")):
                pairs.add(await asking.named(key, [(one, names[0]), (two, names[1])]))
    assert {status for status, _ in pairs} == {400}, asking.route
    assert len(pairs) == 1, asking.route
    for place in ("header", "query"):
        status, body = await asking.named(asking.service.platform, [(place, "acme"), (place, "acme"), ("path", "acme")])
        assert status == 400, asking.route
        assert b"repeated" in body


def test_routes_that_are_about_a_tenant_are_found():
    """The table above is not empty, and holds writes."""
    assert len(ROUTES) > 30
    assert {route.method for route in ROUTES} == {"GET", "POST", "PUT", "PATCH", "DELETE"}


# --- told of in the audit


async def events_of(admin: Service) -> list[dict]:
    """Return what the audit of `acme` holds of keys used across tenants, oldest first."""
    found = (await admin.get("/v1/audit?tenant=acme&action=tenant.cross_use&order=oldest")).json
    return found["events"]


async def test_a_key_that_is_used_across_tenants_is_told_of(admin: Service) -> None:
    """In its own tenant's audit, with the key and the route, once a minute whatever their number."""
    own = await admin.tenant("acme")
    await admin.tenant("rival")
    for _ in range(5):
        assert (await admin.get("/v1/tenants/rival", key=own)).status == 403
    assert (await admin.get("/v1/tenants/acme", key=own, headers={"X-Tenant-ID": "rival"})).status == 400
    (event,) = await events_of(admin)
    prefix = own.split("_")[1]
    assert (event["outcome"], event["credential"]) == ("refused", f"key:{prefix}")
    assert event["detail"] == {"route": "/v1/tenants/{tenant}", "refusal": "OtherTenant", "not_told_of": 0}
    other = await admin.tenant("acme")
    headers = {"X-Kasbah-Key": other, "X-Tenant-ID": "rival", "X-Kasbah-Subject": "alice"}
    assert (await admin.get("/v1/forward-auth", key="", headers=headers)).status == 403
    assert len(await events_of(admin)) == 2


async def test_a_minute_later_it_is_told_how_many_there_were(admin: Service) -> None:
    """And what is remembered of keys is bounded."""
    from service.caller import Caller

    await admin.tenant("acme")
    tenant_id = await admin.bootstrap.ensure_tenant("acme", "acme", meta=ChangeMeta("test"))
    now = 0.0
    refusals = Refusals(open_sessions(admin._engine), lambda: now)
    found = found_key()
    caller = Caller(found.key_id, "0badc0de", tenant_id, "acme", frozenset())
    for now in (0.0, 1.0, QUIET_SECONDS - 1, QUIET_SECONDS, QUIET_SECONDS + 1):  # noqa: B007 - the clock
        await refusals.note("tenant.cross_use", caller, ChangeMeta("key:0badc0de"), "/v1/x", ValueError())
    assert [event["detail"]["not_told_of"] for event in await events_of(admin)] == [0, 2]
    assert REMEMBERED < 100_000
    assert len(refusals._told) == 1


async def test_a_refusal_stands_without_its_audit(admin: Service, monkeypatch) -> None:
    """The audit cannot be written: nothing happened, and the answer is the same."""
    from tenancy import errors

    own = await admin.tenant("acme")

    async def fails(*_):
        raise errors.DatabaseUnavailableError("no answer")

    monkeypatch.setattr(Refusals, "_append", fails)
    assert (await admin.get("/v1/tenants/rival", key=own)).status == 403
