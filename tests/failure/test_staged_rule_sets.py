"""Who replaces a large policy leaves its rule set in Valkey before the commit: it is used after the commit alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.ports import RuleSet, StagedRules
from authz.request import Ref
from authz.rule_set_codec import HEADER
from authz.rules import Owner, RoleLink, Row, Rule, Source
from authz.snapshot_cache import ValkeySnapshotCache
from authz.storage_write import SHARED_ROWS, PostgresPolicyWriter
from authz.write_ports import ChangeResult
from tenancy.ids import TenantId
from tests.support.live_node import META, LiveNode, live_node
from tests.support.seeding import seed

pytestmark = [pytest.mark.integration]

ADMINS = Rule("role:admin", "record:*", "read", base=True, owner=Owner.API)
BY_API = Rule("role:auditor", "record:7", "read", owner=Owner.API)
GRANT = RoleLink(Ref("user:alice"), Ref("role:reader"), owner=Owner.API)
QUIET: dict[str, Any] = {"poll_interval": 30, "max_staleness": 90}
"""No poll finds a change before the test asks for it."""


def policy(readers: str, count: int = SHARED_ROWS) -> list[Row]:
    """Return as many rules, the first of which lets `readers` read record 1."""
    pairs = [(readers, "record:1"), *((f"role:r{n}", f"record:{n}") for n in range(2, count + 1))]
    return [Rule(who, what, "read", source=Source("acme/policy.csv", n)) for n, (who, what) in enumerate(pairs, 1)]


async def acme(database_url: str) -> TenantId:
    """Seed a tenant in which alice is a reader, and no rule says what readers may."""
    return (await seed(database_url, {"acme": [BY_API, GRANT]}, base=[ADMINS])).tenants["acme"]


async def replace_policy(writer: PostgresPolicyWriter, tenant: TenantId, rows: Sequence[Row]) -> ChangeResult:
    head = (await writer.hierarchy(tenant)).head
    return await writer.replace_file_rows(tenant, rows, meta=META, expected_revision=head.revision)


def valkey_of(node: LiveNode) -> ValkeySnapshotCache:
    assert isinstance(node.cache, ValkeySnapshotCache)
    return node.cache


class DyingShelf:
    """Leaves the rule set in Valkey, and dies before the commit."""

    def __init__(self, node: LiveNode) -> None:
        self._node = node.node
        self.staged: list[StagedRules] = []

    async def stage_rules(self, rule_set: RuleSet) -> StagedRules | None:
        staged = await self._node.stage_rules(rule_set)
        assert staged is not None
        self.staged.append(staged)
        raise RuntimeError("killed")

    async def release_rules(self, staged: StagedRules) -> None:
        raise AssertionError("nothing was committed")


async def test_nodes_find_what_was_written_without_reading_a_row(own_database_url: str, own_valkey):
    """The whole rule set as PostgreSQL gives it, with the base's and the API's rows, for nodes old and new."""
    tenant = await acme(own_database_url)
    async with (
        live_node(own_database_url, own_valkey.url, **QUIET) as writing,
        live_node(own_database_url, own_valkey.url, **QUIET) as other,
    ):
        assert not await other.allows(tenant)
        before = other.node.statistics()["snapshots_from_database"]
        result = await replace_policy(writing.writer, tenant, policy("role:reader"))
        assert await other.allows(tenant, min_revision=result.head.revision)
        assert other.node.statistics()["snapshots_from_database"] == before
        assert other.node.statistics()["snapshots_from_cache"] == 1
        found = await valkey_of(other).find_rules(result.head, "", other.node._feed.server_run)
        assert found == await other.reader.load_rules(tenant)
        assert found is not None
        assert found.rules[0] == ADMINS
        assert found.rules[-1] == BY_API
        async with Redis.from_url(own_valkey.url) as client:
            assert len(await client.keys("*")) == 1, "nothing staged is left"
            assert await client.pttl(valkey_of(other)._rules_key(tenant)) > 0
    async with live_node(own_database_url, own_valkey.url, **QUIET) as fresh:
        assert await fresh.allows(tenant)
        assert fresh.node.statistics()["snapshots_from_cache"] == 1


async def test_small_policies_and_changes_by_the_api_are_not_left(own_database_url: str, own_valkey):
    """Nodes read few rows sooner by themselves; and one rule more is no reason to read all of them in a write."""
    tenant = await acme(own_database_url)
    async with live_node(own_database_url, own_valkey.url, **QUIET) as node:
        await replace_policy(node.writer, tenant, policy("role:reader", SHARED_ROWS - 2))
        await replace_policy(node.writer, tenant, policy("role:reader", SHARED_ROWS + 5))
        await node.change(tenant, add=[Rule("role:x", "record:x", "read", owner=Owner.API)])
        await node.change(tenant, add=[RoleLink(Ref("user:bob"), Ref("role:x"), owner=Owner.API)])
        assert valkey_of(node).stored == 1


async def test_what_was_never_committed_is_never_used(own_database_url: str, own_valkey):
    """Not even when somebody who may write to Valkey puts it where nodes look, and its revision is another change's."""
    tenant = await acme(own_database_url)
    async with live_node(own_database_url, own_valkey.url, **QUIET) as node:
        place = valkey_of(node)._rules_key(tenant)
        dying = DyingShelf(node)
        dead = PostgresPolicyWriter(node.writer._sessions, shelf=dying)
        with pytest.raises(RuntimeError):
            await replace_policy(dead, tenant, policy("role:reader"))
        result = await replace_policy(node.writer, tenant, policy("role:nobody"))
        async with Redis.from_url(own_valkey.url) as client:
            left = await client.get(dying.staged[0].name)
            assert 0 < await client.pttl(dying.staged[0].name) <= 60_000, "it is forgotten soon"
            good = await client.get(place)
            assert left[: HEADER.size] == good[: HEADER.size], "both are of the same revision"
            await client.set(place, left)
    async with live_node(own_database_url, own_valkey.url, **QUIET) as fresh:
        assert not await fresh.allows(tenant, min_revision=result.head.revision)
        assert valkey_of(fresh).rejected == {"stamp": 1}
        assert fresh.node.statistics()["snapshots_from_database"] == 1


@pytest.mark.parametrize("when", ["before it is staged", "after it was staged"])
async def test_a_policy_is_replaced_without_valkey(own_database_url: str, own_valkey, when: str):
    """Killed or flushed in the middle of it: the change is whole, and nodes read it from PostgreSQL."""
    tenant = await acme(own_database_url)
    async with live_node(own_database_url, own_valkey.url, **QUIET) as node:

        class Losing:
            async def stage_rules(self, rule_set: RuleSet) -> StagedRules | None:
                if when == "before it is staged":
                    own_valkey.kill()
                staged = await node.node.stage_rules(rule_set)
                if staged is not None:
                    async with Redis.from_url(own_valkey.url) as client:
                        await client.flushall()
                return staged

            async def release_rules(self, staged: StagedRules) -> None:
                await node.node.release_rules(staged)

        writer = PostgresPolicyWriter(node.writer._sessions, shelf=Losing())
        result = await replace_policy(writer, tenant, policy("role:reader"))
        assert await node.allows(tenant, min_revision=result.head.revision)
        assert node.node.statistics()["snapshots_from_database"] == 1
