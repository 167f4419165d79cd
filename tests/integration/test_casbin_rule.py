"""`casbin_rule` through the adapter that others use: PyCasbin on these rows decides as expected, and never allows more."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import casbin
import pytest
from casbin_async_sqlalchemy_adapter import Adapter
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from authz.ports import StoredModel
from authz.request import Ref
from authz.rules import Effect, Owner, RoleLink, Rule, Source
from authz.storage_write import PostgresPolicyWriter
from tenancy.create_tenant import create_tenant
from tenancy.ids import BASE_TENANT_ID
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

META = ChangeMeta("key:test")
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.integration


@pytest.fixture
async def acme(store):
    """Return the head of a fresh tenant, beside another one with rules of its own."""
    tenants = TenantStore(store.sessions)
    other = await create_tenant("other", None, meta=META, tenants=tenants)
    writer = PostgresPolicyWriter(store.sessions)
    await writer.change_rows(
        other.tenant_id,
        add=[Rule("user:mallory", "*", "*"), RoleLink(Ref("user:mallory"), Ref("role:reader"))],
        remove=[],
        owner=Owner.API,
        meta=META,
    )
    return await create_tenant("acme", None, meta=META, tenants=tenants)


@asynccontextmanager
async def reading_as(store, tenant_id):
    """Yield an engine of somebody else's program: bound to one tenant by its connection options."""
    engine = create_async_engine(
        make_url(store.url).set(drivername="postgresql+psycopg"),
        connect_args={"options": f"-c role=kasbah_service -c app.tenant_id={tenant_id}"},
    )
    try:
        yield engine
    finally:
        await engine.dispose()


async def enforcer_of(store, tenant_id, tmp_path: Path):
    """Load PyCasbin from the view, with the platform's own model."""
    async with tenant_unit_of_work(store.sessions, tenant_id) as work:
        model = (await work.session.execute(text("SELECT text FROM platform_model"))).scalar_one()
    (tmp_path / "model.conf").write_text(model)
    async with reading_as(store, tenant_id) as engine:
        enforcer = casbin.AsyncEnforcer(str(tmp_path / "model.conf"), Adapter(engine))
        await enforcer.load_policy()
    return enforcer


async def status_of(store, tenant_id):
    """Return why the rows are withheld, or None."""
    async with tenant_unit_of_work(store.sessions, tenant_id) as work:
        return (await work.session.execute(text("SELECT withheld FROM casbin_rule_status"))).scalar_one_or_none()


