"""An account that is disabled or deleted may do nothing: on no way, under no model, whatever its rules say."""

import asyncio
import json
from dataclasses import replace

import pytest

from authz.cross_check import Comparison, CrossCheck
from authz.decision import Reason
from authz.explain import explain
from authz.ports import Account, AccountState
from authz.search import SearchContext, search_actions, search_resources, search_subjects
from authz.served_model import ColumnMatch, PolicyEffect
from service.cross_check import load_casbin, shape_of
from service.http import authzen, forward_auth
from service.http_settings import HttpSettings
from tests.property.test_search import OneTenant
from tests.support.edge import Edge, question
from tests.support.policies import DEFAULT_MODEL, NOW, ask, policy, set_account
from tests.unit.test_cross_check import Reader, sample
from tests.unit.test_fast_path import check, raw

BARRED = [AccountState.DISABLED, AccountState.DELETED]
REASONS = {AccountState.DISABLED: Reason.ACCOUNT_DISABLED, AccountState.DELETED: Reason.ACCOUNT_DELETED}
ALICE = "user:alice"

POLICY = """
base p user:* page:home view
g user:alice role:editor
g role:editor role:reader
p user:alice record:1 read
p role:reader record:* read
p user:* record:* list
p * record:* see
p role:editor record:2 read if true
p role:editor record:3 read deny
p role:editor record:4 read deny if context.missing
"""
QUESTIONS = [
    ask(ALICE, action, resource)
    for action, resource in [
        ("read", "record:1"),
        ("read", "record:2"),
        ("read", "record:3"),
        ("read", "record:4"),
        ("read", "record:9"),
        ("list", "record:1"),
        ("see", "record:1"),
        ("view", "page:home"),
        ("write", "nothing:1"),
    ]
]

MODELS = {
    "default": DEFAULT_MODEL,
    "allow override": replace(DEFAULT_MODEL, effect=PolicyEffect.ALLOW_OVERRIDE),
    "priority": replace(DEFAULT_MODEL, effect=PolicyEffect.PRIORITY),
    "star": replace(DEFAULT_MODEL, subject=ColumnMatch(prefix=True, star=True, roles="g")),
    "residual": replace(DEFAULT_MODEL, action=ColumnMatch(), residual=lambda *_: True),
    "no index": replace(
        DEFAULT_MODEL,
        effect=PolicyEffect.ALLOW_OVERRIDE,
        subject=ColumnMatch(),
        resource=ColumnMatch(),
        action=ColumnMatch(),
        residual=lambda *_: True,
    ),
}


@pytest.mark.parametrize("state", BARRED)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_nothing_is_allowed_and_the_reason_is_said(model, state):
    """With and without the determining rules; no rule is named, for none had a say."""
    small = policy(POLICY, model=model)
    assert any(small.decide(each, NOW).allowed for each in QUESTIONS)
    set_account(small, ALICE, AccountState.ACTIVE)
    active = [small.decide(each, NOW) for each in QUESTIONS]
    set_account(small, ALICE, None)
    assert [small.decide(each, NOW) for each in QUESTIONS] == active, "an active account is judged by rules alone"
    set_account(small, ALICE, state)
    for each in QUESTIONS:
        for trace in (False, True):
            decision = small.decide(each, NOW, trace=trace)
            assert (decision.allowed, decision.reason, decision.determining) == (False, REASONS[state], ()), each
    assert small.subjects[QUESTIONS[0].subject.ref].names == frozenset()


@pytest.mark.parametrize("state", BARRED)
def test_searches_leave_it_out(state):
    """It is no result, and finds nothing."""
    small = policy(POLICY)
    set_account(small, "user:bob", AccountState.ACTIVE)
    where = SearchContext(OneTenant(small), OneTenant(small), small.head.tenant_id)

    async def found():
        asked = ask(ALICE, "list", "record:1")
        pages = [
            await search(where, asked, after="", limit=100)
            for search in (search_subjects, search_resources, search_actions)
        ]
        return [page.results for page in pages]

    subjects, resources, actions = asyncio.run(found())
    assert subjects == ("alice", "bob")
    assert resources
    assert actions
    set_account(small, ALICE, state)
    assert asyncio.run(found()) == [("bob",), (), ()]


