"""Tenants suspended, deleted, restored and removed, on a real database."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from authn.api_keys import hash_token
from authn.storage import ApiKeyStore
from authz.rules import Owner, Rule
from service.bootstrap import Bootstrap
from tenancy.change_tenant import Asked, TenantChanges
from tenancy.create_tenant import create_tenant
from tenancy.errors import SlugTakenError, TenantGoneError, TenantMovedOnError, TenantStatusError
from tenancy.ids import TenantStatus
from tenancy.purge import KEPT_TABLES, PURGED_TABLES, Purge
from tenancy.settings_storage import TenantSettingsStore
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.tenant_life import TenantAct, status_after
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.tenant_rows import fill_tenant, rows_of

pytestmark = pytest.mark.integration

META = ChangeMeta("key:test", "because")
ASKED = Asked(META)
NO_GRACE = TenantLimits(deletion_grace_seconds=0)


class Quiet:
    """A Valkey and a node that are told, and answer as they are set."""

    def __init__(self):
        self.forgotten, self.noted, self.answers = [], [], []

    async def forget_tenant(self, tenant_id):
        self.forgotten.append(tenant_id)
        return self.answers.pop(0) if self.answers else True

    async def note_write(self, head):
        self.noted.append(head)


@pytest.fixture
def changes(store):
    """With the default grace."""
    return TenantChanges(store.sessions, TenantLimits())


async def deleted(store, tenant_id):
    """Delete a tenant whose grace is over at once."""
    return await TenantChanges(store.sessions, NO_GRACE).act(tenant_id, TenantAct.DELETE, ASKED)


async def test_a_tenant_is_suspended_and_opened_again(store, changes, acme):
    """Each is one revision; what is so already is none; rules and keys are not touched."""
    suspended = await changes.act(acme.tenant_id, TenantAct.SUSPEND, ASKED)
    assert (suspended.head.status, suspended.head.revision) == (TenantStatus.SUSPENDED, acme.revision + 1)
    assert (suspended.head.rules_revision, suspended.head.keys_revision) == (acme.rules_revision, acme.keys_revision)
    again = await changes.act(acme.tenant_id, TenantAct.SUSPEND, ASKED)
    assert again.head == suspended.head
    active = await changes.act(acme.tenant_id, TenantAct.REACTIVATE, ASKED)
    assert (active.head.status, active.head.revision) == (TenantStatus.ACTIVE, acme.revision + 2)


@pytest.mark.parametrize("first", [TenantAct.SUSPEND, TenantAct.REACTIVATE])
async def test_a_deleted_tenant_is_restored_to_what_it_was(changes, acme, first):
    """Until its grace is over; a suspension outlives a deletion that was taken back."""
    before = await changes.act(acme.tenant_id, first, ASKED)
    gone = await changes.act(acme.tenant_id, TenantAct.DELETE, ASKED)
    assert gone.head.status is TenantStatus.DELETING
    assert (gone.purge_after - gone.created_at).days == 30
    assert (await changes.act(acme.tenant_id, TenantAct.DELETE, ASKED)).purge_after == gone.purge_after
    for act in (TenantAct.SUSPEND, TenantAct.REACTIVATE):
        with pytest.raises(TenantStatusError):
            await changes.act(acme.tenant_id, act, ASKED)
    back = await changes.act(acme.tenant_id, TenantAct.RESTORE, ASKED)
    assert (back.head.status, back.purge_after) == (before.head.status, None)


async def test_after_its_grace_nothing_leads_back(store, changes, acme):
    """Also before anything was removed."""
    await deleted(store, acme.tenant_id)
    with pytest.raises(TenantStatusError):
        await changes.act(acme.tenant_id, TenantAct.RESTORE, ASKED)


async def test_of_acts_on_one_revision_one_counts(changes, acme):
    """The others are told where the tenant stands."""
    asked = Asked(META, acme.revision)
    acts = [changes.act(acme.tenant_id, act, asked) for act in (TenantAct.SUSPEND, TenantAct.DELETE)]
    acts.append(changes.rename(acme.tenant_id, "Acme", asked))
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    assert sum(isinstance(outcome, TenantMovedOnError) for outcome in outcomes) == 2


@pytest.mark.parametrize("act", TenantAct)
@pytest.mark.parametrize("status", TenantStatus)
def test_every_act_has_an_outcome_for_every_status(act, status):
    """A status, or a refusal; and a removed tenant has none but refusals."""
    was = TenantStatus.ACTIVE if status is TenantStatus.DELETING else None
    try:
        after = status_after(act, status, was=was, grace_is_over=False)
    except TenantStatusError:
        after = None
    assert after is not TenantStatus.DELETED
    if status is TenantStatus.DELETED:
        assert after is None


async def test_every_act_is_audited_with_what_it_changed(store, changes, acme):
    """In the tenant's own chain, with the reason."""
    for act in (TenantAct.SUSPEND, TenantAct.REACTIVATE, TenantAct.DELETE, TenantAct.RESTORE):
        await changes.act(acme.tenant_id, act, ASKED)
    await changes.rename(acme.tenant_id, "Acme Limited", ASKED)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        events = (await work.session.execute(text("SELECT event FROM audit_events ORDER BY seq"))).scalars().all()
    said = [(event["action"], event.get("before", {}).get("status"), event["after"].get("status")) for event in events]
    assert said == [
        ("tenant.create", None, None),
        ("tenant.suspend", "active", "suspended"),
        ("tenant.reactivate", "suspended", "active"),
        ("tenant.delete", "active", "deleting"),
        ("tenant.restore", "deleting", "active"),
        ("tenant.update", None, None),
    ]
    assert {event["reason"] for event in events[1:]} == {"because"}


