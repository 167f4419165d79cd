"""Which tenant a request is about: every source, alone and against the others."""

import itertools
import json

import pytest

from service.fast_path import FastHandler
from service.http_settings import HttpSettings
from service.server import DeadlineHandler
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID
from tests.support.edge import Edge, question

POLICY = "p user:alice record:* read"
URL = "/access/v1/evaluation"
GOOD = question("user:alice", "read", "record:1")


@pytest.fixture(params=[FastHandler, DeadlineHandler], ids=["fast", "ordinary"])
async def edge(request):
    made = Edge(HttpSettings(public_url="https://pdp.example", base_domain="kasbah.example"))
    made.handler_class = request.param
    made.acme = made.tenant("acme", POLICY)
    made.other = made.tenant("other", "p user:bob record:* read")
    made.acme_key = made.key(made.acme)
    made.platform_key = made.key(None)
    async with made.serving():
        yield made


async def ask(edge, key, *, header=(), parameter=(), host=None):
    """Send the question with the tenant named in the given places."""
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {key}")]
    headers += [("X-Tenant-ID", value) for value in header]
    if host is not None:
        headers.append(("Host", host))
    query = "&".join(f"tenant={value}" for value in parameter)
    async with edge.client.post(f"{URL}?{query}", data=json.dumps(GOOD), headers=headers) as response:
        return response.status, await response.read()


SOURCES = {
    "header": lambda name: {"header": [name]},
    "parameter": lambda name: {"parameter": [name]},
    "subdomain": lambda name: {"host": f"{name}.kasbah.example:8080"},
}


async def test_a_tenant_bound_key_suffices_alone(edge):
    """And may be repeated by the other sources."""
    assert (await ask(edge, edge.acme_key))[0] == 200
    assert (await ask(edge, edge.acme_key, host="kasbah.example"))[0] == 200
    assert (await ask(edge, edge.acme_key, host="elsewhere.example"))[0] == 200
    everywhere = {"header": ["acme"], "parameter": ["acme"], "host": "ACME.Kasbah.Example."}
    assert (await ask(edge, edge.acme_key, **everywhere))[0] == 200


@pytest.mark.parametrize("source", SOURCES)
async def test_another_tenants_name_is_forbidden_whether_it_exists_or_not(edge, source):
    """With equal bytes, so that names cannot be probed."""
    bodies = set()
    for name in ("other", "nowhere", "_platform", "_base", "ACMEX", "a"):
        status, body = await ask(edge, edge.acme_key, **SOURCES[source](name))
        assert status == 403
        bodies.add(body)
    assert len(bodies) == 1
    assert b"other-tenant" in bodies.pop()


@pytest.mark.parametrize("source", SOURCES)
async def test_a_platform_key_names_its_tenant_in_any_one_place(edge, source):
    """Known: answered; unknown and reserved: 404 alike."""
    status, body = await ask(edge, edge.platform_key, **SOURCES[source]("acme"))
    assert (status, json.loads(body)["decision"]) == (200, True)
    status, body = await ask(edge, edge.platform_key, **SOURCES[source]("other"))
    assert (status, json.loads(body)["decision"]) == (200, False)
    bodies = set()
    for reserved in (BASE_TENANT_ID, PLATFORM_TENANT_ID):  # they have rules, and nobody is decided by them alone
        edge.node.tenants[reserved] = edge.node.tenants[edge.acme]
    for name in ("nowhere", "_platform", "_base", "acme_"):
        status, body = await ask(edge, edge.platform_key, **SOURCES[source](name))
        assert status == 404
        bodies.add(body)
    assert len(bodies) == 1


async def test_a_platform_key_must_name_a_tenant(edge):
    """400."""
    status, body = await ask(edge, edge.platform_key)
    assert (status, json.loads(body)["type"]) == (400, "urn:kasbah:problem:tenant-required")


@pytest.mark.parametrize("pair", list(itertools.combinations(SOURCES, 2)), ids="-".join)
async def test_two_sources_that_disagree_are_refused(edge, pair):
    """For every pair and either order, whoever asks."""
    for first, second in (("acme", "other"), ("other", "acme"), ("acme", "nowhere")):
        places = SOURCES[pair[0]](first) | SOURCES[pair[1]](second)
        assert (await ask(edge, edge.platform_key, **places))[0] == 400
        assert (await ask(edge, edge.acme_key, **places))[0] == 400
        agreed = SOURCES[pair[0]](first) | SOURCES[pair[1]](first)
        assert (await ask(edge, edge.platform_key, **agreed))[0] == (200)


@pytest.mark.parametrize(
    "places",
    [
        {"header": ["acme", "acme"]},
        {"header": ["acme", "other"]},
        {"parameter": ["acme", "acme"]},
        {"parameter": ["acme", "other"]},
        {"header": [""]},
        {"parameter": [""]},
        {"header": ["acme,other"]},
    ],
)
async def test_a_repeated_or_empty_name_is_refused(edge, places):
    """400 for either kind of key; a list in one header is no name of a tenant."""
    assert (await ask(edge, edge.platform_key, **places))[0] in {400, 404}
    status, _ = await ask(edge, edge.acme_key, **places)
    assert status == (403 if places == {"header": ["acme,other"]} else 400)


@pytest.mark.parametrize("name", ["ACME", " acme", "acme ", "%61cme%20", "acme.", "ａｃｍｅ", "acme\u200b"])
async def test_a_tenant_has_one_spelling(edge, name):
    """Case, blanks and look-alikes name someone else, except where HTTP itself trims."""
    status, _ = await ask(edge, edge.acme_key, parameter=[name.replace(" ", "%20")])
    assert status == 403


async def test_an_unauthenticated_caller_learns_nothing_about_names(edge):
    """401 comes first."""
    bodies = set()
    for places in ({}, {"header": ["acme", "other"]}, {"parameter": ["nowhere"]}):
        status, body = await ask(edge, "nope", **places)
        assert status == 401
        bodies.add(body)
    assert len(bodies) == 1


async def test_tenants_see_nothing_of_each_other(edge):
    """The same question, two tenants, two answers; the same for explanations."""
    other_key = edge.key(edge.other)
    mine = await edge.post(URL, question("user:bob", "read", "record:1", options={"explain": True}), edge.acme_key)
    theirs = await edge.post(URL, question("user:bob", "read", "record:1"), other_key)
    assert (mine.json["decision"], theirs.json["decision"]) == (False, True)
    assert b"bob" not in mine.body.replace(b"user:bob read", b"")
