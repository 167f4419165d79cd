"""The fast way for keys of service accounts: as far as rows without conditions decide what the account may."""

from uuid import UUID

import pytest

from service.fast_path import FastHandler
from service.server import DeadlineHandler
from tests.support.edge import Edge, question

BILLING = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
OWN = f"service:{BILLING}"
PATH = "/access/v1/evaluation"
ASK = question("user:alice", "read", "record:1")
ROWS = "p user:alice record:* read\np role:caller kasbah:decision check\n"


def fast_answers(edge: Edge) -> int:
    """How many answers the fast way gave."""
    return sum(source().get("fast_answers", 0) for source in edge.metrics._sources)


async def asked(text: str, *scopes: str, handler=FastHandler, times: int = 6) -> tuple[list[int], int]:
    """Ask one question again and again; return the statuses, and how many answers the fast way gave."""
    edge = Edge()
    edge.handler_class = handler
    key = edge.key(edge.tenant("acme", text), *(scopes or ("decision:check",)), account=BILLING)
    async with edge.serving():
        statuses = [(await edge.post(PATH, ASK, key)).status for _ in range(times)]
        return statuses, fast_answers(edge)


async def test_an_enforcement_point_is_answered_the_fast_way():
    """Once its facts are held; before, the ordinary way looks them up."""
    statuses, fast = await asked(f"{ROWS}g {OWN} role:caller")
    assert statuses == [200] * 6
    assert fast >= 4


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (ROWS, 403),
        (f"{ROWS}g {OWN} role:caller\np {OWN} kasbah:decision check deny", 403),
        (f'{ROWS}p {OWN} kasbah:decision check if action.name == "check"', 200),
        (f"{ROWS}g {OWN} role:caller until 2999-01-01T00:00:00+00:00", 200),
        (f"{ROWS}g {OWN} role:caller until 2026-01-01T00:00:00+00:00", 403),
    ],
    ids=["no role", "denied", "by a condition", "by a role that ends", "by a role that ended"],
)
async def test_all_else_is_judged_the_ordinary_way(text, status):
    """And the answer is the same without the fast way."""
    statuses, fast = await asked(text)
    assert (statuses, fast) == ([status] * 6, 0)
    assert (await asked(text, handler=DeadlineHandler))[0] == statuses


async def test_a_key_without_the_scope_is_refused_whatever_its_account_may():
    """Both are bounds."""
    assert await asked(f"{ROWS}g {OWN} role:caller", "policy:read") == ([403] * 6, 0)


async def test_what_is_taken_counts_for_the_next_request():
    """A change of the policy is a change of who calls."""
    edge = Edge()
    edge.handler_class = FastHandler
    tenant = edge.tenant("acme", f"{ROWS}g {OWN} role:caller")
    key = edge.key(tenant, "decision:check", account=BILLING)
    async with edge.serving():
        for _ in range(4):
            assert (await edge.post(PATH, ASK, key)).status == 200
        assert fast_answers(edge) > 0
        other = Edge()
        edge.node.tenants[tenant] = other.node.tenants[other.tenant("acme", ROWS)]
        assert [(await edge.post(PATH, ASK, key)).status for _ in range(3)] == [403] * 3


@pytest.mark.parametrize("granted", [True, False])
async def test_only_who_may_assert_is_believed(granted):
    """A group is asked about by those who may assert, fast or not: the scope alone is not enough."""
    group = question("group:a", "read", "record:1")
    more = "p role:caller kasbah:decision assert\n" if granted else ""
    edge = Edge()
    edge.handler_class = FastHandler
    tenant = edge.tenant("acme", f"{ROWS}{more}g {OWN} role:caller")
    key = edge.key(tenant, "decision:check", "decision:assert", account=BILLING)
    async with edge.serving():
        for _ in range(4):
            assert (await edge.post(PATH, ASK, key)).status == 200
        for _ in range(3):
            assert (await edge.post(PATH, group, key)).status == (200 if granted else 403)