@pytest.mark.parametrize("state", BARRED)
def test_an_explanation_says_so_and_blames_no_rule(state):
    """What would grant it to others would not help."""
    small = policy(POLICY)
    set_account(small, ALICE, state)
    for each in QUESTIONS:
        told = explain(small, each, small.decide(each, NOW), NOW)
        assert f"account is {state.value}" in told.summary
        assert (told.roles, told.granted_by, told.blocked_by, told.would_grant) == ((), (), (), ())
        assert (told.unmet_conditions, told.failed_conditions) == ((), ())


@pytest.mark.parametrize("state", BARRED)
def test_the_cross_check_knows_that_pycasbin_knows_no_accounts(state):
    """A refusal was right, whatever PyCasbin says; an allow was not."""
    reader = Reader(POLICY)
    check_of = CrossCheck(reader, load_casbin, shape_of)
    asked = (ALICE, "list", "record:1")

    def compared(*, allowed):
        return asyncio.run(check_of.compare(sample(reader.small, *asked, allowed=allowed)))

    assert compared(allowed=True) is Comparison.AGREES
    set_account(reader.small, ALICE, state)
    assert compared(allowed=False) is Comparison.AGREES
    assert compared(allowed=True) is Comparison.DIFFERS
    set_account(reader.small, ALICE, AccountState.ACTIVE)
    assert compared(allowed=False) is Comparison.DIFFERS


@pytest.fixture
def edge():
    settings = HttpSettings(public_url="https://pdp.example")
    built = Edge(settings, (*authzen.ROUTES, *forward_auth.ROUTES))
    built.id = built.tenant("acme", POLICY)
    return built


@pytest.mark.parametrize("state", BARRED)
async def test_both_ways_answer_it_alike(edge, state):
    """Every question, whatever the index says of it; others are answered on the fast way as before."""
    key = edge.key(edge.id)
    set_account(edge.node.tenants[edge.id], ALICE, state)
    requests = [raw(question(ALICE, each.action.name, each.resource.ref), key=key) for each in QUESTIONS]
    for answer in await check(edge, *requests):
        assert b'"decision":false' in answer
        assert REASONS[state].value.encode() in answer
    (answer,) = await check(edge, raw(question("user:bob", "list", "record:1"), key=key), fast=1)
    assert b'"decision":true' in answer


@pytest.mark.parametrize("state", BARRED)
async def test_a_gateway_is_told_no(edge, state):
    """By the same decision."""
    edge.node.tenants[edge.id] = policy("p user:alice url:app.example/* GET")
    edge.node.tenants[edge.id].head = edge.node.heads[edge.id]
    asked = {"X-Kasbah-Key": edge.key(edge.id), "X-Kasbah-Subject": "alice", "X-Original-Method": "GET"}
    asked |= {"X-Original-Host": "app.example", "X-Original-URI": "/reports"}
    async with edge.serving():
        assert (await edge.get("/v1/forward-auth", headers=asked)).status == 200
        set_account(edge.node.tenants[edge.id], ALICE, state)
        assert (await edge.get("/v1/forward-auth", headers=asked)).status == 403


@pytest.mark.parametrize("state", BARRED)
async def test_a_batch_with_such_an_account_says_so_item_by_item(edge, state):
    """As its single questions; the other items are answered as ever."""
    key = edge.key(edge.id)
    set_account(edge.node.tenants[edge.id], ALICE, state)
    items = [question(who, "list", "record:1") for who in (ALICE, "user:bob", ALICE)]
    for body in ({"evaluations": items}, {**question(ALICE, "list", "record:1"), "evaluations": [{}, items[1]]}):
        (answer,) = await check(edge, raw(body, key=key, path="/access/v1/evaluations"))
        answers = json.loads(answer.partition(b"\r\n\r\n")[2])["evaluations"]
        for asked, said in zip(body["evaluations"], answers, strict=True):
            bob = asked.get("subject", {}).get("id") == "bob"
            reason = "rule" if bob else REASONS[state].value
            assert (said["decision"], said["context"]["kasbah"]["reason"]) == (bob, reason)


def test_facts_of_an_account_that_may_do_nothing_do_not_expire():
    """Its grants do not count, so when they end does not either."""
    small = policy("g user:alice role:editor until 2026-06-02T00:00:00+00:00")
    record = small.records[QUESTIONS[0].subject.ref]
    assert small.snapshot.facts(ALICE, record, NOW).valid_until < float("inf")
    barred = small.snapshot.facts(ALICE, replace(record, account=Account(AccountState.DISABLED)), NOW)
    assert (barred.names, barred.valid_until) == (frozenset(), float("inf"))
