"""`POST /access/v1/evaluations` over HTTP: defaults, item errors, semantics, limits."""

import json

import pytest

from authz.errors import StaleError
from service.fast_path import FastHandler
from service.server import DeadlineHandler
from tests.support.edge import Edge, question

POLICY = """
p role:editor record:* read
g user:alice role:editor
p user:* record:4 read deny
p user:alice ctx:1 read allow if context.ok
"""
URL = "/access/v1/evaluations"
ALICE = {"type": "user", "id": "alice"}
READ = {"name": "read"}


@pytest.fixture(params=[FastHandler, DeadlineHandler], ids=["fast", "ordinary"])
async def edge(request):
    made = Edge()
    made.handler_class = request.param
    made.acme = made.tenant("acme", POLICY)
    made.key_all = made.key(made.acme)
    made.key_check = made.key(made.acme, "decision:check")
    async with made.serving():
        yield made


def record(number):
    """Return an item that names only its resource."""
    return {"resource": {"type": "record", "id": str(number)}}


async def decisions(edge, body, key=None):
    """Return the decisions, or None for items in error."""
    answer = await edge.post(URL, body, key or edge.key_check)
    assert answer.status == 200, answer.body
    assert "decision" not in answer.json
    found = []
    for item in answer.json["evaluations"]:
        error = item.get("context", {}).get("error")
        assert error is None or (item["decision"] is False and set(error) == {"status", "message"})
        found.append(item["decision"] if error is None else error["status"])
    return found


async def test_every_item_is_answered_in_order(edge):
    """Defaults fill in what an item leaves out."""
    body = {
        "subject": ALICE,
        "action": READ,
        "evaluations": [record(1), record(4), record(2), {"resource": {"type": "x", "id": "1"}}],
    }
    assert await decisions(edge, body) == [True, False, True, False]
    answer = await edge.post(URL, body, edge.key_check)
    assert answer.headers["Kasbah-Revision"] == "7"
    assert answer.json["evaluations"][0]["context"]["kasbah"] == {"revision": 7, "reason": "rule"}


async def test_an_item_replaces_whole_entities(edge):
    """Never merged member by member: a subject without its type is not completed by the default's."""
    body = {
        "subject": ALICE | {"properties": {"a": 1}},
        "action": READ,
        "context": {"ok": True},
        "evaluations": [
            record(1) | {"subject": {"type": "user", "id": "bob"}},
            record(1) | {"subject": {"id": "bob"}},
            record(1) | {"subject": {"type": "user"}},
            {"resource": {"type": "ctx", "id": "1"}},
            {"resource": {"type": "ctx", "id": "1"}, "context": {}},
            {"resource": {"type": "ctx", "id": "1"}, "context": {"ok": False}},
        ],
    }
    assert await decisions(edge, body) == [False, 400, 400, True, False, False]


BAD_ITEMS = [
    {},
    {"subject": None},
    {"subject": "user:alice"},
    {"subject": {"type": "user", "id": 1}},
    {"subject": {"type": "user", "id": ""}},
    {"subject": {"type": "u:", "id": "a"}},
    {"action": {}},
    {"action": "read"},
    {"resource": {"type": "record", "id": "a\nb"}},
    {"resource": []},
    {"context": 1},
    {"context": None},
]


@pytest.mark.parametrize("bad", BAD_ITEMS, ids=json.dumps)
async def test_a_bad_item_is_a_denial_with_an_error_and_harms_no_other(edge, bad):
    """`context.error` says status and message."""
    good = question("user:alice", "read", "record:1")
    assert await decisions(edge, {"evaluations": [good, bad if bad == {} else good | bad, good]}) == [True, 400, True]


async def test_a_role_as_subject_of_an_item_is_that_items_error(edge):
    """403 inside, for a key that may not assert; with the scope it is a question like others."""
    items = [question("role:editor", "read", "record:1"), question("user:alice", "read", "record:1")]
    assert await decisions(edge, {"evaluations": items}) == [403, True]
    assert await decisions(edge, {"evaluations": items}, edge.key_all) == [True, True]
    answer = await edge.post(
        URL, {"subject": {"type": "role", "id": "editor"}, "action": READ, "evaluations": [record(1)]}, edge.key_check
    )
    assert answer.status == 403


BAD_BODIES = [
    (b"[]", ""),
    (b'"x"', ""),
    ({"evaluations": 1}, "/evaluations"),
    ({"evaluations": None}, "/evaluations"),
    ({"evaluations": {}}, "/evaluations"),
    ({"evaluations": [1]}, "/evaluations/0"),
    ({"evaluations": [question("user:a", "b", "c:d"), None]}, "/evaluations/1"),
    ({"evaluations": [[]]}, "/evaluations/0"),
    ({"subject": 1, "evaluations": [question("user:a", "b", "c:d")]}, "/subject"),
    ({"subject": {"type": "user"}, "evaluations": [question("user:a", "b", "c:d")]}, "/subject/id"),
    ({"subject": {"type": "user", "id": ""}, "evaluations": [question("user:a", "b", "c:d")]}, "/subject/id"),
    ({"context": [], "evaluations": [question("user:a", "b", "c:d")]}, "/context"),
    ({"options": 1, "evaluations": [question("user:a", "b", "c:d")]}, "/options"),
    ({"options": {"evaluations_semantic": "all"}, "evaluations": [{}]}, "/options/evaluations_semantic"),
    ({"options": {"evaluations_semantic": 1}, "evaluations": [{}]}, "/options/evaluations_semantic"),
    ({"options": {"evaluations_semantic": ""}, "evaluations": [{}]}, "/options/evaluations_semantic"),
    ({}, "/subject"),
    ({"evaluations": []}, "/subject"),
    ({"subject": ALICE, "action": READ}, "/resource"),
    ({"evaluations": [{}] * 1001}, "/evaluations"),
    (b'{"evaluations":[{"subject":{"type":"user","id":"a","id":"b"}}]}', "/evaluations/0/subject/id"),
    (b'{"evaluations":[{}],"evaluations":[{}]}', "/evaluations"),
    (b'{"evaluations":[{"context":{"a":1,"a":1}}]}', "/evaluations/0/context/a"),
    (b'{"evaluations":[{"context":' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}]}", None),
]


