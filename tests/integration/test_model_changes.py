"""The platform's model is replaced only by one that has a place for every stored row, and by one writer at a time."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from authz.change_policy import change_policy
from authz.errors import InvalidRowError, ModelConflictError, ModelTooNarrowError
from authz.ports import StoredModel
from authz.request import Ref
from authz.rules import Effect, Owner, RoleLink, Rule
from authz.storage_write import PostgresPolicyWriter
from tenancy.create_tenant import create_tenant
from tenancy.ids import BASE_TENANT_ID
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta

META = ChangeMeta("key:test")
COLUMNS = "p = sub, dom, obj, act, eft, cond"
LINKS = "g = _, _, _\n"

pytestmark = pytest.mark.integration


@pytest.fixture
async def other(store):
    """Return the head of another one."""
    return await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))


async def with_columns(writer, columns, links=LINKS):
    found = (await writer.get_model()).text
    assert COLUMNS in found
    assert LINKS in found
    return StoredModel.of(found.replace(COLUMNS, f"p = {columns}").replace(LINKS, links))


CASES = [
    ("sub, dom, obj, act, cond", LINKS, Rule("user:a", "x:1", "read", Effect.DENY), "no column `eft`, but deny rules"),
    ("sub, dom, obj, act, eft", LINKS, Rule("user:a", "x:1", "read", condition="true"), "no column `cond`"),
    ("priority, sub, dom, obj, act, eft", LINKS, Rule("user:a", "x:1", "read"), "needs a priority"),
    ("sub, dom, obj, act", "", RoleLink(Ref("user:a"), Ref("role:b")), "defines no `g`"),
    ("sub, dom, obj, act", "", RoleLink(Ref("role:a"), Ref("role:b")), "defines no `g`"),
]


@pytest.mark.parametrize("case", CASES)
async def test_a_model_without_a_place_for_a_row_is_refused(acme, other, writer, case):
    """Whoever's row it is; the refusal counts and names a tenant, and changes nothing."""
    columns, links, row, why = case
    before = await writer.get_model()
    model = await with_columns(writer, columns, links)
    await writer.require_model(model)
    for head in (acme, other):
        await writer.change_rows(head.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)
    for attempt in (writer.require_model(model), writer.set_model(model, meta=META)):
        with pytest.raises(ModelTooNarrowError, match=why) as refused:
            await attempt
        assert "are stored: 2 (in 2 tenants, `acme` is one)" in str(refused.value)
    assert await writer.get_model() == before
    assert (await writer.hierarchy(acme.tenant_id)).head.revision == 2
    for head in (acme, other):
        await writer.change_rows(head.tenant_id, add=[], remove=[row.key], owner=Owner.API, meta=META)
    await writer.set_model(model, meta=META)
    assert await writer.get_model() == model


