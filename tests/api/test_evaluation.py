"""`POST /access/v1/evaluation` over HTTP."""

import json

import pytest

from authz.errors import StaleError, StorageUnavailableError
from service.fast_path import FastHandler
from service.server import DeadlineHandler
from tenancy.ids import TenantStatus
from tests.support.edge import Edge, question

POLICY = """
p role:editor record:* read
p role:editor record:* write
g user:alice role:editor
p user:* record:secret read deny
p role:editor secret:1 read allow if subject.properties.clearance == "high"
p user:* doc:1 open allow if resource.properties.status == "active"
p user:* ctx:1 go allow if context.ip == "10.0.0.1" && action.properties.soft
base p role:root sys:* run
"""

URL = "/access/v1/evaluation"


@pytest.fixture(params=[FastHandler, DeadlineHandler], ids=["fast", "ordinary"])
async def edge(request):
    made = Edge()
    made.handler_class = request.param
    made.acme = made.tenant("acme", POLICY)
    made.key_all = made.key(made.acme)
    made.key_check = made.key(made.acme, "decision:check")
    async with made.serving():
        yield made


async def test_an_allow_and_a_deny_are_both_good_answers(edge):
    """200 with the decision, the revision, and why in one word."""
    allowed = await edge.post(URL, question("user:alice", "read", "record:1"), edge.key_check)
    assert (allowed.status, allowed.json["decision"]) == (200, True)
    assert allowed.json["context"]["kasbah"] == {"revision": 7, "reason": "rule"}
    assert allowed.headers["Kasbah-Revision"] == "7"
    assert allowed.headers["Content-Type"] == "application/json"
    assert allowed.headers["Cache-Control"] == "no-store"
    assert allowed.headers["X-Content-Type-Options"] == "nosniff"
    denied = await edge.post(URL, question("user:bob", "read", "record:1"), edge.key_check)
    assert (denied.status, denied.json["decision"]) == (200, False)
    assert denied.json["context"]["kasbah"]["reason"] == "no_match"
    blocked = await edge.post(URL, question("user:alice", "read", "record:secret"), edge.key_check)
    assert (blocked.json["decision"], blocked.json["context"]["kasbah"]["reason"]) == (False, "rule")


GOOD = question("user:alice", "read", "record:1")


def without(path):
    """Return the good body without one member."""
    body = json.loads(json.dumps(GOOD))
    *parents, last = path.split("/")
    node = body
    for parent in parents:
        node = node[parent]
    del node[last]
    return body


def replaced(path, value):
    """Return the good body with one member replaced."""
    body = json.loads(json.dumps(GOOD))
    *parents, last = path.split("/")
    node = body
    for parent in parents:
        node = node[parent]
    node[last] = value
    return body


