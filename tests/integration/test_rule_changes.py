"""What PostgreSQL says about changed rules brings a rule set to exactly what it says when all rows are read."""

import random
from typing import Any

import pytest

from authz.ports import EVERY_ROLE, RuleSet, TenantHead
from authz.request import Ref
from authz.row_changes import kind_of
from authz.rule_changes import brought_up
from authz.rules import Effect, EntityKind, Owner, RoleLink, Row, Rule, Source, StoredEntity
from authz.storage import MAX_CHANGED_ROWS, PostgresPolicyReader
from authz.storage_write import PostgresPolicyWriter
from tenancy.ids import BASE_TENANT_ID
from tenancy.settings_storage import TenantSettingsStore
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions
from tests.integration.conftest import StoreDatabase

pytestmark = [pytest.mark.integration]

META = ChangeMeta("test")


def rule(number: int, **fields: Any) -> Rule:
    return Rule(f"role:r{number}", "record:1", "read", owner=Owner.API, **fields)


def of_file(number: int, line: int) -> Rule:
    return Rule(f"role:f{number}", "record:1", "read", source=Source("acme/policy.csv", line))


class Tenant:
    """A tenant, and the rule set that a node would hold of it."""

    def __init__(
        self, reader: PostgresPolicyReader, writer: PostgresPolicyWriter, head: TenantHead, sessions: Sessions
    ) -> None:
        self.reader, self.writer, self.id, self.sessions = reader, writer, head.tenant_id, sessions
        self.held: RuleSet

    async def read(self) -> RuleSet:
        self.held = await self.reader.load_rules(self.id)
        return self.held

    async def change(self, add: list[Row], remove: list[Row]) -> None:
        keys = [row.key for row in remove]
        await self.writer.change_rows(self.id, add=add, remove=keys, owner=Owner.API, meta=META)

    async def replace(self, rows: list[Row]) -> None:
        head = (await self.writer.hierarchy(self.id)).head
        await self.writer.replace_file_rows(self.id, rows, meta=META, expected_revision=head.revision)

    async def brought_up(self) -> RuleSet | None:
        touched = await self.reader.touched_since(self.id, *self.held.head.version)
        if touched.everything or touched.changed_rows is None:
            return None
        return brought_up(self.held, touched.head, touched.changed_rows)


@pytest.fixture
async def tenant(
    reader: PostgresPolicyReader, writer: PostgresPolicyWriter, acme: TenantHead, store: StoreDatabase
) -> Tenant:
    await writer.change_rows(BASE_TENANT_ID, add=[rule(0)], remove=[], owner=Owner.API, meta=META)
    made = Tenant(reader, writer, acme, store.sessions)
    await made.replace([of_file(n, n) for n in range(1, 6)])
    await made.change([rule(n) for n in range(10)], [])
    await made.read()
    return made


async def test_any_changes_by_the_api_lead_to_the_same_rule_set(tenant: Tenant):
    """Rules, hierarchy, memberships and attributes, several revisions at a time; the order of rules included."""
    chance = random.Random(7)
    pool: list[Row] = [rule(n, effect=effect, priority=None) for n in range(12) for effect in Effect]
    pool += [RoleLink(Ref(f"role:r{n}"), Ref("role:top"), owner=Owner.API) for n in range(5)]
    pool += [RoleLink(Ref(f"user:u{n}"), Ref("role:top"), owner=Owner.API) for n in range(5)]
    pool += [StoredEntity(EntityKind.SUBJECT, Ref(f"user:u{n}"), {"n": n}, Owner.API) for n in range(3)]
    for _ in range(15):
        for _ in range(chance.randrange(1, 4)):
            add = chance.sample(pool, chance.randrange(5))
            await tenant.change(add, [row for row in chance.sample(pool, chance.randrange(5)) if row not in add])
        found = await tenant.brought_up()
        assert found is not None
        read = await tenant.read()
        assert (found.head, found.model, found.rules) == (read.head, read.model, read.rules)
        assert sorted(found.links, key=repr) == sorted(read.links, key=repr)
        assert {kind_of(row) for row in found.links} <= {"links"}


async def test_rows_are_read_where_changes_do_not_say_enough(tenant: Tenant):
    """Rows of files, more lines moved, too many rows, and a change of the base."""
    await tenant.replace([of_file(n, n) for n in range(1, 7)])
    assert await tenant.brought_up() is None
    await tenant.read()
    await tenant.replace([of_file(n, n + 1) for n in range(1, 7)])
    assert await tenant.brought_up() is None
    await tenant.read()
    await tenant.replace([of_file(n, n + 1) for n in range(2, 7)])
    assert await tenant.brought_up() == await tenant.read(), "one that went leaves the others where they were"
    await tenant.change([rule(n) for n in range(100, 101 + MAX_CHANGED_ROWS)], [])
    assert await tenant.brought_up() is None
    await tenant.read()
    await tenant.writer.change_rows(BASE_TENANT_ID, add=[rule(1)], remove=[], owner=Owner.API, meta=META)
    assert await tenant.brought_up() is None


async def test_which_roles_demand_a_second_factor_is_of_one_revision_with_the_rules(tenant: Tenant) -> None:
    """A change of them makes a revision of the rules; no held rule set is brought up to it by rows alone."""
    settings = TenantSettingsStore(tenant.sessions, TenantLimits())

    async def set_mfa(**mfa: Any) -> TenantHead:
        head, _ = await settings.change(tenant.id, lambda document: {**document, "mfa": mfa}, meta=META)
        return head

    before = await tenant.read()
    assert before.mfa_roles == ()
    head = await set_mfa(demand="roles", roles=["role:r2", "role:r1"])
    assert head.rules_revision == head.revision > before.head.revision
    await tenant.change([rule(7)], [])
    assert await tenant.brought_up() is None
    assert (await tenant.read()).mfa_roles == ("role:r1", "role:r2")
    await tenant.change([rule(8)], [])
    followed = await tenant.brought_up()
    assert followed is not None
    assert followed.mfa_roles == ("role:r1", "role:r2")
    await set_mfa(demand="required", roles=[])
    assert (await tenant.read()).mfa_roles == (EVERY_ROLE,)
    await settings.change(tenant.id, lambda document: {**document, "sign_in": {"max_failures": 50}}, meta=META)
    assert await tenant.brought_up() == (await tenant.read())
    await set_mfa(demand="optional", roles=[])
    assert await tenant.brought_up() is None
    assert (await tenant.read()).mfa_roles == ()