async def test_everything_of_a_deleted_tenant_goes_but_its_slug_and_its_audit(store, acme):
    """Of every table; another tenant keeps all of its rows; the slug is never given again."""
    other = await create_tenant("rival", None, meta=META, tenants=TenantStore(store.sessions))
    for head in (acme, other):
        fill_tenant(store.url, head.tenant_id)
    before = rows_of(store.url, other.tenant_id)
    assert {table for table, count in rows_of(store.url, acme.tenant_id).items() if count} >= {*PURGED_TABLES}
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    await Purge(store.sessions, quiet, quiet, batch=2).run()
    left = rows_of(store.url, acme.tenant_id)
    assert {table for table, count in left.items() if count} == {"tenants", "audit_events", "audit_chains"}
    assert rows_of(store.url, other.tenant_id) == before
    assert quiet.forgotten == [acme.tenant_id]
    assert [head.status for head in quiet.noted] == [TenantStatus.DELETED]
    tombstone = await TenantStore(store.sessions).find(acme.tenant_id)
    assert (tombstone.head.slug, tombstone.display_name) == ("acme", "acme")
    with pytest.raises(SlugTakenError):
        await create_tenant("acme", None, meta=META, tenants=TenantStore(store.sessions))
    # Done once and for all: nothing is due any more.
    await Purge(store.sessions, quiet, quiet).run()
    assert quiet.forgotten == [acme.tenant_id]


async def test_a_purge_that_was_killed_is_taken_up_where_it_ended(store, acme, monkeypatch):
    """After each transaction in turn, by another process; nothing is left, and it is recorded once."""
    fill_tenant(store.url, acme.tenant_id)
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    real, deaths, steps = Purge._remove_batch, 0, 0

    async def dies(self, tenant_id, table):
        nonlocal steps
        count = await real(self, tenant_id, table)
        steps += bool(count)
        if count and steps % 3 == 0:
            raise ConnectionError("killed")
        return count

    monkeypatch.setattr(Purge, "_remove_batch", dies)
    while True:
        try:
            await Purge(store.sessions, quiet, quiet, batch=3).run()
        except ConnectionError:
            deaths += 1
        else:
            break
    assert deaths > 5
    left = rows_of(store.url, acme.tenant_id)
    assert {table for table, count in left.items() if count} == {"tenants", "audit_events", "audit_chains"}
    with store.owner() as owner:
        actions = owner.execute(
            "SELECT action FROM audit_events WHERE tenant_id = %s ORDER BY seq", [acme.tenant_id]
        ).fetchall()
    assert [row[0] for row in actions if row[0].startswith("tenant.")] == [
        "tenant.create",
        "tenant.delete",
        "tenant.end",
        "tenant.purge",
    ]


async def test_two_nodes_that_purge_at_once_do_it_once(store, acme):
    """They share the batches or one leaves it to the other; either way it is recorded once."""
    fill_tenant(store.url, acme.tenant_id)
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    await asyncio.gather(*(Purge(store.sessions, quiet, quiet, batch=2).run() for _ in range(3)))
    await Purge(store.sessions, quiet, quiet).run()
    with store.owner() as owner:
        count = owner.execute(
            "SELECT count(*) FROM audit_events WHERE action IN ('tenant.purge', 'tenant.end')"
        ).fetchone()
    assert count == (2,)
    assert not any(rows_of(store.url, acme.tenant_id)[table] for table in PURGED_TABLES)


async def test_a_valkey_that_does_not_answer_leaves_the_tenant_to_be_removed(store, acme):
    """Its keys would stay: so it is tried again, until it is certain."""
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    quiet.answers = [False, True]
    purge = Purge(store.sessions, quiet, quiet)
    assert await purge.remove(acme.tenant_id) is False
    await purge.run()
    assert quiet.forgotten == [acme.tenant_id, acme.tenant_id]
    assert await purge.remove(acme.tenant_id) is False


