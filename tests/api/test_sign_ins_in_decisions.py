"""How a subject signed in, in decisions over HTTP: where it comes from, and what a deny says would help."""

from datetime import timedelta
from uuid import UUID

import pytest

from authn.sessions import Acr, make_token
from service.decision_log import DecisionLog
from service.fast_path import FastHandler
from service.server import DeadlineHandler
from tests.support.edge import Edge, question
from tests.support.policies import NOW
from tests.support.sign_ins import SessionsInMemory, demanding

ONE = "/access/v1/evaluation"
MANY = "/access/v1/evaluations"
ALICE = UUID(int=0xA11CE)
BOB = UUID(int=0xB0B)
POLICY = f"""
p user:* vault:1 open allow if auth.acr == "aal2"
p user:* vault:2 open allow if now - auth.time <= duration("5m")
p user:* vault:3 open allow if "hwk" in auth.amr
p role:boss record:1 write
p role:staff record:1 read
g user:{ALICE} role:boss
g user:{ALICE} role:staff
g user:{BOB} role:boss
base p role:staff kasbah:decision check
base p role:staff kasbah:decision assert
base p role:staff kasbah:decision explain
"""


@pytest.fixture(params=[FastHandler, DeadlineHandler], ids=["fast", "ordinary"])
async def edge(request):
    made = Edge()
    made.handler_class = request.param
    made.sessions = SessionsInMemory()
    made.token_kinds.append(made.sessions)
    made.acme = made.tenant("acme", POLICY)
    made.node.tenants[made.acme].snapshot = demanding(POLICY, "role:boss").snapshot
    made.globex = made.tenant("globex", POLICY)
    made.assertive = made.key(made.acme)
    made.plain = made.key(made.acme, "decision:check", "decision:explain")
    async with made.serving():
        yield made


def about(who, action, resource, **auth):
    body = question(f"user:{who}", action, resource)
    if auth:
        body["subject"]["properties"] = {"kasbah.auth": auth}
    return body


async def decided(edge, body, key, session=None, path=ONE):
    headers = {} if session is None else {"Kasbah-Session": session}
    answer = await edge.post(path, body, key, headers)
    assert answer.status == 200, answer.body
    return answer.json


async def test_without_a_sign_in_a_deny_says_which_one_would_do(edge):
    """A plain question: what asks about the sign-in is in error, and roles count however the subject would sign in."""
    denied = await decided(edge, about(ALICE, "open", "vault:1"), edge.plain)
    assert denied == {
        "decision": False,
        "context": {
            "kasbah": {"revision": 7, "reason": "condition_error", "step_up": {"acr_values": ["aal2"]}},
        },
    }
    old = await decided(edge, about(ALICE, "open", "vault:2"), edge.plain)
    assert old["context"]["kasbah"]["step_up"] == {"acr_values": ["aal1", "aal2"], "max_age": 300}
    key = await decided(edge, about(ALICE, "open", "vault:3"), edge.plain)
    assert key["context"]["kasbah"]["step_up"] == {"acr_values": ["aal2"], "amr_values": ["hwk"]}
    assert (await decided(edge, about(ALICE, "write", "record:1"), edge.plain))["decision"] is True
    assert "step_up" not in (await decided(edge, about(BOB, "read", "record:1"), edge.plain))["context"]["kasbah"]


async def test_a_session_of_the_subject_counts_beside_a_services_key(edge):
    """Its level, methods and age; a role that demands a second factor is inactive in a session without."""
    strong = edge.sessions.begin(edge.acme, "acme", ALICE, seconds_ago=301)
    weak = edge.sessions.begin(edge.acme, "acme", ALICE, Acr.AAL1)
    assert (await decided(edge, about(ALICE, "open", "vault:1"), edge.plain, strong))["decision"] is True
    assert (await decided(edge, about(ALICE, "open", "vault:1"), edge.plain, weak))["decision"] is False
    assert (await decided(edge, about(ALICE, "open", "vault:2"), edge.plain, strong))["decision"] is False
    assert (await decided(edge, about(ALICE, "open", "vault:2"), edge.plain, weak))["decision"] is True
    for _ in range(3):  # also when the fast way knows the head
        assert (await decided(edge, about(ALICE, "write", "record:1"), edge.plain, strong))["decision"] is True
        denied = await decided(edge, about(ALICE, "write", "record:1"), edge.plain, weak)
        assert (denied["decision"], denied["context"]["kasbah"]["step_up"]) == (False, {"acr_values": ["aal2"]})
        assert (await decided(edge, about(ALICE, "read", "record:1"), edge.plain, weak))["decision"] is True


