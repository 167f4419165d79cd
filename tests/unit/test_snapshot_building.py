"""Building a snapshot: a large one gives way to other threads again and again; what the platform demands is in it."""

import pytest

from authz.ports import EVERY_ROLE, RuleSet, StoredModel
from authz.rules import Effect, Rule
from authz.snapshot import GIVE_WAY_ROWS, build_snapshot
from tenancy.ids import Slug, TenantId, TenantStatus
from tenancy.tenant import TenantHead
from tests.support.policies import DEFAULT_MODEL
from tests.support.policy_world import tenant_id

ROWS = 20 * GIVE_WAY_ROWS
TENANT: TenantId = tenant_id(1)
HEAD = TenantHead(TENANT, Slug("acme"), TenantStatus.ACTIVE, 1, 1, 1)


def test_a_demand_of_the_platform_is_in_the_snapshot_and_not_in_what_nodes_share():
    """A rule set that a node keeps for others says only what the tenant demands."""
    rule_set = RuleSet(HEAD, StoredModel("", ""), [], [], ("role:admin",))
    built = build_snapshot(rule_set, DEFAULT_MODEL, mfa_of_everybody=True)
    assert (built.mfa_roles, built.rule_set.mfa_roles) == ({EVERY_ROLE}, ("role:admin",))
    assert build_snapshot(rule_set, DEFAULT_MODEL).mfa_roles == {"role:admin"}


@pytest.mark.parametrize(
    "resource",
    ["record:{n}", "record:x", "record:/area-{n}/*", "*"],
    ids=["one row a resource", "one resource", "patterns", "any resource"],
)
def test_it_gives_way_while_rows_are_filed_and_while_they_are_grouped(resource: str):
    """However the rows fall into groups; one group is made in one go."""
    rules = [Rule(f"role:{n}", resource.format(n=n), f"read-{n}", Effect.ALLOW) for n in range(ROWS)]
    calls = 0

    def give_way() -> None:
        nonlocal calls
        calls += 1

    built = build_snapshot(RuleSet(HEAD, StoredModel("", ""), rules, []), DEFAULT_MODEL, give_way)
    assert calls >= 2 * ROWS // GIVE_WAY_ROWS
    assert list(built.candidates(None, resource.format(n=7).replace("*", "x:y"), "read-7")) == [7]