@pytest.mark.parametrize(("body", "pointer"), BAD_BODIES, ids=[str(number) for number in range(len(BAD_BODIES))])
async def test_a_fault_of_the_whole_body_is_a_problem(edge, body, pointer):
    """400 with a pointer."""
    answer = await edge.post(URL, body if isinstance(body, bytes) else json.dumps(body).encode(), edge.key_all)
    assert answer.status == 400, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json.get("pointer") == pointer, answer.json


async def test_a_thousand_items_are_answered(edge):
    """The limit itself."""
    body = {"subject": ALICE, "action": READ, "evaluations": [record(number) for number in range(1000)]}
    assert sum(await decisions(edge, body)) == 999


@pytest.mark.parametrize("empty", [{}, {"evaluations": []}])
async def test_without_items_it_is_a_single_evaluation(edge, empty):
    """The answer has `decision` at the top, and no `evaluations`."""
    answer = await edge.post(URL, question("user:alice", "read", "record:1") | empty, edge.key_check)
    assert answer.json == {"decision": True, "context": {"kasbah": {"revision": 7, "reason": "rule"}}}


ITEMS = {"allow": record(1), "deny": record(4), "error": {"resource": {"type": "record"}}}


@pytest.mark.parametrize(
    ("semantic", "items", "expected"),
    [
        ("execute_all", "allow deny error allow", [True, False, 400, True]),
        (None, "deny allow", [False, True]),
        ("deny_on_first_deny", "allow allow deny allow", [True, True, False]),
        ("deny_on_first_deny", "allow error allow deny", [True, 400]),
        ("deny_on_first_deny", "error allow", [400]),
        ("deny_on_first_deny", "allow allow", [True, True]),
        ("deny_on_first_deny", "deny error", [False]),
        ("permit_on_first_permit", "deny error allow allow", [False, 400, True]),
        ("permit_on_first_permit", "error error", [400, 400]),
        ("permit_on_first_permit", "deny deny", [False, False]),
        ("permit_on_first_permit", "allow deny", [True]),
    ],
)
async def test_the_three_semantics(edge, semantic, items, expected):
    """An error counts as a denial; what comes after the stop is not answered."""
    body = {"subject": ALICE, "action": READ, "evaluations": [ITEMS[name] for name in items.split()]}
    if semantic is not None:
        body["options"] = {"evaluations_semantic": semantic, "another_option": "value"}
    assert await decisions(edge, body) == expected


async def test_items_can_be_explained(edge):
    """Determining rules for each, for a caller with the scope, and for at most fifty."""
    body = {"subject": ALICE, "action": READ, "options": {"explain": True}, "evaluations": [record(1), record(4)]}
    answer = await edge.post(URL, body, edge.key_all)
    first, second = (item["context"]["kasbah"]["determining_rules"][0] for item in answer.json["evaluations"])
    assert (first["source"], second["effect"]) == ("policy.csv:2", "deny")
    assert (await edge.post(URL, body, edge.key_check)).status == 403
    body["evaluations"] = [record(1)] * 51
    assert (await edge.post(URL, body, edge.key_all)).status == 400


async def test_a_failure_fails_the_batch(edge):
    """503 for all of it: half an answer could be taken for a whole one."""
    edge.node.failure = StaleError("old")
    for items in ([record(1)], [{}]):
        answer = await edge.post(URL, {"subject": ALICE, "action": READ, "evaluations": items}, edge.key_check)
        assert answer.status == 503


async def test_a_demanded_revision_holds_for_a_batch(edge):
    """Also when no item can be evaluated."""
    for items in ([record(1)], [{"resource": 1}]):
        body = {"subject": ALICE, "action": READ, "evaluations": items}
        assert (await edge.post(URL, body, edge.key_check, {"Kasbah-Min-Revision": "7"})).status == 200
        assert (await edge.post(URL, body, edge.key_check, {"Kasbah-Min-Revision": "8"})).status == 503


async def test_a_batch_answers_as_its_items_do_one_by_one(edge):
    """Batch and single never differ."""
    items = [
        question(subject, action, resource, context=context)
        for subject in ("user:alice", "user:bob", "role:editor")
        for action in ("read", "write")
        for resource in ("record:1", "record:4", "ctx:1")
        for context in ({}, {"ok": True}, {"ok": 1})
    ]
    single = [(await edge.post("/access/v1/evaluation", item, edge.key_all)).json for item in items]
    batch = (await edge.post(URL, {"evaluations": items}, edge.key_all)).json["evaluations"]
    assert batch == single