async def test_rows_of_the_base_and_priorities_and_resource_groups_count(acme, writer):
    """The base has no tenant of its own; priorities and `g2` need the model that they came with."""
    base_rule = Rule("role:a", "*", "read", condition="true", base=True)
    await writer.change_rows(BASE_TENANT_ID, add=[base_rule], remove=[], owner=Owner.FILES, meta=META)
    with pytest.raises(ModelTooNarrowError, match="in `_base`"):
        await writer.set_model(await with_columns(writer, "sub, dom, obj, act, eft"), meta=META)
    await writer.change_rows(BASE_TENANT_ID, add=[], remove=[base_rule.key], owner=Owner.FILES, meta=META)
    default = await writer.get_model()
    wide = await with_columns(writer, "priority, sub, dom, obj, act, eft, cond", f"{LINKS}g2 = _, _, _\n")
    await writer.set_model(wide, meta=META)
    rows = [Rule("user:a", "x:1", "read", priority=1), RoleLink(Ref("x:1"), Ref("folder:1"), "g2")]
    await writer.change_rows(acme.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    with pytest.raises(ModelTooNarrowError, match=r"no `g2`, but .*; the model has no column `priority`, but"):
        await writer.set_model(default, meta=META)


async def test_rows_are_counted_only_for_a_model_that_offers_less(store, writer):
    """Another matcher, or one more column, costs no look at every rule there is."""
    text = (await writer.get_model()).text
    with store.owner() as owner:
        owner.execute("REVOKE EXECUTE ON FUNCTION policy_needs() FROM kasbah_service")
    for more in (f"{text}\n# a comment\n", text.replace(LINKS, f"{LINKS}g2 = _, _, _\n")):
        await writer.require_model(StoredModel.of(more))
        await writer.set_model(StoredModel.of(more), meta=META)
    with pytest.raises(DBAPIError, match="permission denied"):
        await writer.set_model(StoredModel.of(text), meta=META)


async def test_of_two_replacements_one_is_made(writer):
    """Both saw the same model; the second is told that it moved on, and saying again what is set is no conflict."""
    before = await writer.get_model()
    models = [StoredModel.of(f"{before.text}\n# {name}\n") for name in "abcd"]
    outcomes = await asyncio.gather(
        *(writer.set_model(model, meta=META, replaces=before.digest) for model in models), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [ModelConflictError] * 3
    set_now = await writer.get_model()
    assert set_now == models[outcomes.index(None)]
    await writer.set_model(set_now, meta=META, replaces=before.digest)
    assert len(await writer.list_changes(BASE_TENANT_ID, after_revision=1, limit=9)) == 1


async def test_a_row_is_never_written_under_a_model_it_was_not_checked_with(acme, writer):
    """The model loses its column between the check and the write: the row is checked anew, and refused."""
    narrow = await with_columns(writer, "sub, dom, obj, act, eft")

    class Slow(PostgresPolicyWriter):
        """Lets another writer replace the model just before each write."""

        async def change_rows(self, *arguments, **named):
            await writer.set_model(narrow, meta=META)
            return await super().change_rows(*arguments, **named)

    slow = Slow(writer._sessions)
    row = Rule("user:a", "x:1", "read", condition="true")
    with pytest.raises(InvalidRowError, match="no column `cond`"):
        await change_policy(acme.tenant_id, [row], [], meta=META, writer=slow)
    assert (await writer.current_rows(acme.tenant_id)).rules == []


async def test_rows_and_models_that_race_never_end_up_together(acme, writer):
    """Whoever comes first: at the end the model has a place for what is stored."""
    default = await writer.get_model()
    narrow = await with_columns(writer, "sub, dom, obj, act, eft")
    for number in range(8):
        row = Rule("user:a", f"x:{number}", "read", condition="true")
        outcomes = await asyncio.gather(
            change_policy(acme.tenant_id, [row], [], meta=META, writer=writer),
            writer.set_model(narrow, meta=META),
            return_exceptions=True,
        )
        assert {type(one) for one in outcomes if isinstance(one, BaseException)} <= {
            InvalidRowError,
            ModelTooNarrowError,
        }
        conditions = [one for one in (await writer.current_rows(acme.tenant_id)).rules if one.condition is not None]
        assert not (conditions and await writer.get_model() == narrow)
        await writer.set_model(default, meta=META)
        await writer.change_rows(acme.tenant_id, add=[], remove=[row.key], owner=Owner.API, meta=META)


async def test_the_count_looks_at_every_tenant_from_any_binding(store, acme, writer):
    """Unbound, the service reads no rule, yet learns that they are there; afterwards it is unbound again."""
    await writer.change_rows(
        acme.tenant_id, add=[Rule("user:secret", "x:1", "read")], remove=[], owner=Owner.API, meta=META
    )
    async with store.engine.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM rules"))).scalar_one() == 0
        found = (await connection.execute(text("SELECT slug, need, row_count FROM policy_needs()"))).all()
        assert (await connection.execute(text("SELECT count(*) FROM rules"))).scalar_one() == 0, "bound as before"
    assert [tuple(row) for row in found] == [("acme", "no-priority", 1)]