async def test_a_session_that_does_not_hold_is_refused_and_not_left_out(edge):
    """Unknown, of another tenant, of a recovery code, no session at all: alike, in every endpoint."""
    known = edge.sessions.begin(edge.acme, "acme", ALICE)
    unknown = make_token(edge.acme, b"0" * 32)
    foreign = edge.sessions.begin(edge.globex, "globex", ALICE)
    enrolling = edge.sessions.begin(edge.acme, "acme", ALICE, must_enrol=True)
    body = about(ALICE, "write", "record:1")
    bodies = {
        ONE: body,
        MANY: {"evaluations": [body]},
        "/access/v1/search/resource": body | {"resource": {"type": "record"}},
    }
    for path, asked in bodies.items():
        answers = set()
        for token in (unknown, foreign, enrolling, edge.plain, "", known[:-1]):
            answer = await edge.post(path, asked, edge.plain, {"Kasbah-Session": token})
            assert (answer.status, answer.json["type"].rpartition(":")[2]) == (401, "subject-session")
            answers.add(answer.body)
        assert len(answers) == 1
    person = await edge.post(ONE, body, known, {"Kasbah-Session": known})
    assert (person.status, person.json["type"].rpartition(":")[2]) == (403, "missing-scope")


async def test_a_suspended_tenant_is_denied_with_its_reason(edge):
    """As without a session; and while a suspension is taken back, nothing is taken for known."""
    token = edge.sessions.begin(edge.acme, "acme", ALICE)
    edge.sessions.is_suspended = True
    body = about(ALICE, "write", "record:1")
    assert (await decided(edge, body, edge.plain, token))["decision"] is False
    edge.suspend(edge.acme)
    denied = await decided(edge, body, edge.plain, token)
    assert (denied["decision"], denied["context"]["kasbah"]["reason"]) == (False, "tenant_suspended")


async def test_a_session_is_its_subjects_alone(edge):
    """Whoever passes one asks about its subject; an item about another one is in error, and a search for subjects is."""
    token = edge.sessions.begin(edge.acme, "acme", ALICE)
    other = about(BOB, "write", "record:1")
    refused = await edge.post(ONE, other, edge.plain, {"Kasbah-Session": token})
    assert (refused.status, refused.json["pointer"]) == (400, "/subject")
    mine = about(ALICE, "write", "record:1")
    answers = (await decided(edge, {"evaluations": [mine, other]}, edge.plain, token, MANY))["evaluations"]
    assert [answer["decision"] for answer in answers] == [True, False]
    assert answers[1]["context"]["error"]["status"] == 400
    search = {"subject": {"type": "user"}, "action": {"name": "write"}, "resource": {"type": "record", "id": "1"}}
    answer = await edge.post("/access/v1/search/subject", search, edge.plain, {"Kasbah-Session": token})
    assert answer.status == 400


async def test_a_caller_that_may_assert_says_how_the_subject_signed_in(edge):
    """Under one name in the subject's properties, strictly read; conditions do not see it as a property."""
    fresh = (NOW - timedelta(seconds=10)).isoformat()
    strong = {"acr": "aal2", "amr": ["face", "hwk"], "time": fresh}
    for resource in ("vault:1", "vault:2", "vault:3"):
        assert (await decided(edge, about(BOB, "open", resource, **strong), edge.assertive))["decision"] is True
        assert (await decided(edge, about(BOB, "open", resource, acr="aal1"), edge.assertive))["decision"] is False
    for _ in range(3):
        assert (await decided(edge, about(BOB, "write", "record:1", **strong), edge.assertive))["decision"] is True
        assert (await decided(edge, about(BOB, "write", "record:1", acr="aal1"), edge.assertive))["decision"] is False
        assert (await decided(edge, about(BOB, "write", "record:1", time=fresh), edge.assertive))["decision"] is False
        batch = {"evaluations": [about(BOB, "write", "record:1", acr="aal1"), about(BOB, "write", "record:1")]}
        answers = (await decided(edge, batch, edge.assertive, path=MANY))["evaluations"]
        assert [answer["decision"] for answer in answers] == [False, True]


@pytest.mark.parametrize(
    ("auth", "pointer"),
    [
        ("aal2", ""),
        ([], ""),
        ({"level": "aal2"}, ""),
        ({"acr": "aal3"}, "/acr"),
        ({"acr": 2}, "/acr"),
        ({"amr": "pwd"}, "/amr"),
        ({"amr": [1]}, "/amr"),
        ({"amr": ["x"] * 17}, "/amr"),
        ({"time": "2026-06-01"}, "/time"),
        ({"time": 1780000000}, "/time"),
    ],
)
async def test_what_is_asserted_is_read_strictly(edge, auth, pointer):
    """With the place of the fault; inside a batch it is the item's."""
    body = question(f"user:{BOB}", "open", "vault:1")
    body["subject"]["properties"] = {"kasbah.auth": auth}
    answer = await edge.post(ONE, body, edge.assertive)
    assert answer.status == 400
    assert answer.json["pointer"] == f"/subject/properties/kasbah.auth{pointer}"
    batch = (await decided(edge, {"evaluations": [body]}, edge.assertive, path=MANY))["evaluations"]
    assert batch[0]["context"]["error"]["status"] == 400