async def test_what_is_written_while_a_tenant_is_removed_is_removed_too(store, acme):
    """A transaction that began before the end and commits after most of the work."""
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    purge = Purge(store.sessions, quiet, quiet)
    late = store.owner()
    late.autocommit = False

    async def commits_late(tenant_id):
        if not quiet.forgotten:
            late.execute("INSERT INTO tenant_settings (tenant_id, settings) VALUES (%s, '{}')", [tenant_id])
            asyncio.get_running_loop().call_later(0.2, late.commit)
        quiet.forgotten.append(tenant_id)
        return True

    quiet.forget_tenant = commits_late
    try:
        assert await purge.remove(acme.tenant_id) is True
    finally:
        late.close()
    assert len(quiet.forgotten) == 2
    assert rows_of(store.url, acme.tenant_id)["tenant_settings"] == 0


async def test_nothing_is_written_for_a_removed_tenant(store, changes, acme, writer):
    """Every write takes the tenant's lock first, and finds none."""
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    await Purge(store.sessions, quiet, quiet).run()
    with pytest.raises(TenantGoneError):
        await changes.rename(acme.tenant_id, "Acme", ASKED)
    with pytest.raises(TenantGoneError):
        await TenantSettingsStore(store.sessions, TenantLimits()).change(acme.tenant_id, lambda _: {}, meta=META)
    rule = Rule("user:alice", "record:*", "read")
    with pytest.raises(Exception, match="tenant"):
        await writer.change_rows(acme.tenant_id, add=[rule], remove=(), owner=Owner.API, meta=META)
    with pytest.raises(Exception, match="tenant"):
        await Bootstrap(store.engine).create_key(acme.tenant_id, "late")
    assert not any(rows_of(store.url, acme.tenant_id)[table] for table in PURGED_TABLES)


async def test_the_service_cannot_remove_what_is_not_due(store, changes, acme):
    """A living tenant, one in its grace, a table that is kept, no tenant at all: refused by the database."""
    fill_tenant(store.url, acme.tenant_id)

    async def refused(tenant_id, table):
        with pytest.raises(DBAPIError) as raised:
            async with tenant_unit_of_work(store.sessions, tenant_id) as work:
                await work.session.execute(text("SELECT purge_tenant_rows(:name, 10)"), {"name": table})
        assert raised.value.orig.sqlstate == "42501"

    await refused(acme.tenant_id, "rules")
    await refused(uuid4(), "rules")
    await changes.act(acme.tenant_id, TenantAct.DELETE, ASKED)
    await refused(acme.tenant_id, "rules")
    other = await create_tenant("rival", None, meta=META, tenants=TenantStore(store.sessions))
    await deleted(store, other.tenant_id)
    quiet = Quiet()
    purge = Purge(store.sessions, quiet, quiet)
    assert await purge._end(other.tenant_id)
    of_tenants = [table for table, why in KEPT_TABLES.items() if why != "the platform's own"]
    for table in [*of_tenants, "alembic_version", "audit_events_default", "pg_class", "casbin_rule", "rules; --"]:
        await refused(other.tenant_id, table)


async def test_a_purge_removes_the_keys_of_a_tenant(store, acme):
    """Its tokens lead nowhere afterwards."""
    token = await Bootstrap(store.engine).create_key(acme.tenant_id, "ci")
    await deleted(store, acme.tenant_id)
    quiet = Quiet()
    await Purge(store.sessions, quiet, quiet).run()
    assert await ApiKeyStore(store.sessions).find_by_hash(hash_token(token)) is None


async def test_a_tenant_that_cannot_be_removed_holds_up_no_other(store, acme):
    """A row that something outside refers to: the others go all the same, and the failure is told."""
    other = await create_tenant("rival", None, meta=META, tenants=TenantStore(store.sessions))
    for head in (acme, other):
        await deleted(store, head.tenant_id)
    with store.owner() as owner:
        owner.execute(
            "CREATE TABLE outside (tenant_id uuid, revision bigint, FOREIGN KEY (tenant_id, revision) REFERENCES changes)"
        )
        owner.execute("INSERT INTO outside VALUES (%s, 1)", [acme.tenant_id])
    quiet = Quiet()
    with pytest.raises(DBAPIError):
        await Purge(store.sessions, quiet, quiet).run()
    assert quiet.forgotten == [other.tenant_id]
    assert rows_of(store.url, other.tenant_id)["changes"] == 0
    with store.owner() as owner:
        owner.execute("DROP TABLE outside")
    await Purge(store.sessions, quiet, quiet).run()
    assert rows_of(store.url, acme.tenant_id)["changes"] == 0