BAD_BODIES = [
    (b"", None),
    (b" ", None),
    (b"{", None),
    (b"nonsense", None),
    (json.dumps(GOOD).encode() + b"x", None),
    (json.dumps(GOOD).encode() * 2, None),
    (json.dumps(GOOD).encode().replace(b"alice", b"\xff"), None),
    (json.dumps(GOOD)[:-1].encode() + b',"context":{"a":NaN}}', None),
    (json.dumps(GOOD)[:-1].encode() + b',"subject":{"type":"user","id":"root"}}', "/subject"),
    (json.dumps(GOOD)[:-1].encode() + b',"context":{"a":{"b":1,"b":2}}}', "/context/a/b"),
    (json.dumps(GOOD)[:-1].encode() + b',"ignored":{"b":1,"b":2}}', "/ignored/b"),
    (b'{"subject":{"type":"user","id":"a","id":"b"}}', "/subject/id"),
    (b"[" * 100, None),
    ([], ""),
    ("text", ""),
    (None, ""),
    (1, ""),
    ([GOOD], ""),
    ({}, "/subject"),
    (without("subject"), "/subject"),
    (without("action"), "/action"),
    (without("resource"), "/resource"),
    (without("subject/type"), "/subject/type"),
    (without("subject/id"), "/subject/id"),
    (without("action/name"), "/action/name"),
    (without("resource/type"), "/resource/type"),
    (without("resource/id"), "/resource/id"),
    (replaced("subject", None), "/subject"),
    (replaced("subject", "user:alice"), "/subject"),
    (replaced("subject", []), "/subject"),
    (replaced("subject/id", 1), "/subject/id"),
    (replaced("subject/id", None), "/subject/id"),
    (replaced("subject/id", ""), "/subject/id"),
    (replaced("subject/id", "a\nb"), "/subject/id"),
    (replaced("subject/id", "a\u0000"), "/subject/id"),
    (replaced("subject/id", "a\u2028b"), "/subject/id"),
    (replaced("subject/id", "x" * 2049), "/subject/id"),
    (replaced("subject/type", ""), "/subject/type"),
    (replaced("subject/type", "us:er"), "/subject/type"),
    (replaced("subject/type", "us er"), "/subject/type"),
    (replaced("subject/type", "1user"), "/subject/type"),
    (replaced("subject/type", "üser"), "/subject/type"),
    (replaced("subject/type", "user\n"), "/subject/type"),
    (replaced("action/name", ""), "/action/name"),
    (replaced("action/name", "a\rb"), "/action/name"),
    (replaced("action/name", True), "/action/name"),
    (replaced("resource/id", {}), "/resource/id"),
    (replaced("resource/type", "*"), "/resource/type"),
    (GOOD | {"context": None}, "/context"),
    (GOOD | {"context": []}, "/context"),
    (GOOD | {"context": "x"}, "/context"),
    (GOOD | {"subject": {"type": "user", "id": "a", "properties": 1}}, "/subject/properties"),
    (GOOD | {"action": {"name": "a", "properties": []}}, "/action/properties"),
    (GOOD | {"options": []}, "/options"),
    (GOOD | {"options": {"explain": "yes"}}, "/options/explain"),
]


@pytest.mark.parametrize(("body", "pointer"), BAD_BODIES, ids=[str(number) for number in range(len(BAD_BODIES))])
async def test_a_bad_body_is_a_problem_that_points_to_its_fault(edge, body, pointer):
    """400, `application/problem+json`, and a pointer where there is a place; never a decision."""
    answer = await edge.post(URL, body if isinstance(body, bytes) else json.dumps(body).encode(), edge.key_all)
    assert answer.status == 400, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert problem["type"] == "urn:kasbah:problem:invalid-request"
    assert problem["status"] == 400
    assert problem.get("pointer") == pointer, problem
    assert "decision" not in problem


async def test_unknown_members_are_ignored(edge):
    """Forward compatibility, at every level."""
    body = question("user:alice", "read", "record:1", future={"x": [1]}, evaluations=7)
    body["subject"]["future"] = None
    assert (await edge.post(URL, body, edge.key_check)).json["decision"] is True


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ("application/json ; x=y", 200),
        ("text/plain", 400),
        ("application/jsonx", 400),
        ("application/problem+json", 400),
        ("application/x-www-form-urlencoded", 400),
        ("multipart/form-data; boundary=x", 400),
        ("", 400),
    ],
)
async def test_only_json_is_taken(edge, content_type, status):
    """Parameters are fine, other types are not."""
    answer = await edge.post(URL, json.dumps(GOOD).encode(), edge.key_check, {"Content-Type": content_type})
    assert answer.status == status


async def test_a_body_above_one_mebibyte_is_refused_and_one_at_the_limit_is_not(edge):
    """413 with or without a declared length."""
    padding = (1 << 20) - len(json.dumps(GOOD | {"x": ""}).encode())
    at_limit = json.dumps(GOOD | {"x": "y" * padding}).encode()
    assert len(at_limit) == 1 << 20
    assert (await edge.post(URL, at_limit, edge.key_check)).status == 200
    answer = await edge.post(URL, at_limit + b" ", edge.key_check)
    assert (answer.status, answer.json["type"]) == (413, "urn:kasbah:problem:body-too-large")

    async def chunks():
        for _ in range(40):
            yield b" " * 65536

    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {edge.key_check}"}
    async with edge.client.post(URL, data=chunks(), headers=headers) as response:
        assert response.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