async def test_nobody_else_says_it(edge):
    """Without the scope it counts for nothing; in the context it never does; beside a session it is refused."""
    lying = about(BOB, "open", "vault:1", acr="aal2")
    assert (await decided(edge, lying, edge.plain))["decision"] is False
    context = question(f"user:{BOB}", "open", "vault:1", context={"kasbah.auth": {"acr": "aal2"}, "auth.acr": "aal2"})
    for key in (edge.plain, edge.assertive):
        assert (await decided(edge, context, key))["decision"] is False
    weak = edge.sessions.begin(edge.acme, "acme", ALICE, Acr.AAL1)
    mine = about(ALICE, "open", "vault:1", acr="aal2")
    assert (await edge.post(ONE, mine, edge.assertive, {"Kasbah-Session": weak})).status == 400
    assert (await decided(edge, mine, edge.plain, weak))["decision"] is False


async def test_a_person_asks_as_they_signed_in(edge):
    """About themselves; about others they ask as anybody does, and assert what they may."""
    weak = edge.sessions.begin(edge.acme, "acme", ALICE, Acr.AAL1)
    strong = edge.sessions.begin(edge.acme, "acme", ALICE)
    assert (await decided(edge, about(ALICE, "open", "vault:1"), strong))["decision"] is True
    assert (await decided(edge, about(ALICE, "open", "vault:1"), weak))["decision"] is False
    assert (await decided(edge, about(ALICE, "write", "record:1"), weak))["decision"] is False
    assert (await decided(edge, about(BOB, "write", "record:1"), weak))["decision"] is True
    assert (await decided(edge, about(BOB, "write", "record:1", acr="aal1"), weak))["decision"] is False
    assert (await edge.post(ONE, about(ALICE, "open", "vault:1", acr="aal2"), weak)).status == 400
    personal = edge.key(edge.acme, owner=ALICE)
    assert (await decided(edge, about(ALICE, "open", "vault:1"), personal))["decision"] is False
    assert (await decided(edge, about(ALICE, "write", "record:1"), personal))["decision"] is False
    assert (await decided(edge, about(ALICE, "read", "record:1"), personal))["decision"] is True


async def test_searches_are_the_decisions_about_their_candidates(edge):
    """With the sign-in of a subject that is known, as evaluations are."""
    weak = edge.sessions.begin(edge.acme, "acme", ALICE, Acr.AAL1)
    strong = edge.sessions.begin(edge.acme, "acme", ALICE)
    subject = {"type": "user", "id": str(ALICE)}
    resources = {"subject": subject, "action": {"name": "write"}, "resource": {"type": "record"}}

    async def found(path, body, key, session=None):
        answer = await decided(edge, body, key, session, f"/access/v1/search/{path}")
        assert "step_up" not in answer["context"]["kasbah"]
        return [result.get("id") or result.get("name") for result in answer["results"]]

    assert await found("resource", resources, edge.plain, strong) == ["1"]
    assert await found("resource", resources, edge.plain, weak) == []
    assert await found("resource", resources, weak) == []
    actions = {"subject": subject, "resource": {"type": "record", "id": "1"}}
    assert await found("action", actions, edge.plain, weak) == ["read"]
    subjects = {"subject": {"type": "user"}, "action": {"name": "write"}, "resource": {"type": "record", "id": "1"}}
    assert await found("subject", subjects, edge.plain) == sorted([str(ALICE), str(BOB)])
    assert await found("subject", subjects, weak) == [str(BOB)]


async def test_an_explanation_names_inactive_roles_and_what_would_help(edge):
    """For a human, in the same words as the decision."""
    weak = edge.sessions.begin(edge.acme, "acme", ALICE, Acr.AAL1)
    body = about(ALICE, "write", "record:1") | {"options": {"explain": True}}
    kasbah = (await decided(edge, body, edge.plain, weak))["context"]["kasbah"]
    assert kasbah["step_up"] == {"acr_values": ["aal2"]}
    assert kasbah["explanation"]["inactive_roles"] == ["role:boss"]
    assert "  would be allowed after a sign-in at aal2" in kasbah["explanation"]["lines"]
    batch = {"evaluations": [about(ALICE, "write", "record:1")], "options": {"explain": True}}
    answers = (await decided(edge, batch, edge.plain, weak, MANY))["evaluations"]
    assert answers[0]["context"]["kasbah"]["step_up"] == {"acr_values": ["aal2"]}


async def test_the_decision_log_says_how_and_by_whose_word(edge, tmp_path):
    """So that an auditor can tell a session from an assertion."""
    settings = edge.settings.decision_log.model_copy(update={"mode": "all", "path": str(tmp_path / "log")})
    log = edge.log
    log.__init__(settings)
    log.start()
    token = edge.sessions.begin(edge.acme, "acme", ALICE)
    await decided(edge, about(ALICE, "open", "vault:1"), edge.plain, token)
    await decided(edge, about(BOB, "open", "vault:1", acr="aal1"), edge.assertive)
    await decided(edge, about(BOB, "open", "vault:1"), edge.assertive)
    log.close()
    assert isinstance(log, DecisionLog)
    import json

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[0]["auth"] == {
        "acr": "aal2",
        "amr": ["pwd", "otp", "mfa"],
        "time": NOW.isoformat(),
        "from": "session",
    }
    assert lines[1]["auth"] == {"acr": "aal1", "amr": None, "time": None, "from": "asserted"}
    assert "kasbah.auth" not in lines[1]["attributes"]["subject"]
    assert "auth" not in lines[2]