async def test_pycasbin_decides_as_expected(store, acme, writer, tmp_path):
    """Base rules and links, wildcards, denies, hierarchy and memberships; conditions and expired grants give nothing."""
    base = [
        Rule("role:auditor", "log:*", "read", base=True, source=Source("policy.csv", 1)),
        RoleLink(Ref("role:chief"), Ref("role:auditor"), base=True, source=Source("policy.csv", 2)),
    ]
    await writer.replace_file_rows(BASE_TENANT_ID, base, meta=META, expected_revision=1)
    rows = [
        Rule("role:reader", "record:*", "read"),
        Rule("role:reader", "record:secret", "read", Effect.DENY),
        Rule("role:reader", "record:7", "write", condition="context.mfa == true"),
        Rule("user:*", "page:home", "read"),
        RoleLink(Ref("role:editor"), Ref("role:reader")),
        RoleLink(Ref("user:alice"), Ref("role:editor")),
        RoleLink(Ref("user:bob"), Ref("role:reader"), expires_at=PAST),
        RoleLink(Ref("user:carol"), Ref("role:chief"), expires_at=FUTURE),
    ]
    await writer.change_rows(acme.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    enforcer = await enforcer_of(store, acme.tenant_id, tmp_path)
    expected = {
        ("user:alice", "record:1", "read"): True,
        ("user:alice", "record:secret", "read"): False,
        ("user:alice", "record:7", "write"): False,
        ("user:bob", "record:1", "read"): False,
        ("user:carol", "log:today", "read"): True,
        ("user:nobody", "page:home", "read"): True,
        ("user:mallory", "record:1", "read"): False,
    }
    assert {key: enforcer.enforce(key[0], "acme", *key[1:]) for key in expected} == expected
    assert not enforcer.enforce("user:alice", "other", "record:1", "read")
    async with reading_as(store, acme.tenant_id) as engine, engine.connect() as connection:
        found = (await connection.execute(text("SELECT * FROM casbin_rule"))).all()
    assert [row.id for row in found] == list(range(1, len(found) + 1))
    assert tuple(found[0])[1:] == ("p", "role:auditor", "*", "log:*", "read", "allow", "")
    assert ("g", "role:chief", "role:auditor", "acme", None, None, None) in [tuple(row)[1:] for row in found]


@pytest.mark.parametrize(
    "rows",
    [
        [Rule("user:alice", "record:1", "read", Effect.DENY, "context.mfa == false")],
        [Rule("user:alice", "record:a,b", "read", Effect.DENY)],
        [Rule("user:alice", "record:1", "read", Effect.DENY), RoleLink(Ref("user:a]"), Ref("role:x"))],
        [Rule("role:x", "record:1", "read", Effect.DENY), RoleLink(Ref("role:y "), Ref("role:x"))],
    ],
    ids=["conditional deny", "deny with a comma", "membership with a bracket", "link with a blank at its end"],
)
async def test_a_tenant_whose_rows_would_over_allow_is_withheld(store, acme, writer, tmp_path, rows):
    """No rows at all, and a reason; PyCasbin then allows nothing, not even for a reload of a running enforcer."""
    allow = Rule("user:*", "*", "*")
    await writer.change_rows(acme.tenant_id, add=[allow], remove=[], owner=Owner.API, meta=META)
    enforcer = await enforcer_of(store, acme.tenant_id, tmp_path)
    assert enforcer.enforce("user:alice", "acme", "record:1", "read")
    await writer.change_rows(acme.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    assert await status_of(store, acme.tenant_id)
    async with reading_as(store, acme.tenant_id) as engine:
        enforcer.adapter = Adapter(engine)
        await enforcer.load_policy()
    assert enforcer.get_policy() == []
    assert not enforcer.enforce("user:alice", "acme", "record:1", "read")
    await writer.change_rows(acme.tenant_id, add=[], remove=[row.key for row in rows], owner=Owner.API, meta=META)
    assert await status_of(store, acme.tenant_id) is None


@pytest.mark.parametrize("links", [8, 9])
async def test_a_deny_behind_more_roles_than_pycasbin_follows_is_not_lost(store, acme, writer, tmp_path, links):
    """As long as PyCasbin follows the whole chain it denies; beyond that it gets no rows."""
    chain = [RoleLink(Ref(f"role:r{n}"), Ref(f"role:r{n + 1}")) for n in range(links)]
    rows = [
        Rule("user:*", "*", "*"),
        Rule(f"role:r{links}", "record:1", "read", Effect.DENY),
        RoleLink(Ref("user:alice"), Ref("role:r0")),
        *chain,
    ]
    await writer.change_rows(acme.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    enforcer = await enforcer_of(store, acme.tenant_id, tmp_path)
    assert not enforcer.enforce("user:alice", "acme", "record:1", "read")
    assert enforcer.enforce("user:alice", "acme", "record:2", "read") is (links < 9)
    assert (await status_of(store, acme.tenant_id) is None) is (links < 9)


async def test_a_conditional_deny_of_the_base_withholds_every_tenant(store, acme, writer):
    """Base rules are part of each tenant's policy."""
    deny = Rule("user:*", "*", "*", Effect.DENY, "context.lockdown == true", base=True)
    await writer.change_rows(BASE_TENANT_ID, add=[deny], remove=[], owner=Owner.API, meta=META)
    assert await status_of(store, acme.tenant_id) == "a deny rule has a condition"


@pytest.mark.parametrize(
    "name", ["a, role:admin", "a\u3000", "\u00a0a", "(a", "a]", "a,b", '"a"', "a\u2028b", "a\tb", "# a", "a.b*"]
)
async def test_no_name_becomes_another_row_on_its_way_through_pycasbin(store, acme, writer, tmp_path, name):
    """PyCasbin splits and trims text; what does not survive that is left out, the rest arrives as it is."""
    allow = Rule(f"user:{name}", "record:1", "read")
    member = RoleLink(Ref(f"user:{name}"), Ref("role:x"))
    await writer.change_rows(acme.tenant_id, add=[allow, member], remove=[], owner=Owner.API, meta=META)
    enforcer = await enforcer_of(store, acme.tenant_id, tmp_path)
    assert [policy[0] for policy in enforcer.get_policy()] in ([], [f"user:{name}"])
    assert [link[0] for link in enforcer.get_grouping_policy()] in ([], [f"user:{name}"])


async def test_a_suspended_tenant_and_an_unbound_reader_get_nothing(store, acme, writer):
    """Without a tenant there are no rows; a suspended tenant's own Casbin stops allowing as Kasbah does."""
    await writer.change_rows(acme.tenant_id, add=[Rule("user:*", "*", "*")], remove=[], owner=Owner.API, meta=META)
    async with store.engine.connect() as connection:
        assert (await connection.execute(text("SELECT * FROM casbin_rule"))).all() == []
    with store.owner() as owner:
        owner.execute("UPDATE tenants SET status = 'suspended' WHERE slug = 'acme'")
    assert await status_of(store, acme.tenant_id) == "the tenant is suspended"


async def test_columns_follow_the_model_and_priorities_their_order(store, acme, writer, tmp_path):
    """A priority model: lowest number first, base before own rows; the first match decides in PyCasbin too."""
    model = (await writer.get_model()).text
    model = model.replace("p = sub, dom, obj, act, eft, cond", "p = priority, sub, dom, obj, act, eft").replace(
        "e = some(where (p.eft == allow)) && !some(where (p.eft == deny))", "e = priority(p.eft) || deny"
    )
    with store.owner() as owner:
        owner.execute("DELETE FROM rules")  # the other tenant's has no priority
    await writer.set_model(StoredModel(model, "1" * 64), meta=META)
    rows = [
        Rule("user:alice", "record:*", "read", Effect.ALLOW, priority=20),
        Rule("user:alice", "record:1", "read", Effect.DENY, priority=3),
        Rule("user:alice", "record:2", "read", Effect.DENY, priority=100),
    ]
    await writer.change_rows(acme.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    enforcer = await enforcer_of(store, acme.tenant_id, tmp_path)
    assert [policy[0] for policy in enforcer.get_policy()] == ["3", "20", "100"]
    assert not enforcer.enforce("user:alice", "acme", "record:1", "read")
    assert enforcer.enforce("user:alice", "acme", "record:2", "read")


async def test_a_model_with_too_many_columns_is_withheld(store, acme, writer):
    """Seven columns do not fit into v0 to v5."""
    model = (await writer.get_model()).text.replace(
        "p = sub, dom, obj, act, eft, cond", "p = priority, sub, dom, obj, act, eft, cond"
    )
    with store.owner() as owner:
        owner.execute("DELETE FROM rules")  # the other tenant's has no priority
    await writer.set_model(StoredModel(model, "1" * 64), meta=META)
    await writer.change_rows(
        acme.tenant_id, add=[Rule("user:a", "record:1", "read", priority=1)], remove=[], owner=Owner.API, meta=META
    )
    assert "more columns" in str(await status_of(store, acme.tenant_id))