async def test_a_compressed_body_is_refused_unread(edge, encoding):
    """So none can be a bomb."""
    answer = await edge.post(URL, b"\x1f\x8b", edge.key_check, {"Content-Encoding": encoding})
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")


async def test_without_a_good_key_there_is_no_answer(edge):
    """No header, a wrong scheme, an unknown key: the same 401."""
    bodies = set()
    for headers in (
        {},
        {"Authorization": ""},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer kasbah_00000000_" + "x" * 43},
        {"X-Kasbah-Key": edge.key_all},
    ):
        answer = await edge.post(URL, GOOD, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        bodies.add(answer.body)
    assert len(bodies) == 1
    assert json.loads(bodies.pop())["detail"] == "no credential, or one that is unknown, revoked or expired"


async def test_a_key_is_refused_before_its_body_is_read(edge):
    """An unauthenticated caller cannot make the service parse anything."""
    answer = await edge.post(URL, b"{" * 1000)
    assert answer.status == 401


async def test_a_missing_scope_is_forbidden(edge):
    """Keys carry `decision:check` always, but the route says so too."""
    reader = edge.key(edge.acme, "policy:read")
    answer = await edge.post(URL, GOOD, reader)
    assert (answer.status, answer.json["type"]) == (403, "urn:kasbah:problem:missing-scope")


async def test_properties_of_a_subject_count_only_with_the_scope_to_assert_them(edge):
    """No caller can promote a subject."""
    body = question("user:alice", "read", "secret:1")
    body["subject"]["properties"] = {"clearance": "high"}
    assert (await edge.post(URL, body, edge.key_all)).json["decision"] is True
    denied = (await edge.post(URL, body, edge.key_check)).json
    assert denied["decision"] is False
    assert denied["context"]["kasbah"]["reason"] == "condition_error"
    body = question("user:bob", "open", "doc:1")
    body["resource"]["properties"] = {"status": "active"}
    assert (await edge.post(URL, body, edge.key_all)).json["decision"] is True
    assert (await edge.post(URL, body, edge.key_check)).json["decision"] is False


async def test_action_properties_and_context_are_the_callers(edge):
    """They always count."""
    body = question("user:bob", "go", "ctx:1", context={"ip": "10.0.0.1"})
    body["action"]["properties"] = {"soft": True}
    assert (await edge.post(URL, body, edge.key_check)).json["decision"] is True
    body["context"]["ip"] = "10.0.0.2"
    assert (await edge.post(URL, body, edge.key_check)).json["decision"] is False


@pytest.mark.parametrize("kind", ["role", "group"])
async def test_asking_about_a_role_or_group_needs_the_scope_to_assert(edge, kind):
    """They are no principals."""
    answer = await edge.post(URL, question(f"{kind}:editor", "read", "record:1"), edge.key_check)
    assert (answer.status, answer.json["type"]) == (403, "urn:kasbah:problem:missing-scope")
    assert (await edge.post(URL, question("role:editor", "read", "record:1"), edge.key_all)).json["decision"] is True


async def test_a_subject_whose_id_looks_like_a_role_is_none(edge):
    """Types are part of the name."""
    for subject in ("user:role:editor", "user:editor", "user: alice", "user:Alice", "user:alice "):
        assert (await edge.post(URL, question(subject, "read", "record:1"), edge.key_check)).json["decision"] is False


async def test_an_explanation_is_given_when_asked_and_allowed(edge):
    """Determining rules with file, line and role path; also why not."""
    body = question("user:alice", "read", "record:1", options={"explain": True})
    kasbah = (await edge.post(URL, body, edge.key_all)).json["context"]["kasbah"]
    assert kasbah["determining_rules"][0]["source"] == "policy.csv:2"
    assert kasbah["determining_rules"][0]["role_path"] == ["user:alice", "role:editor"]
    assert kasbah["explanation"]["summary"].startswith("allowed")
    body = question("user:bob", "write", "record:1", options={"explain": True})
    kasbah = (await edge.post(URL, body, edge.key_all)).json["context"]["kasbah"]
    assert kasbah["determining_rules"] == []
    assert kasbah["explanation"]["would_grant"][0]["subject"] == "role:editor"
    answer = await edge.post(URL, body, edge.key_check)
    assert (answer.status, answer.json["type"]) == (403, "urn:kasbah:problem:missing-scope")
    body["options"]["explain"] = False
    assert "determining_rules" not in (await edge.post(URL, body, edge.key_check)).json["context"]["kasbah"]


async def test_a_suspended_tenant_denies_with_the_reason_and_a_deleted_one_refuses_its_keys(edge):
    """Fail closed, visibly."""
    edge.suspend(edge.acme)
    answer = await edge.post(URL, GOOD, edge.key_check)
    assert (answer.status, answer.json["decision"]) == (200, False)
    assert answer.json["context"]["kasbah"]["reason"] == "tenant_suspended"
    edge.suspend(edge.acme, TenantStatus.DELETED)
    assert (await edge.post(URL, GOOD, edge.key_check)).status == 401


@pytest.mark.parametrize("failure", [StaleError("old"), StorageUnavailableError("dsn=secret")])
async def test_a_failure_is_503_and_never_an_allow(edge, failure):
    """With Retry-After, and without detail."""
    edge.node.failure = failure
    answer = await edge.post(URL, GOOD, edge.key_check)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert b"secret" not in answer.body
    edge.node.failure = None
    assert (await edge.post(URL, GOOD, edge.key_check)).json["decision"] is True


async def test_an_error_in_the_engine_is_500_without_detail(edge):
    """Never an allow."""
    edge.node.failure = RuntimeError("internal thing")
    answer = await edge.post(URL, GOOD, edge.key_check)
    assert answer.status == 500
    assert b"internal thing" not in answer.body


async def test_a_demanded_revision_is_never_answered_older(edge):
    """Reached: 200; ahead: 503; nonsense or twice: 400."""
    for value, status in (
        ("7", 200),
        ("0", 200),
        ("8", 503),
        ("-1", 400),
        ("x", 400),
        ("", 400),
        ("7.0", 400),
        ("٧", 400),
    ):
        answer = await edge.post(URL, GOOD, edge.key_check, {"Kasbah-Min-Revision": value})
        assert answer.status == status, value
    headers = [("Kasbah-Min-Revision", "1"), ("Kasbah-Min-Revision", "1"), ("Content-Type", "application/json")]
    headers.append(("Authorization", f"Bearer {edge.key_check}"))
    async with edge.client.post(URL, data=json.dumps(GOOD), headers=headers) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [("bfe9eb29-ab87", True), ("a b~!", True), ("x" * 200, True), ("x" * 201, False), ("café", False), ("", False)],
)
async def test_a_sane_request_id_is_echoed(edge, sent, echoed):
    """Others are replaced, on refusals too."""
    answer = await edge.post(URL, GOOD, edge.key_check, {"X-Request-ID": sent})
    assert (answer.headers["X-Request-ID"] == sent) is echoed
    assert answer.headers["X-Request-ID"]
    refused = await edge.post(URL, b"", edge.key_check, {"X-Request-ID": sent})
    assert (refused.headers["X-Request-ID"] == sent) is echoed


async def test_two_requests_without_an_id_get_different_ones(edge):
    """Made by the service."""
    answers = [await edge.get("/healthz") for _ in range(3)]
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 3
