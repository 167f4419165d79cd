"""What may stand in a tenant's policy, and what may not, through the use cases of administration."""

import asyncio

import pytest

from authz.apply_policy import apply_policy
from authz.change_policy import change_policy
from authz.errors import InvalidRowError, RevisionConflictError, RevisionNotFoundError
from authz.ports import StoredModel
from authz.request import Ref
from authz.role_chains import MAX_CHAIN
from authz.rollback_policy import rollback_policy
from authz.rules import Effect, EntityKind, RoleLink, Rule, Source, StoredEntity
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID
from tenancy.tenant import ChangeMeta

META = ChangeMeta("key:test")

pytestmark = pytest.mark.integration


def link(member, role, kind="g", **more):
    """Return a link between two names."""
    return RoleLink(Ref(member), Ref(role), kind, **more)


REFUSED = [
    Rule("alice", "record:1", "read"),
    Rule("user:alice", "record:*x", "read"),
    Rule("user:", "record:1", "read"),
    Rule("user:alice", "record:1", ""),
    Rule("user:alice", "record:1", "re*d"),
    Rule("user:al\x00ice", "record:1", "read"),
    Rule("user:alice\nrole:admin", "record:1", "read"),
    Rule("user:alice", "kasbah:keys", "read"),
    Rule("user:alice", "kasbah:*", "*"),
    Rule("role:platform-admin", "record:1", "read"),
    Rule("user:alice", "record:1", "read", condition="context.ip =="),
    Rule("user:alice", "record:1", "read", condition="1 + 1"),
    Rule("user:alice", "record:1", "read", base=True),
    Rule("user:alice", "record:1", "read", priority=1),
    link("user:alice", "user:bob"),
    link("user:*", "role:admin"),
    link("user:alice", "role:platform-admin"),
    link("role:platform-admin", "role:admin"),
    link("role:a", "role:a"),
    link("record:1", "folder:a", "g2"),
    link("user:alice", "role:admin", base=True),
    StoredEntity(EntityKind.SUBJECT, Ref("alice"), {}),
    StoredEntity(EntityKind.SUBJECT, Ref("user:alice"), {"x": float("nan")}),
    StoredEntity(EntityKind.SUBJECT, Ref("user:alice"), {"x": "y" * 70_000}),
]


async def test_what_may_not_stand_in_a_tenant_is_refused_on_every_way(acme, writer):
    """Through the API and through files alike, and nothing of the batch is written."""
    good = Rule("user:good", "record:1", "read")
    for row in REFUSED:
        with pytest.raises(InvalidRowError):
            await change_policy(acme.tenant_id, [good, row], [], meta=META, writer=writer)
        with pytest.raises(InvalidRowError):
            await apply_policy(acme.tenant_id, [good, row], planned_revision=1, meta=META, writer=writer)
    assert (await writer.current_rows(acme.tenant_id)).head.revision == 1


async def test_the_base_and_the_platform_may_say_more(writer):
    """Base rows speak of `kasbah:` resources; the platform's roles are its own; the base has no members."""
    rule = Rule("role:tenant-admin", "kasbah:*", "*", base=True)
    assert (await change_policy(BASE_TENANT_ID, [rule], [], meta=META, writer=writer)).added == 1
    member = link("user:root", "role:platform-admin")
    assert (await change_policy(PLATFORM_TENANT_ID, [member], [], meta=META, writer=writer)).added == 1
    for row in (
        link("user:x", "role:y", base=True),
        StoredEntity(EntityKind.SUBJECT, Ref("user:x"), {}),
        Rule("role:x", "record:1", "read"),
    ):
        with pytest.raises(InvalidRowError):
            await change_policy(BASE_TENANT_ID, [row], [], meta=META, writer=writer)


