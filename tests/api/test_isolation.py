"""Every operation of `docs/openapi.yaml`, asked with another tenant's names and ids, by a service and by a person.

Also with row-level security alone, with the application's filters alone, and with neither: then it must leak, or the
check would find nothing anywhere.
"""

import io
from collections.abc import AsyncIterator

import psycopg
import pytest

from authn.api_keys import SCOPES
from service.http_settings import HttpSettings
from service.isolation_cases import (
    Case,
    Operation,
    Question,
    Reply,
    Side,
    cases_of,
    fault_of,
    operations_of,
)
from service.isolation_check import Report, as_json, check, described, make_sides, shown, variables_of
from service.isolation_objects import NoMakerError, nobodys, side_of
from service.openapi import read_openapi
from tests.support.administration import Service
from tests.support.bare_statements import bare_statements
from tests.support.persons import People

pytestmark = pytest.mark.integration

BASE_DOMAIN = "kasbah.example"


class World:
    """Two tenants with objects, and who asks."""

    def __init__(self, service: Service, database_url: str) -> None:
        self.service = service
        self.database_url = database_url

    async def send(self, question: Question) -> Reply:
        reply = await self._send(question)
        if reply.status == 429:
            # One address asks all of this within seconds; what it is throttled for is forgotten.
            with psycopg.connect(self.database_url, autocommit=True) as owner:
                owner.execute("DELETE FROM throttles")
            reply = await self._send(question)
        return reply

    async def _send(self, question: Question) -> Reply:
        body = None if question.body is None else io.BytesIO(question.body)
        url = self.service.url + question.target
        async with self.service.client.request(question.method, url, data=body, headers=question.headers) as answer:
            return Reply(answer.status, dict(answer.headers), await answer.read())

    async def prepared(self) -> "World":
        keys = {slug: await self.service.tenant(slug) for slug in ("acme", "rival")}
        self.own, self.other = await make_sides(("acme", keys["acme"]), ("rival", keys["rival"]), self.send)
        return self

    async def revisions(self) -> dict[str, int]:
        """Where the tenants stand."""
        found = (await self.service.get("/v1/tenants")).json["tenants"]
        return {tenant["slug"]: tenant["revision"] for tenant in found}

    async def check(self, own: Side | None = None, *operations: str) -> Report:
        asked = [operation for operation in described() if operation.path in operations] or None
        return await check(own or self.own, self.other, self.send, base_domain=BASE_DOMAIN, operations=asked)


@pytest.fixture
async def world(own_database_url: str) -> AsyncIterator[World]:
    """Two tenants on a service that knows subdomains."""
    async with Service(own_database_url, http=HttpSettings(base_domain=BASE_DOMAIN)).serving() as running:
        yield await World(running, own_database_url).prepared()


async def person_of(world: World, slug: str) -> Side:
    """Return a side that asks as an administrator with a personal key."""
    people = People(world.service)
    await people.base()
    person = await people.person(slug, "mallory", "role:tenant-admin", scopes=SCOPES)
    return Side(slug, person.key, world.own.objects, world.own.secrets)


@pytest.mark.parametrize("who", ["service", "person"])
async def test_no_operation_reaches_another_tenant(world: World, who: str) -> None:
    """Refused, or answered as what nobody has; and nothing of the other tenant was changed."""
    own = world.own if who == "service" else await person_of(world, "acme")
    before = await world.revisions()
    report = await world.check(own)
    assert (report.faults, report.unanswered) == ([], [])
    assert report.operations == len(list(operations_of(read_openapi())))
    assert report.cases > 2 * report.operations
    assert (await world.revisions())["rival"] == before["rival"]


async def test_row_level_security_stands_alone(world: World, monkeypatch) -> None:
    """Without one of the application's filters the same holds."""
    await world.check()  # what is looked up once and remembered is, so that failures are not those of a cold start
    before = await world.revisions()
    with bare_statements(world.service._engine, monkeypatch) as bare:
        report = await world.check()
    assert (report.faults, report.unanswered) == ([], [])
    assert len(bare.statements) > 10
    assert bare.left == set()
    assert (await world.revisions())["rival"] == before["rival"]


async def test_the_filters_of_the_application_stand_alone(world: World, own_database_url: str) -> None:
    """Without row-level security the same holds."""
    _without_row_level_security(own_database_url)
    report = await world.check()
    assert (report.faults, report.unanswered) == ([], [])


