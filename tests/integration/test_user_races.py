"""Writes about one account at the same time, on real PostgreSQL: one after the other, or refused; never half."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from authn.account_flows import AccountFlows
from authn.change_address import ask_to_change_address
from authn.errors import (
    EmailTakenError,
    UserDeletedError,
    UserLimitExceededError,
    UsernameTakenError,
    UserRevisionConflictError,
)
from authn.user_edits import UserEdit
from authn.user_rows import set_password_hash
from authn.user_storage import UserStore
from authn.users import NewUser, UserStatus, normalize_display_name, normalize_email, normalize_username
from authz.ports import AccountState
from authz.rules import Owner, RoleLink
from authz.subject_rows import PostgresSubjectPolicy
from tenancy.audit import AuditEntry
from tenancy.encrypted_columns import MAILS
from tenancy.errors import AuditUnavailableError
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

META = ChangeMeta("key:test", reason="because")

pytestmark = pytest.mark.integration


@pytest.fixture
def users(store):
    """Return the store as the service has it, for at most five accounts."""
    ring = KeyRing(store.sessions, KeyEncryptionKeys([LocalKeyEncryption("test", bytes(range(32)))], "test"))
    return UserStore(store.sessions, ring, PostgresSubjectPolicy(), max_users=5)


def new(username, email=None):
    return NewUser(normalize_username(username), None if email is None else normalize_email(email))


async def together(*work):
    """Run all at once; return results and errors, in order."""
    return await asyncio.gather(*work, return_exceptions=True)


def kinds(outcomes):
    return sorted(type(outcome).__name__ for outcome in outcomes)


async def test_two_creations_of_one_name_make_one_account(users, acme):
    """By name and by address; nothing of those that lost is left, in the counts neither."""
    outcomes = await together(*(users.create(acme.tenant_id, new("alice"), meta=META) for _ in range(4)))
    assert kinds(outcomes) == ["UserResult", *["UsernameTakenError"] * 3]
    outcomes = await together(
        *(users.create(acme.tenant_id, new(f"p{n}", "a@example.com"), meta=META) for n in range(4))
    )
    assert kinds(outcomes) == [*["EmailTakenError"] * 3, "UserResult"]
    page = await users.list(acme.tenant_id)
    assert (len(page.users), page.head.revision) == (2, acme.revision + 2)


async def test_the_limit_holds_however_many_come_at_once(users, acme):
    """Five fit; a deleted one makes room for one."""
    outcomes = await together(*(users.create(acme.tenant_id, new(f"p{n}"), meta=META) for n in range(8)))
    assert kinds(outcomes) == [*["UserLimitExceededError"] * 3, *["UserResult"] * 5]
    assert UserLimitExceededError in {type(outcome) for outcome in outcomes}
    (first, *_) = (await users.list(acme.tenant_id)).users
    await users.delete(acme.tenant_id, first.id, meta=META)
    outcomes = await together(*(users.create(acme.tenant_id, new(f"q{n}"), meta=META) for n in range(2)))
    assert kinds(outcomes) == ["UserLimitExceededError", "UserResult"]


async def test_disabling_and_editing_at_once_loses_neither(users, acme):
    """Both go through, one after the other; with one expected revision, one of them does."""
    made = await users.create(acme.tenant_id, new("alice"), meta=META)
    named = UserEdit(username=normalize_username("alice.b"))
    await together(
        users.set_status(acme.tenant_id, made.user.id, UserStatus.DISABLED, meta=META),
        users.update(acme.tenant_id, made.user.id, named, meta=META),
    )
    user = await users.find(acme.tenant_id, made.user.id)
    assert (user.username, user.status) == ("alice.b", UserStatus.DISABLED)
    head = (await users.list(acme.tenant_id)).head
    outcomes = await together(
        users.set_status(acme.tenant_id, user.id, UserStatus.ACTIVE, meta=META, expected_revision=head.revision),
        users.update(
            acme.tenant_id,
            user.id,
            UserEdit(username=normalize_username("alice.c")),
            meta=META,
            expected_revision=head.revision,
        ),
    )
    assert kinds(outcomes) == ["UserResult", "UserRevisionConflictError"]
    assert UserRevisionConflictError in {type(outcome) for outcome in outcomes}


async def test_two_renames_to_one_name_end_with_one(users, acme):
    """The loser keeps its name."""
    one = await users.create(acme.tenant_id, new("alice", "a@example.com"), meta=META)
    two = await users.create(acme.tenant_id, new("bob", "b@example.com"), meta=META)
    for edit, refused in (
        (UserEdit(username=normalize_username("carol")), UsernameTakenError),
        (UserEdit(email=normalize_email("c@example.com")), EmailTakenError),
    ):
        outcomes = await together(*(users.update(acme.tenant_id, made.user.id, edit, meta=META) for made in (one, two)))
        assert sorted(isinstance(outcome, refused) for outcome in outcomes) == [False, True]
    page = await users.list(acme.tenant_id)
    assert len({user.username for user in page.users}) == 2


async def test_a_deletion_beside_grants_leaves_nothing_that_counts(users, acme, writer, reader):
    """Whatever came first: afterwards the account is denied, and the counts are those of the rows."""
    made = await users.create(acme.tenant_id, new("alice", "a@example.com"), meta=META)

    async def grant(number):
        row = RoleLink(made.user.ref, f"role:r{number}", owner=Owner.API)
        return await writer.change_rows(acme.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)

    outcomes = await together(
        grant(1), grant(2), users.delete(acme.tenant_id, made.user.id, meta=META), grant(3), grant(4)
    )
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    found = await reader.lookup(acme.tenant_id, [made.user.ref], [])
    assert found.subjects[made.user.ref].barred is AccountState.DELETED
    async with tenant_unit_of_work(users._sessions, acme.tenant_id) as work:
        query = (
            "SELECT memberships_count, users_count, (SELECT count(*) FROM memberships AS m "
            "WHERE m.tenant_id = t.tenant_id) FROM tenants AS t WHERE tenant_id = :tenant_id"
        )
        counted = (await work.session.execute(text(query), {"tenant_id": acme.tenant_id})).one()
    assert counted[0] == counted[2]
    assert counted[1] == 0


async def test_what_comes_after_a_deletion_finds_a_tombstone(users, acme):
    """Edits, states, deletions and passwords at once with it: each is before it, or refused."""
    made = await users.create(acme.tenant_id, new("alice", "a@example.com"), meta=META)
    user_id = made.user.id

    async def password():
        async with tenant_unit_of_work(users._sessions, acme.tenant_id) as work:
            return await set_password_hash(work, user_id, "hash", read=None)

    outcomes = await together(
        users.delete(acme.tenant_id, user_id, meta=META),
        users.delete(acme.tenant_id, user_id, meta=META),
        users.update(acme.tenant_id, user_id, UserEdit(email=normalize_email("b@example.com")), meta=META),
        users.set_status(acme.tenant_id, user_id, UserStatus.DISABLED, meta=META),
        password(),
    )
    for outcome in outcomes:
        assert not isinstance(outcome, BaseException) or isinstance(outcome, UserDeletedError), outcome
    assert sum(isinstance(outcome, UserDeletedError) for outcome in outcomes[:2]) == 1
    assert not await password()
    user = await users.find(acme.tenant_id, user_id)
    assert (user.status, user.email, user.password_set) == (UserStatus.DELETED, None, False)


async def test_who_is_disabled_is_told_at_a_verified_address_only(users, acme, store):
    """A mail waits in the same transaction; none goes to an address that an administrator set; deletion drops it."""
    told = await users.create(
        acme.tenant_id,
        NewUser(normalize_username("a"), normalize_email("a@example.com"), email_verified_at=datetime.now(UTC)),
        meta=META,
    )
    silent = await users.create(acme.tenant_id, new("b", "b@example.com"), meta=META)
    for made in (told, silent):
        await users.set_status(acme.tenant_id, made.user.id, UserStatus.DISABLED, meta=META)
    with store.owner() as owner:
        assert owner.execute("SELECT user_id, kind FROM mails").fetchall() == [(told.user.id, "account-disabled")]
        await users.delete(acme.tenant_id, told.user.id, meta=META)
        assert owner.execute("SELECT count(*) FROM mails").fetchone() == (0,)


async def test_nothing_changes_when_the_audit_cannot_be_written(users, acme, monkeypatch):
    """Creation, change, state and deletion: all or nothing."""
    made = await users.create(acme.tenant_id, new("alice", "a@example.com"), meta=META)

    async def full(*_, **__):
        raise AuditUnavailableError("full")

    monkeypatch.setattr("tenancy.heads.append_entries", full)
    for work in (
        users.create(acme.tenant_id, new("bob"), meta=META),
        users.update(acme.tenant_id, made.user.id, UserEdit(email=None), meta=META),
        users.set_status(acme.tenant_id, made.user.id, UserStatus.DISABLED, meta=META),
        users.delete(acme.tenant_id, made.user.id, meta=META),
    ):
        with pytest.raises(AuditUnavailableError):
            await work
    page = await users.list(acme.tenant_id)
    assert (page.users, page.head.revision) == ([made.user], made.head.revision)
    assert AuditEntry("user.create").outcome == "success"


async def test_who_loses_an_address_is_told_there(users, acme, store):
    """At the former, verified address, not at the new one; a deletion tells nobody, and ends links and changes."""
    made = await users.create(
        acme.tenant_id,
        NewUser(normalize_username("a"), normalize_email("old@example.com"), email_verified_at=datetime.now(UTC)),
        meta=META,
    )

    async def ask(address):
        """Ask for another address, as the person of the account does."""
        flows = AccountFlows(store.sessions, users._ring)
        await ask_to_change_address(flows, acme.tenant_id, made.user.id, normalize_email(address), meta=META)

    def left(owner):
        tables = ("links", "address_changes")
        return [owner.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]

    await ask("hers@example.com")
    with store.owner() as owner:
        assert all(left(owner))
        owner.execute("DELETE FROM mails")
        await users.update(acme.tenant_id, made.user.id, UserEdit(email=normalize_email("set@example.com")), meta=META)
        ((mail_id, kind),) = owner.execute("SELECT mail_id, kind FROM mails").fetchall()
        assert kind == "address-set"
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            sealed = owner.execute("SELECT sealed FROM mails").fetchone()[0]
            opened = await users._ring.open(work, MAILS.place([mail_id]), bytes(sealed))
        assert b"old@example.com" in opened
        await users.update(
            acme.tenant_id, made.user.id, UserEdit(email=normalize_email("again@example.com")), meta=META
        )
        assert owner.execute("SELECT count(*) FROM mails").fetchone() == (1,), "nobody proved that address"
        await ask("hers@example.com")
        await users.delete(acme.tenant_id, made.user.id, meta=META)
        assert left(owner) == [0, 0]
        assert owner.execute("SELECT count(*) FROM mails").fetchone() == (0,)


async def test_who_gets_another_username_is_told_which(users, acme, store):
    """At the verified address, with the new name; another shown name or the same username again tells nothing."""
    made = await users.create(
        acme.tenant_id,
        NewUser(normalize_username("jane"), normalize_email("jane@example.com"), email_verified_at=datetime.now(UTC)),
        meta=META,
    )

    async def edit(**fields):
        await users.update(acme.tenant_id, made.user.id, UserEdit(**fields), meta=META)

    with store.owner() as owner:
        owner.execute("DELETE FROM mails")
        await edit(display_name=normalize_display_name("Jane"))
        await edit(username=normalize_username("jane"))
        assert owner.execute("SELECT count(*) FROM mails").fetchone() == (0,)
        await edit(username=normalize_username("janet"), email=normalize_email("set@example.com"))
        found = owner.execute("SELECT mail_id, sealed FROM mails WHERE kind = 'username-changed'").fetchall()
        ((mail_id, sealed),) = found
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            opened = await users._ring.open(work, MAILS.place([mail_id]), bytes(sealed))
        assert b"jane@example.com" in opened
        assert b"janet" in opened
        assert b"set@example.com" not in opened


async def test_a_deletion_leaves_no_password(users, acme, store):
    """Neither the present hash nor former ones, nor how often somebody guessed."""
    made = await users.create(acme.tenant_id, new("alice"), meta=META)
    named = [acme.tenant_id, made.user.id]
    with store.owner() as owner:
        owner.execute("UPDATE users SET password_hash = 'canary' WHERE tenant_id = %s AND user_id = %s", named)
        owner.execute("INSERT INTO former_passwords VALUES (%s, %s, now(), 'canary')", named)
        owner.execute("INSERT INTO ended_sessions VALUES (%s, %s, gen_random_uuid(), now(), now())", named)
        owner.execute("INSERT INTO credential_failures VALUES (%s, %s, 'password', 3)", named)
        owner.execute("INSERT INTO credential_failures VALUES (%s, %s, 'password@device', 3)", named)
        owner.execute(
            "INSERT INTO known_devices (tenant_id, user_id, device_id, token_hash, expires_at) "
            "VALUES (%s, %s, gen_random_uuid(), sha256('x'), now())",
            named,
        )
        await users.delete(acme.tenant_id, made.user.id, meta=META)
        for table in ("former_passwords", "credential_failures", "ended_sessions", "known_devices"):
            assert owner.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        assert "canary" not in owner.execute("SELECT users::text FROM users").fetchone()[0]
