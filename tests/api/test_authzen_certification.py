"""The AuthZEN certification scenario: all levels, both ways through the server.

Source: OpenID AuthZEN, "Authorization API 1.0 - Certification Scenario", 2026; test numbers are its section numbers.
"""

import json

import pytest

from service.fast_path import FastHandler
from service.server import DeadlineHandler
from tests.support.edge import Edge

POLICY = """
p user:alice record:* read
p user:bob record:* read
p user:alice record:* write if !(has(resource.properties.status) && resource.properties.status == "archived")
p user:* record:* write if has(subject.properties.role) && subject.properties.role == "admin" && has(resource.properties.status) && resource.properties.status == "archived"
p user:alice record:* delete if has(action.properties.soft) && action.properties.soft
"""
ALICE, BOB = {"type": "user", "id": "alice"}, {"type": "user", "id": "bob"}
ADMIN = {**BOB, "properties": {"role": "admin"}}
ONE, TWO = {"type": "record", "id": "record-1"}, {"type": "record", "id": "record-2"}
ARCHIVED = {**TWO, "properties": {"status": "archived"}}
READ, WRITE = {"name": "read"}, {"name": "write"}
CONTEXT = {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}
EVALUATION, EVALUATIONS = "/access/v1/evaluation", "/access/v1/evaluations"
SUBJECTS, RESOURCES, ACTIONS = (f"/access/v1/search/{kind}" for kind in ("subject", "resource", "action"))


@pytest.fixture(params=[FastHandler, DeadlineHandler], ids=["fast", "ordinary"])
async def pdp(request):
    edge = Edge()
    stored = {
        "user:alice": {},
        "user:bob": {"role": "admin"},
        "record:record-1": {"status": "active"},
        "record:record-2": {"status": "archived"},
    }
    tenant = edge.tenant("cert", POLICY, **{name.replace(":", "__"): value for name, value in stored.items()})
    edge.handler_class = request.param
    key = edge.key(tenant)
    async with edge.serving():

        async def post(path, body, **headers):
            return await edge.post(path, body, key, headers)

        edge.ask = post
        yield edge


def question(subject, action, resource, **more):
    return {"subject": subject, "action": action, "resource": resource, **more}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(question(ALICE, READ, ONE), True, id="2.2.1"),
        pytest.param(question(BOB, WRITE, ONE), False, id="2.2.2"),
        pytest.param(question(ALICE, READ, ONE, context=CONTEXT), True, id="2.2.3"),
        pytest.param(question(ALICE, WRITE, ARCHIVED), False, id="2.2.4"),
        pytest.param(question(ADMIN, WRITE, ARCHIVED), True, id="2.2.5"),
        pytest.param(question(ALICE, {"name": "delete", "properties": {"soft": True}}, ONE), True, id="2.2.6"),
        pytest.param(question(ALICE, {"name": "delete", "properties": {"soft": False}}, ONE), False, id="2.2.7"),
        pytest.param(
            question(
                {**ALICE, "properties": {"department": "Sales", "role": "manager"}},
                {"name": "read", "properties": {"method": "GET"}},
                {**ONE, "properties": {"status": "active", "owner": "bob"}},
            ),
            True,
            id="2.2.8",
        ),
        pytest.param(question(ALICE, READ, ONE, foo="bar", futureField={"nested": True}), True, id="2.2.9"),
        pytest.param(question(ALICE, WRITE, ONE), True, id="rule 2"),
        pytest.param(question(BOB, READ, ONE), True, id="rule 3"),
    ],
)
async def test_basic_decisions(pdp, body, expected):
    """Basic Core and Properties, each three times (2.6), with the request id echoed (2.5)."""
    for _ in range(3):
        answer = await pdp.ask(EVALUATION, body, **{"X-Request-ID": "7f3a"})
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["X-Request-ID"] == "7f3a"
        assert answer.json["decision"] is expected
        assert isinstance(answer.json.get("context", {}), dict)


@pytest.mark.parametrize(
    "body",
    [
        {"action": READ, "resource": ONE},
        {"subject": ALICE, "resource": ONE},
        {"subject": ALICE, "action": READ},
        question({"id": "alice"}, READ, ONE),
        question({"type": "user"}, READ, ONE),
        question(ALICE, {}, ONE),
        question(ALICE, READ, {"id": "record-1"}),
        question(ALICE, READ, {"type": "record"}),
        question("alice", READ, ONE),
        question(ALICE, {"name": 123}, ONE),
        b"{",
        b"",
    ],
)
async def test_basic_errors(pdp, body):
    """2.4: what is missing, malformed or of another type is 400."""
    assert (await pdp.ask(EVALUATION, body)).status == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/jsonx"])
async def test_another_content_type_is_400(pdp, kind):
    """2.4.3."""
    answer = await pdp.ask(EVALUATION, json.dumps(question(ALICE, READ, ONE)).encode(), **{"Content-Type": kind})
    assert answer.status == 400


