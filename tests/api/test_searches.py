"""The three searches over HTTP: results, pages, tokens, faults."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.errors import StorageUnavailableError
from tests.support.edge import Edge, question

POLICY = """
p role:editor record:1 read
p role:editor record:2 read
p role:editor record:3 write
p role:viewer record:1 read
p user:* record:2 read deny
g user:alice role:editor
g user:bob role:viewer
g user:carol role:viewer
g service:bot role:viewer
p user:erin record:1 read allow if context.ok
p user:mallory record:1 read deny
"""
SUBJECT, RESOURCE, ACTION = (f"/access/v1/search/{name}" for name in ("subject", "resource", "action"))
WHO = {"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "1"}}
WHAT = {"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "record"}}
HOW = {"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "1"}}


@pytest.fixture
async def edge():
    made = Edge()
    made.acme = made.tenant("acme", POLICY, record__9={"status": "x"})
    made.other = made.tenant("other", POLICY)
    made.key_all = made.key(made.acme)
    made.key_check = made.key(made.acme, "decision:check")
    made.other_key = made.key(made.other)
    async with made.serving():
        yield made


async def test_subjects_resources_and_actions_are_found(edge):
    """In order of id; deny rules and conditions apply."""
    who = (await edge.post(SUBJECT, WHO, edge.key_check)).json
    assert who["results"] == [{"type": "user", "id": name} for name in ("alice", "bob", "carol")]
    assert who["page"] == {"next_token": "", "count": 3}
    assert who["context"]["kasbah"]["revision"] == 7
    assert next(iter(who)) == "page"
    with_context = (await edge.post(SUBJECT, WHO | {"context": {"ok": True}}, edge.key_check)).json
    assert [found["id"] for found in with_context["results"]] == ["alice", "bob", "carol", "erin"]
    what = await edge.post(RESOURCE, WHAT, edge.key_check)
    assert what.json["results"] == [{"type": "record", "id": "1"}]
    assert what.headers["Kasbah-Revision"] == "7"
    how = (await edge.post(ACTION, HOW, edge.key_check)).json
    assert how["results"] == [{"name": "read"}]


async def test_what_is_searched_for_is_ignored_when_present(edge):
    """The id of the searched entity, whatever it is; and an action in an action search."""
    for identifier in ("nobody", 7, None, {"a": 1}, ""):
        body = WHO | {"subject": {"type": "user", "id": identifier}}
        assert len((await edge.post(SUBJECT, body, edge.key_check)).json["results"]) == 3
        body = WHAT | {"resource": {"type": "record", "id": identifier}}
        assert len((await edge.post(RESOURCE, body, edge.key_check)).json["results"]) == 1
    for action in ({"name": "write"}, 1, None):
        assert (await edge.post(ACTION, HOW | {"action": action}, edge.key_check)).json["results"] == [{"name": "read"}]


async def test_an_unknown_type_or_name_finds_nothing(edge):
    """An empty list, not an error."""
    for url, body in (
        (SUBJECT, WHO | {"subject": {"type": "alien"}}),
        (RESOURCE, WHAT | {"resource": {"type": "alien"}}),
        (RESOURCE, WHAT | {"subject": {"type": "user", "id": "nobody"}}),
        (ACTION, HOW | {"subject": {"type": "alien", "id": "x"}}),
    ):
        answer = await edge.post(url, body, edge.key_check)
        assert (answer.status, answer.json["results"], answer.json["page"]["next_token"]) == (200, [], "")


async def pages(edge, url, body, limit, key=None):
    """Return the results of every page, and the tokens."""
    found, tokens = [], []
    page = {"limit": limit}
    for _ in range(20):
        answer = (await edge.post(url, body | {"page": page}, key or edge.key_check)).json
        found.append(answer["results"])
        assert answer["page"]["count"] == len(answer["results"]) <= limit
        if not answer["page"]["next_token"]:
            return found, tokens
        tokens.append(answer["page"]["next_token"])
        page = {"token": tokens[-1]}
    raise AssertionError("pages without end")


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
async def test_pages_give_every_result_once(edge, limit):
    """An absent limit on a later page inherits; the last page says so with an empty token."""
    found, _ = await pages(edge, SUBJECT, WHO, limit)
    assert [result["id"] for page in found for result in page] == ["alice", "bob", "carol"]


async def test_a_limit_above_a_thousand_is_clamped_and_zero_is_a_page_of_none(edge):
    """And stays clamped on the next page."""
    answer = await edge.post(SUBJECT, WHO | {"page": {"limit": 10**6}}, edge.key_check)
    assert len(answer.json["results"]) == 3
    answer = await edge.post(SUBJECT, WHO | {"page": {"limit": 0}}, edge.key_check)
    assert answer.json["results"] == []
    assert answer.json["page"]["next_token"]


async def test_a_token_belongs_to_its_tenant_endpoint_question_and_limit(edge):
    """Any other use is 400, and points to the token."""
    first = (await edge.post(SUBJECT, WHO | {"page": {"limit": 1}}, edge.key_check)).json["page"]["next_token"]
    page = {"page": {"token": first}}
    assert (await edge.post(SUBJECT, WHO | page, edge.key_check)).status == 200
    assert (await edge.post(SUBJECT, WHO | {"page": {"token": first, "limit": 1}}, edge.key_check)).status == 200
    foreign = [
        (SUBJECT, WHO | page, edge.other_key),
        (SUBJECT, WHO | page | {"subject": {"type": "service"}}, edge.key_check),
        (SUBJECT, WHO | page | {"action": {"name": "write"}}, edge.key_check),
        (SUBJECT, WHO | page | {"resource": {"type": "record", "id": "2"}}, edge.key_check),
        (SUBJECT, WHO | page | {"context": {"ok": True}}, edge.key_check),
        (SUBJECT, WHO | page | {"context": {}}, edge.key_check),
        (SUBJECT, WHO | page | {"resource": {"type": "record", "id": "1", "properties": {"a": 1}}}, edge.key_check),
        (RESOURCE, WHAT | page, edge.key_check),
        (ACTION, HOW | page, edge.key_check),
    ]
    for url, body, key in foreign:
        answer = await edge.post(url, body, key)
        assert (answer.status, answer.json["pointer"]) == (400, "/page/token"), body
    answer = await edge.post(SUBJECT, WHO | {"page": {"token": first, "limit": 2}}, edge.key_check)
    assert (answer.status, answer.json["pointer"]) == (400, "/page/limit")
    ignored = WHO | page | {"subject": {"type": "user", "id": "someone"}, "future": 1}
    assert (await edge.post(SUBJECT, ignored, edge.key_check)).status == 200


async def test_a_forged_token_is_refused(edge):
    """Every changed character, cut, and added one."""
    token = (await edge.post(SUBJECT, WHO | {"page": {"limit": 1}}, edge.key_check)).json["page"]["next_token"]
    assert "alice" not in token
    forged = [token[:-1], token + "A", token + "=", token[1:], "x", "é", "A" * 20_000, token + "\n", token + " "]
    forged += [
        token[:place] + ("B" if token[place] == "A" else "A") + token[place + 1 :] for place in range(len(token))
    ]
    for text in forged:
        answer = await edge.post(SUBJECT, WHO | {"page": {"token": text}}, edge.key_check)
        assert (answer.status, answer.json["pointer"]) == (400, "/page/token"), text


BAD = [
    (SUBJECT, {}, "/subject"),
    (SUBJECT, WHO | {"subject": {}}, "/subject/type"),
    (SUBJECT, WHO | {"subject": {"type": "u:x"}}, "/subject/type"),
    (SUBJECT, WHO | {"subject": {"type": ""}}, "/subject/type"),
    (SUBJECT, WHO | {"subject": None}, "/subject"),
    (SUBJECT, {name: WHO[name] for name in ("subject", "resource")}, "/action"),
    (SUBJECT, WHO | {"resource": {"type": "record"}}, "/resource/id"),
    (SUBJECT, WHO | {"action": {"name": ""}}, "/action/name"),
    (SUBJECT, WHO | {"context": []}, "/context"),
    (SUBJECT, WHO | {"page": 1}, "/page"),
    (SUBJECT, WHO | {"page": {"limit": -1}}, "/page/limit"),
    (SUBJECT, WHO | {"page": {"limit": "1"}}, "/page/limit"),
    (SUBJECT, WHO | {"page": {"limit": 1.5}}, "/page/limit"),
    (SUBJECT, WHO | {"page": {"limit": True}}, "/page/limit"),
    (SUBJECT, WHO | {"page": {"limit": None}}, "/page/limit"),
    (SUBJECT, WHO | {"page": {"token": 1}}, "/page/token"),
    (RESOURCE, WHAT | {"subject": {"type": "user"}}, "/subject/id"),
    (RESOURCE, WHAT | {"resource": {"id": "1"}}, "/resource/type"),
    (ACTION, HOW | {"resource": {"type": "record"}}, "/resource/id"),
    (ACTION, HOW | {"subject": {"type": "user"}}, "/subject/id"),
]


@pytest.mark.parametrize(("url", "body", "pointer"), BAD, ids=[str(number) for number in range(len(BAD))])
async def test_a_bad_search_is_a_problem(edge, url, body, pointer):
    """400 with a pointer."""
    answer = await edge.post(url, body, edge.key_all)
    assert (answer.status, answer.json.get("pointer")) == (400, pointer), answer.body


async def test_repeated_members_of_a_search_are_refused(edge):
    """As everywhere."""
    body = json.dumps(WHO)[:-1].encode() + b',"page":{"limit":1,"limit":2}}'
    answer = await edge.post(SUBJECT, body, edge.key_all)
    assert (answer.status, answer.json["pointer"]) == (400, "/page/limit")


async def test_searching_for_roles_needs_the_scope_to_assert(edge):
    """As asking about one does."""
    body = WHO | {"subject": {"type": "role"}}
    assert (await edge.post(SUBJECT, body, edge.key_check)).status == 403
    found = (await edge.post(SUBJECT, body, edge.key_all)).json["results"]
    assert [role["id"] for role in found] == ["editor", "viewer"]
    body = WHAT | {"subject": {"type": "group", "id": "x"}}
    assert (await edge.post(RESOURCE, body, edge.key_check)).status == 403
    body = HOW | {"subject": {"type": "role", "id": "editor"}}
    assert (await edge.post(ACTION, body, edge.key_check)).status == 403


async def test_a_failing_search_is_503(edge):
    """Never an empty list."""
    edge.node.failure = StorageUnavailableError("down")
    for url, body in ((SUBJECT, WHO), (RESOURCE, WHAT), (ACTION, HOW)):
        assert (await edge.post(url, body, edge.key_check)).status == 503


async def test_a_demanded_revision_holds_for_a_search(edge):
    """503 when it is ahead."""
    assert (await edge.post(SUBJECT, WHO, edge.key_check, {"Kasbah-Min-Revision": "8"})).status == 503


names = st.sampled_from(["a", "b", "c", "A", "é", "a b", "x:y"])
lines = st.lists(
    st.one_of(
        st.builds(
            lambda who, what, how, eft: f"p {who} {what} {how} {eft}",
            st.one_of(
                st.builds("user:{}".format, st.sampled_from("abc")),
                st.sampled_from(["role:r", "role:s", "user:*", "*"]),
            ),
            st.sampled_from(["doc:1", "doc:2", "doc:*", "other:1", "*"]),
            st.sampled_from(["read", "write", "*"]),
            st.sampled_from(["allow", "allow", "deny"]),
        ),
        st.builds("g user:{} role:{}".format, st.sampled_from("abcd"), st.sampled_from("rs")),
        st.just("g role:r role:s"),
    ),
    max_size=12,
    unique=True,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines, st.integers(1, 3))
async def test_a_search_is_the_filter_of_its_candidates_by_evaluation(text, limit):
    """Whatever the policy: over HTTP, page by page, against single evaluations."""
    made = Edge()
    acme = made.tenant("acme", "\n".join(text))
    key = made.key(acme)
    # Candidates are what the policy names, by type; the universe holds them all.
    named = {word for line in text for word in line.split() if "*" not in word}
    subjects = sorted(word.partition(":")[2] for word in named if word.startswith("user:"))
    resources = sorted(word.partition(":")[2] for word in named if word.startswith("doc:"))
    actions = sorted({line.split()[3] for line in text if line.startswith("p ")} - {"*"})

    async def holds(edge, who, how, what):
        answer = await edge.post("/access/v1/evaluation", question(f"user:{who}", how, f"doc:{what}"), key)
        return answer.json["decision"]

    async with made.serving() as edge:
        who = {"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "doc", "id": "1"}}
        found, _ = await pages(edge, SUBJECT, who, limit, key)
        assert [one["id"] for page in found for one in page] == [
            s for s in subjects if await holds(edge, s, "read", "1")
        ]
        what = {"subject": {"type": "user", "id": "a"}, "action": {"name": "read"}, "resource": {"type": "doc"}}
        found, _ = await pages(edge, RESOURCE, what, limit, key)
        assert [one["id"] for page in found for one in page] == [
            r for r in resources if await holds(edge, "a", "read", r)
        ]
        how = {"subject": {"type": "user", "id": "a"}, "resource": {"type": "doc", "id": "1"}}
        found, _ = await pages(edge, ACTION, how, limit, key)
        assert [one["name"] for page in found for one in page] == [a for a in actions if await holds(edge, "a", a, "1")]