async def test_without_either_it_leaks(world: World, own_database_url: str, monkeypatch) -> None:
    """So the filters really were taken out, and the check does see a leak."""
    _without_row_level_security(own_database_url, but="tenants")  # else nobody's own entry would be found
    with bare_statements(world.service._engine, monkeypatch):
        report = await world.check(None, "/v1/users/{user_id}", "/v1/tenants/{tenant}/keys/{key_id}")
    leaks = {fault.case.partition(":")[0] for fault in report.faults}
    assert "GET /v1/users/{user_id}" in leaks
    assert "DELETE /v1/tenants/{tenant}/keys/{key_id}" in leaks


def _without_row_level_security(url: str, but: str = "") -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        tables = owner.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity "
            "AND relname <> %s",
            [but],
        ).fetchall()
        for (table,) in tables:
            owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")


# --- that no operation can be left out


async def test_a_path_with_an_unknown_variable_stops_the_check():
    """It is not passed over."""
    with pytest.raises(NoMakerError, match="gadget_id"):
        await side_of("acme", "key", frozenset({"gadget_id"}), None)


def sides() -> tuple[Side, Side, Side]:
    """Two tenants and nobody, without a service."""
    variables = variables_of(described())
    objects = {name: f"mine-{name}" for name in variables}
    theirs = Side("rival", "k2", {name: f"theirs-{name}" for name in variables} | {"cursor": "c2"}, ("secret",))
    return Side("acme", "k1", objects), theirs, nobodys(variables, theirs)


@pytest.mark.parametrize("operation", described(), ids=lambda operation: f"{operation.method} {operation.path}")
def test_every_operation_is_asked_with_every_name_and_id(operation: Operation):
    """Each place that names a tenant, and each id that a path takes; the two questions differ in that alone."""
    own, other, nobody = sides()
    cases = list(cases_of(operation, own, other, nobody, BASE_DOMAIN))
    said = [case.what for case in cases]
    ids = [name for name in operation.path_names if name != "tenant"]
    assert sum("name in the" in what for what in said) == 3 + ("tenant" in operation.path_names)
    for name in ids:
        assert f"the other tenant's `{name}` in the path" in said
    for case in cases:
        assert "k2" not in str(case.foreign.headers), "asked with one's own key"
        assert case.foreign != case.unknown or ids == ["path"]
        assert case.foreign.body == case.unknown.body


OPERATION = Operation("read", "GET", "/v1/things/{key_id}", ("key_id",), ())
CASE = Case(OPERATION, "an id", Question("GET", "/a", {}), Question("GET", "/b", {}), ("theirs",), ("nobodys",))


@pytest.mark.parametrize(
    ("foreign", "unknown", "leaks"),
    [
        (Reply(404, {}, b"no"), Reply(404, {}, b"no"), False),
        (Reply(403, {}, b"no"), Reply(404, {}, b"no"), False),
        (Reply(404, {}, b"it is secret"), Reply(404, {}, b"no"), True),
        (Reply(404, {"Location": "/secret"}, b"no"), Reply(404, {}, b"no"), True),
        (Reply(200, {}, b"no `theirs`"), Reply(200, {}, b"no `nobodys`"), False),
        (Reply(200, {"Date": "1"}, b"a"), Reply(200, {"Date": "2"}, b"a"), False),
        (Reply(200, {"ETag": "1"}, b"a"), Reply(200, {"ETag": "2"}, b"a"), True),
        (Reply(200, {}, b"a"), Reply(200, {}, b"b"), True),
        (Reply(200, {}, b"a"), Reply(404, {}, b"a"), True),
        (Reply(204, {}, b""), Reply(404, {}, b""), True),
        (Reply(500, {}, b"a"), Reply(404, {}, b"a"), True),
        (Reply(409, {}, b"a"), Reply(404, {}, b"a"), True),
    ],
)
def test_what_counts_as_a_leak(foreign: Reply, unknown: Reply, leaks: bool):
    """A refusal that tells nothing, or the same answer as for what nobody has; all else is one."""
    assert (fault_of(CASE, foreign, unknown, ("secret",)) is not None) is leaks


async def test_what_was_not_answered_is_not_called_isolated():
    """A service that throttles or is down is asked again later; the report says which cases are open."""

    async def busy(_: Question) -> Reply:
        return Reply(429, {"Retry-After": "1"}, b"later")

    own, other, _ = sides()
    report = await check(own, other, busy, operations=[described()[0]])
    assert report.faults == []
    assert len(report.unanswered) == report.cases > 0
    assert as_json(report)["isolated"] is False
    assert [*shown(report)][-1].startswith("not known")
