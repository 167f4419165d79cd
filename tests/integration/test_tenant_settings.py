"""Settings in PostgreSQL: whole documents, revisions, two writers, row-level security."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy import text

from tenancy.create_tenant import create_tenant
from tenancy.errors import SettingsOutOfBoundsError, TenantGoneError, TenantMovedOnError
from tenancy.ids import TenantId
from tenancy.settings_document import merge_patch
from tenancy.settings_storage import TenantSettingsStore, read_settings
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits, TenantSettings
from tenancy.unit_of_work import tenant_unit_of_work

pytestmark = pytest.mark.integration

META = ChangeMeta("key:test", "because")


def patched(patch):
    """A change that merges."""
    return lambda document: merge_patch(document, patch)


@pytest.fixture
def sessions(store):
    """The service's."""
    return store.sessions


@pytest.fixture
def settings(sessions):
    """The store under default bounds."""
    return TenantSettingsStore(sessions, TenantLimits())


async def test_a_tenant_starts_with_the_defaults(settings, acme):
    """Nothing is stored for it."""
    head, found = await settings.read(acme.tenant_id)
    assert (head.revision, found) == (acme.revision, TenantSettings())


async def test_a_change_is_one_revision_with_its_history(settings, sessions, acme):
    """What changes nothing makes none; rules are not rebuilt for it."""
    head, found = await settings.change(acme.tenant_id, patched({"password": {"min_length": 20}}), meta=META)
    assert found.password.min_length == 20
    assert (head.revision, head.rules_revision) == (acme.revision + 1, acme.rules_revision)
    again, _ = await settings.change(acme.tenant_id, patched({"password": {"min_length": 20}}), meta=META)
    assert again == head
    async with tenant_unit_of_work(sessions, acme.tenant_id) as work:
        row = (
            await work.session.execute(
                text("SELECT kind, actor, reason, stamp FROM changes ORDER BY revision DESC LIMIT 1")
            )
        ).one()
        assert tuple(row) == ("settings", "key:test", "because", head.stamp)
        assert await read_settings(work) == found
        events = (await work.session.execute(text("SELECT event FROM audit_events ORDER BY seq"))).scalars().all()
        settled = [event for event in events if event["action"] == "settings.change"]
        assert [(event["before"], event["after"]) for event in settled] == [
            ({"password": {"min_length": 15}}, {"password": {"min_length": 20}})
        ]


async def test_only_what_differs_from_the_defaults_is_stored(settings, sessions, acme):
    """So a default that changes later reaches every tenant that never chose."""
    await settings.change(acme.tenant_id, lambda _: {"password": {"min_length": 15, "max_length": 128}}, meta=META)
    async with tenant_unit_of_work(sessions, acme.tenant_id) as work:
        stored = (await work.session.execute(text("SELECT settings FROM tenant_settings"))).scalar_one()
    assert stored == {"password": {"max_length": 128}}


async def test_another_revision_than_expected_changes_nothing(settings, acme):
    """Of eight writers that saw the same revision, one writes."""

    async def write(length):
        try:
            await settings.change(
                acme.tenant_id,
                patched({"password": {"min_length": length}}),
                meta=META,
                expected_revision=acme.revision,
            )
        except TenantMovedOnError as error:
            return error.revision
        return length

    outcomes = await asyncio.gather(*(write(20 + index) for index in range(8)))
    written = [outcome for outcome in outcomes if outcome >= 20]
    assert len(written) == 1
    head, found = await settings.read(acme.tenant_id)
    assert head.revision == acme.revision + 1
    assert found.password.min_length == written[0]


async def test_patches_of_different_members_all_count(settings, acme):
    """Each is merged into what the one before it left."""
    patches = [
        {"password": {"min_length": 20}},
        {"sessions": {"idle_seconds": 600}},
        {"branding": {"name": "Acme"}},
        {"sign_in": {"max_failures": 20}},
    ]
    await asyncio.gather(*(settings.change(acme.tenant_id, patched(patch), meta=META) for patch in patches))
    _, found = await settings.read(acme.tenant_id)
    assert (found.password.min_length, found.sessions.idle_seconds) == (20, 600)
    assert (found.branding.name, found.sign_in.max_failures) == ("Acme", 20)


async def test_bounds_hold_for_what_was_stored_before_them(settings, sessions, acme):
    """A node with a stricter platform reads stricter settings at once, and refuses laxer ones."""
    await settings.change(acme.tenant_id, patched({"password": {"min_length": 16}}), meta=META)
    stricter = TenantLimits(min_password_length=20, mfa_required=True)
    _, found = await TenantSettingsStore(sessions, stricter).read(acme.tenant_id)
    assert (found.password.min_length, found.mfa.demand) == (20, "required")
    with pytest.raises(SettingsOutOfBoundsError):
        await TenantSettingsStore(sessions, stricter).change(
            acme.tenant_id, patched({"password": {"min_length": 19}}), meta=META
        )


async def test_an_unknown_tenant_has_no_settings(settings, acme):
    """Neither to read nor to write."""
    unknown = TenantId(uuid4())
    with pytest.raises(TenantGoneError):
        await settings.read(unknown)
    with pytest.raises(TenantGoneError):
        await settings.change(unknown, patched({}), meta=META)


async def test_no_tenant_sees_or_takes_anothers_settings(settings, sessions, acme):
    """Row-level security alone."""
    await settings.change(acme.tenant_id, patched({"branding": {"name": "Acme"}}), meta=META)
    other = await create_tenant("rival", None, meta=META, tenants=TenantStore(sessions))
    async with tenant_unit_of_work(sessions, other.tenant_id) as work:
        assert (await work.session.execute(text("SELECT count(*) FROM tenant_settings"))).scalar_one() == 0
        written = await work.session.execute(text("UPDATE tenant_settings SET settings = '{}'"))
        assert written.rowcount == 0