ACTIVE = {**ONE, "properties": {"status": "active"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            {"subject": ALICE, "action": READ, "evaluations": [{"resource": ONE}, {"resource": TWO}]},
            [True, True],
            id="3.2.1",
        ),
        pytest.param(
            {"subject": BOB, "resource": ONE, "evaluations": [{"action": READ}, {"action": WRITE}]},
            [True, False],
            id="3.2.2",
        ),
        pytest.param(
            {"subject": ALICE, "action": WRITE, "evaluations": [{"resource": ACTIVE}, {"resource": ARCHIVED}]},
            [True, False],
            id="3.2.3",
        ),
        pytest.param(
            {"action": WRITE, "resource": ARCHIVED, "evaluations": [{"subject": ALICE}, {"subject": ADMIN}]},
            [False, True],
            id="3.2.4",
        ),
        pytest.param(
            {"evaluations": [question(ALICE, READ, ONE), question(BOB, WRITE, ONE)]}, [True, False], id="3.2.5"
        ),
        pytest.param(
            {
                "subject": ALICE,
                "action": READ,
                "context": CONTEXT,
                "evaluations": [{"resource": ONE}, {"resource": TWO, "context": {"source": "x"}}],
            },
            [True, True],
            id="3.2.6",
        ),
        pytest.param(
            {"subject": ALICE, "action": WRITE, "resource": ACTIVE, "evaluations": [{}, {"resource": ARCHIVED}]},
            [True, False],
            id="3.2.7",
        ),
        pytest.param(
            {
                "subject": ALICE,
                "action": READ,
                "options": {"evaluations_semantic": "execute_all"},
                "evaluations": [{"resource": ONE}, {}],
            },
            [True, False],
            id="3.4.1",
        ),
    ],
)
async def test_batches(pdp, body, expected):
    """Batch Core and Properties: same length, same order, defaults replaced as a whole."""
    for _ in range(2):
        answer = await pdp.ask(EVALUATIONS, body)
        assert answer.status == 200
        assert [item["decision"] for item in answer.json["evaluations"]] == expected
        assert "decision" not in answer.json


@pytest.mark.parametrize("more", [{}, {"evaluations": []}])
async def test_a_batch_without_items_is_one_question(pdp, more):
    """3.4.2 and 3.4.3."""
    answer = await pdp.ask(EVALUATIONS, question(ALICE, READ, ONE, **more))
    assert answer.status == 200
    assert answer.json["decision"] is True
    assert "evaluations" not in answer.json


def found(answer, member="id"):
    assert answer.status == 200
    return {result[member] for result in answer.json["results"]}


async def test_subject_search(pdp):
    """4.2."""
    plain = await pdp.ask(SUBJECTS, question({"type": "user"}, READ, ONE))
    assert found(plain) >= {"alice", "bob"}
    assert {result["type"] for result in plain.json["results"]} == {"user"}
    assert found(await pdp.ask(SUBJECTS, question({"type": "user"}, READ, ONE, context=CONTEXT))) == found(plain)
    assert found(await pdp.ask(SUBJECTS, question(ALICE, READ, ONE))) == found(plain)
    assert "bob" in found(await pdp.ask(SUBJECTS, question({"type": "user"}, WRITE, ARCHIVED)))


async def test_resource_search(pdp):
    """4.3."""
    plain = await pdp.ask(RESOURCES, question(ALICE, READ, {"type": "record"}))
    assert "record-1" in found(plain)
    assert {result["type"] for result in plain.json["results"]} == {"record"}
    assert found(await pdp.ask(RESOURCES, question(ALICE, READ, {"type": "record"}, context=CONTEXT))) == found(plain)
    assert found(await pdp.ask(RESOURCES, question(ALICE, READ, ONE))) == found(plain)
    assert "record-2" in found(await pdp.ask(RESOURCES, question(ADMIN, WRITE, {"type": "record"})))


async def test_action_search(pdp):
    """4.4."""
    plain = await pdp.ask(ACTIONS, {"subject": ALICE, "resource": ONE})
    assert found(plain, "name") >= {"read", "write"}
    assert found(await pdp.ask(ACTIONS, {"subject": ALICE, "resource": ONE, "context": CONTEXT}), "name") == found(
        plain, "name"
    )
    assert "write" in found(await pdp.ask(ACTIONS, {"subject": ADMIN, "resource": ARCHIVED}), "name")


async def test_pages(pdp):
    """4.5: a limit, then the token until it is empty."""
    body = question({"type": "user"}, READ, ONE)
    answer = await pdp.ask(SUBJECTS, {**body, "page": {"limit": 1}})
    seen = found(answer)
    while answer.json["page"]["next_token"]:
        answer = await pdp.ask(SUBJECTS, {**body, "page": {"token": answer.json["page"]["next_token"]}})
        seen |= found(answer)
    assert answer.json["page"]["next_token"] == ""
    assert seen >= {"alice", "bob"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ACTIONS, {"subject": {"type": "user", "id": "nonexistent-user"}, "resource": ONE}),
        (SUBJECTS, question({"type": "spaceship"}, READ, ONE)),
        (RESOURCES, question(ALICE, READ, {"type": "spaceship"})),
        (SUBJECTS, question({"type": "user"}, READ, {"type": "page", "id": "nothing"})),
    ],
)
async def test_nothing_found_is_an_empty_list(pdp, path, body):
    """4.6."""
    answer = await pdp.ask(path, body)
    assert answer.status == 200
    assert answer.json["results"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SUBJECTS, {"subject": {"type": "user"}, "resource": ONE}),
        (RESOURCES, {"action": READ, "resource": {"type": "record"}}),
        (ACTIONS, {"subject": ALICE}),
        (SUBJECTS, question({"type": "user"}, READ, {"type": "record"})),
        (RESOURCES, question({"type": "user"}, READ, {"type": "record"})),
        (ACTIONS, {"subject": {"type": "user"}, "resource": ONE}),
    ],
)
async def test_search_errors(pdp, path, body):
    """4.7."""
    assert (await pdp.ask(path, body)).status == 400


async def test_discovery(pdp):
    """6: absolute HTTPS URLs, for the service and for one tenant, without a key."""
    for path in ("/.well-known/authzen-configuration", "/.well-known/authzen-configuration/cert"):
        answer = await pdp.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        members = answer.json
        assert members["policy_decision_point"].startswith("https://pdp.example")
        for name in ("access_evaluation", "access_evaluations", "search_subject", "search_resource", "search_action"):
            assert members[f"{name}_endpoint"].startswith("https://pdp.example/")
        assert all(value for value in members.values())