async def test_circles_are_refused_also_across_base_files_and_api(acme, writer):
    """The hierarchy that would result is judged, whoever owns its parts."""
    await change_policy(BASE_TENANT_ID, [link("role:a", "role:b", base=True)], [], meta=META, writer=writer)
    await change_policy(acme.tenant_id, [link("role:b", "role:c")], [], meta=META, writer=writer)
    closing = link("role:c", "role:a")
    with pytest.raises(InvalidRowError, match="circle"):
        await change_policy(acme.tenant_id, [closing], [], meta=META, writer=writer)
    with pytest.raises(InvalidRowError, match="circle"):
        await apply_policy(acme.tenant_id, [closing], planned_revision=3, meta=META, writer=writer)
    await change_policy(acme.tenant_id, [closing], [("g", "role:b", "role:c")], meta=META, writer=writer)


async def test_two_changes_cannot_close_a_circle_together(acme, writer):
    """Eight writers at once, each fine by itself: what stands at the end has no circle."""
    names = [f"role:r{n}" for n in range(8)]
    pairs = [(names[n], names[(n + 1) % 8]) for n in range(8)]
    outcomes = await asyncio.gather(
        *(change_policy(acme.tenant_id, [link(*pair)], [], meta=META, writer=writer) for pair in pairs),
        return_exceptions=True,
    )
    written = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len((await writer.hierarchy(acme.tenant_id)).links) == len(written) < 8
    assert sorted(outcome.head.revision for outcome in written) == list(range(2, 2 + len(written)))


async def test_a_chain_has_a_limit(acme, writer):
    """Deeper hierarchies are refused, never cut."""
    chain = [link(f"role:{n}", f"role:{n + 1}") for n in range(MAX_CHAIN)]
    await change_policy(acme.tenant_id, chain, [], meta=META, writer=writer)
    with pytest.raises(InvalidRowError, match="chain"):
        await change_policy(acme.tenant_id, [link(f"role:{MAX_CHAIN}", "role:top")], [], meta=META, writer=writer)


async def test_columns_follow_the_model(acme, writer):
    """What the model has no column for is refused; a priority model needs priorities."""
    text = (await writer.get_model()).text.replace(
        "p = sub, dom, obj, act, eft, cond", "p = priority, sub, dom, obj, act, eft"
    )
    await writer.set_model(StoredModel(text, "1" * 64), meta=META)
    await change_policy(
        acme.tenant_id, [Rule("user:a", "record:1", "read", Effect.DENY, priority=3)], [], meta=META, writer=writer
    )
    for row in (
        Rule("user:a", "record:1", "read"),
        Rule("user:a", "record:1", "read", condition="true", priority=1),
        Rule("user:a", "record:1", "read", priority=-1),
    ):
        with pytest.raises(InvalidRowError):
            await change_policy(acme.tenant_id, [row], [], meta=META, writer=writer)


async def test_apply_and_rollback(acme, writer):
    """A plan that is stale is refused; rollback makes a new revision out of an old one."""
    first = [Rule("role:a", "record:*", "read", source=Source("policy.csv", 1)), link("role:a", "role:b")]
    await apply_policy(acme.tenant_id, first, planned_revision=1, meta=META, writer=writer)
    with pytest.raises(RevisionConflictError):
        await apply_policy(acme.tenant_id, [], planned_revision=1, meta=META, writer=writer)
    await apply_policy(acme.tenant_id, [], planned_revision=2, meta=META, writer=writer)
    with pytest.raises(RevisionConflictError):
        await rollback_policy(acme.tenant_id, 2, expected_revision=2, meta=META, writer=writer)
    with pytest.raises(RevisionNotFoundError):
        await rollback_policy(acme.tenant_id, 9, meta=META, writer=writer)
    result = await rollback_policy(acme.tenant_id, 2, meta=META, writer=writer)
    assert (result.head.revision, result.added) == (4, 2)
    assert list((await writer.current_rows(acme.tenant_id)).rules) == first[:1]
    assert (await rollback_policy(acme.tenant_id, 4, meta=META, writer=writer)).head.revision == 4
