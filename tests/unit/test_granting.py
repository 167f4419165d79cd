"""The gate at work: whom it asks about, and at which revision."""

from uuid import UUID, uuid4

import pytest

from authn.api_keys import SCOPES
from authz.errors import GrantRefusedError, StaleError, StorageUnavailableError
from authz.granting import (
    Grantor,
    PolicyJudge,
    catalogue,
    require_everything,
    require_grantable,
    require_power_over,
    require_scopes,
    rights_of_scopes,
)
from authz.request import Ref
from authz.rights import EVERYTHING, Right, Rights, first_excess
from authz.row_changes import RowChanges
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId
from tests.support.edge import FakeNode, head_of
from tests.support.policies import policy, rows

ACME = TenantId(UUID(int=7))
ALL = frozenset(SCOPES)
ROLES = "base p role:chief kasbah:* *\nbase p role:helper kasbah:role/* grant\n"


def node(text: str = "", platform: str = "", revision: int = 7) -> FakeNode:
    """Return a node with the tenant's policy and the platform's."""
    fake = FakeNode()
    for tenant_id, slug, more in ((ACME, "acme", text), (PLATFORM_TENANT_ID, "_platform", platform)):
        small = policy(ROLES + more)
        small.head = head_of(tenant_id, slug, revision)
        fake.tenants[tenant_id] = small
        fake.heads[tenant_id] = small.head
    return fake


def added(text: str) -> RowChanges:
    """Return a change that adds these rows."""
    return RowChanges(added={row.id: row for row in rows(text)})


def test_all_scopes_together_are_everything():
    """So that a key that carries them all is never in the way; none of them alone is."""
    everything = Rights(frozenset((EVERYTHING,)))
    assert first_excess(everything, rights_of_scopes(ALL), catalogue()) is None
    for scope in sorted(scope for scope in SCOPES if rights_of_scopes(frozenset((scope,))).allows):
        assert first_excess(everything, rights_of_scopes(ALL - {scope}), catalogue()) is not None, scope


async def test_a_key_that_may_everything_needs_no_policy_to_be_known():
    """It is not judged, so it works whatever the node knows, and costs nothing."""
    fake = node()
    fake.failure = StorageUnavailableError("down")
    judge = PolicyJudge(Grantor(ALL, ACME), ACME, fake)
    await judge.prepare()
    await judge.judge(fake.heads[ACME], added("g user:x role:chief"))
    narrow = PolicyJudge(Grantor(ALL - {"tenant:write"}, ACME), ACME, fake)
    with pytest.raises(StorageUnavailableError):
        await narrow.prepare()
    with pytest.raises(StorageUnavailableError):
        await narrow.judge(fake.heads[ACME], added("g user:x role:editor"))


async def test_a_policy_of_another_revision_than_the_lock_judges_nothing():
    """Neither an older one nor another one with the same number."""
    fake = node(revision=7)
    judge = PolicyJudge(Grantor(frozenset({"policy:write"}), ACME), ACME, fake)
    await judge.judge(head_of(ACME, "acme", 7), added("g user:x role:editor"))
    for revision in (8, 6):
        with pytest.raises(StaleError):
            await judge.judge(head_of(ACME, "acme", revision), added("g user:x role:editor"))


async def test_rights_of_people_of_the_platform_are_those_of_its_domain():
    """In a tenant's policy the same name is nobody."""
    person = Ref(f"user:{uuid4()}")
    grantor = Grantor(ALL, PLATFORM_TENANT_ID, person)
    with_role, without = node(platform=f"g {person} role:chief\n"), node(text=f"g {person} role:chief\n")
    await require_grantable(grantor, ACME, [Ref("role:chief")], node=with_role)
    await require_everything(grantor, node=with_role)
    for refused in (
        require_grantable(grantor, ACME, [Ref("role:chief")], node=without),
        require_everything(grantor, node=without),
        require_scopes(grantor, {"key:write"}, node=without),
        require_power_over(grantor, ACME, Ref("user:boss"), node=node(text="g user:boss role:chief\n")),
    ):
        with pytest.raises(Exception, match="kasbah|yours|hold"):
            await refused


async def test_a_change_of_the_base_is_judged_on_the_platforms_policy():
    """Which holds the rows of the base, and says who of the platform may what."""
    person = Ref(f"user:{uuid4()}")
    fake = node(platform=f"g {person} role:helper\n")
    judge = PolicyJudge(Grantor(ALL, PLATFORM_TENANT_ID, person), BASE_TENANT_ID, fake)
    await judge.prepare()
    await judge.judge(head_of(BASE_TENANT_ID, "_base", 3), added("base g role:new role:editor"))
    with pytest.raises(GrantRefusedError):
        await judge.judge(head_of(BASE_TENANT_ID, "_base", 3), added("base p role:new kasbah:key write"))
    with pytest.raises(GrantRefusedError):
        await judge.judge(head_of(BASE_TENANT_ID, "_base", 3), added("base g role:new role:chief"))


def test_the_catalogue_is_what_routes_ask_about():
    """And the families of names that are open."""
    assert catalogue().families == {Right(f"kasbah:{kind}/*", "grant") for kind in ("role", "group", "permission")}
    assert Right("kasbah:rule", "write") in catalogue().pairs
