"""The mail queue on PostgreSQL and a real SMTP server: at least once, never twice while all live, sealed at rest."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import pytest

from authn.errors import InvalidMailboxError
from authn.mail_delivery import MailDelivery
from authn.mail_queue import drop_mails, queue_mail
from authn.mail_settings import MailSettings, sender_of
from authn.mail_transport import SmtpTransport
from authn.mails import Mail, MailKind
from tenancy.create_tenant import create_tenant
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tenancy.uuid7 import make_uuid7
from tests.support.smtp_server import SmtpServer, smtp_server

pytestmark = pytest.mark.integration

LINK = "https://kasbah.example/account/password-reset?token="


class Post:
    """Two tenants, a mail server, and as many nodes that send as a test wants."""

    def __init__(self, store, server: SmtpServer, tenants) -> None:
        self.store, self.server, self.tenants = store, server, tenants
        self.ring = KeyRing(store.sessions, KeyEncryptionKeys([LocalKeyEncryption("k", secrets.token_bytes(32))], "k"))

    def node(self, **more) -> "Node":
        """Return one more node, which counts what it does."""
        defaults = {"host": "127.0.0.1", "port": self.server.port, "tls": "none", "attempt_seconds": 60}
        return Node(self, MailSettings(**defaults | more))

    async def queue(self, to: str, *, tenant: int = 0, **more):
        values = {"username": "alice", "token": "t" * 43, "until": "then", "when": "now"}
        async with tenant_unit_of_work(self.store.sessions, self.tenants[tenant]) as work:
            return await queue_mail(work, self.ring, Mail(MailKind.RESET, to, values, **more))

    def rows(self, columns: str = "state"):
        with self.store.owner() as owner:
            return owner.execute(f"SELECT {columns} FROM mails ORDER BY mail_id").fetchall()

    def execute(self, statement: str) -> None:
        with self.store.owner() as owner:
            owner.execute(statement)


class Node(MailDelivery):
    """A node's delivery, and what it counted."""

    def __init__(self, post: Post, settings: MailSettings) -> None:
        self.counted: list[str] = []
        transport = SmtpTransport(settings, sender_of(settings.sender).mailbox)
        super().__init__(
            post.store.sessions,
            post.ring,
            transport,
            settings,
            public_url="https://kasbah.example",
            count=self.counted.append,
        )


@pytest.fixture
async def post(store):
    """A queue with nothing in it."""
    registry = TenantStore(store.sessions)
    meta = ChangeMeta("key:test")
    heads = [await create_tenant(slug, slug.title(), meta=meta, tenants=registry) for slug in ("acme", "beta")]
    async with smtp_server() as server:
        yield Post(store, server, [head.tenant_id for head in heads])


async def test_a_mail_is_sent_once_with_its_link(post):
    """Queued, taken by the server, and forgotten but for the fact."""
    mail_id = await post.queue("alice@example.org")
    await post.node().run()
    await post.node().run()
    (mail,) = post.server.received
    assert mail.recipients == ["alice@example.org"]
    assert mail.link == LINK + "t" * 43
    assert "Acme" in mail.text
    assert mail.message["Message-ID"] == f"<{mail_id}@localhost>"
    assert post.rows("state, sealed, attempts, ended_at IS NOT NULL") == [("sent", None, 1, True)]


async def test_a_mail_of_what_did_not_happen_is_not_sent(post):
    """It belongs to the transaction that queues it."""

    async def fail() -> None:
        async with tenant_unit_of_work(post.store.sessions, post.tenants[0]) as work:
            await queue_mail(work, post.ring, Mail(MailKind.WELCOME, "alice@example.org", {"username": "alice"}))
            raise RuntimeError("it did not happen")

    with pytest.raises(RuntimeError):
        await fail()
    await post.node().run()
    assert post.server.received == []


async def test_nothing_readable_waits_in_the_database(post):
    """Recipient and token are sealed, and sealed for one row: moved to another, they do not open."""
    await post.queue("alice@example.org")
    await post.queue("bob@example.org")
    dump = repr(post.rows("*"))
    assert "alice" not in dump
    assert "tttt" not in dump
    (first, one), (_, other) = post.rows("mail_id, sealed")
    assert b"alice" not in bytes(one)
    with post.store.owner() as owner:
        owner.execute("UPDATE mails SET sealed = %s WHERE mail_id = %s", (other, first))
    await post.node().run()
    assert [mail.recipients for mail in post.server.received] == [["bob@example.org"]]


@pytest.mark.parametrize("to", ["a@b.org\r\nBcc: eve@evil.example", "a@b.org,eve@evil.example", "<a@b.org>", ""])
async def test_a_recipient_that_is_more_than_an_address_is_not_queued(post, to):
    """Refused before it is stored."""
    with pytest.raises(InvalidMailboxError):
        await post.queue(to)
    assert post.rows() == []


async def test_two_nodes_never_send_one_mail_twice(post):
    """They work on one queue at once, and each mail comes once."""
    for number in range(30):
        await post.queue(f"user{number}@example.org")
    await asyncio.gather(*(post.node().run() for _ in range(4)))
    assert sorted(mail.recipients[0] for mail in post.server.received) == sorted(
        f"user{number}@example.org" for number in range(30)
    )


async def test_a_mail_whose_node_died_is_sent_by_another(post):
    """After its lease, under the same Message-ID; what the dead one would still write no longer counts."""
    await post.queue("alice@example.org")
    post.server.hold.clear()
    dying = asyncio.create_task(post.node(attempt_seconds=60).run())
    await post.server.holding.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    post.server.hold.set()
    await post.node().run()
    assert post.rows() == [("queued",)], "not before the lease is over"
    post.execute("UPDATE mails SET next_attempt_at = clock_timestamp()")
    await post.node().run()
    assert post.rows() == [("sent",)]
    assert len({mail.message["Message-ID"] for mail in post.server.received}) == 1


async def test_a_refused_mail_fails_and_says_why_without_the_address(post):
    """5xx is for good: no further attempt, a count, a code."""
    post.server.answer_recipient = lambda address: f"550 no mailbox {address}"
    await post.queue("alice@example.org")
    node = post.node()
    await node.run()
    assert post.rows("state, reason, sealed") == [("failed", "550", None)]
    assert node.counted == ["mails_failed"]
    post.server.answer_recipient = lambda _: None
    await node.run()
    assert post.server.received == []


async def test_a_mail_that_is_put_off_is_tried_again_later(post):
    """4xx: the wait doubles, and the mail comes when the server takes it."""
    post.server.answer_data = lambda _: "451 later"
    await post.queue("alice@example.org")
    node = post.node()
    waits = []
    for _ in range(3):
        await node.run()
        (row,) = post.rows("state, reason, extract(epoch FROM next_attempt_at - clock_timestamp())")
        assert row[:2] == ("queued", "451")
        waits.append(round(float(row[2]) / 60))
        post.execute("UPDATE mails SET next_attempt_at = clock_timestamp(), attempted_at = NULL")
    assert waits == [1, 2, 4]
    post.server.answer_data = lambda _: None
    await node.run()
    assert post.rows() == [("sent",)]
    assert node.counted == ["mails_put_off"] * 3 + ["mails_sent"]


async def test_a_mail_that_is_worth_nothing_any_more_is_not_sent(post):
    """Its link has ended, or it waited for a day."""
    await post.queue("alice@example.org", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await post.queue("bob@example.org", expires_at=datetime.now(UTC) + timedelta(days=9))
    waits = post.rows("expires_at - created_at <= interval '1 day 1 second'")
    assert waits == [(True,), (True,)]
    await post.node().run()
    assert [mail.recipients for mail in post.server.received] == [["bob@example.org"]]
    assert sorted(post.rows("state, reason")) == [("failed", "expired"), ("sent", None)]


async def test_a_mail_is_given_up_when_the_settings_say(post):
    """Sooner than after a day; what is younger goes out."""
    await post.queue("alice@example.org")
    post.execute("UPDATE mails SET created_at = created_at - interval '601 seconds'")
    await post.queue("bob@example.org")
    await post.node(give_up_seconds=600).run()
    assert [mail.recipients for mail in post.server.received] == [["bob@example.org"]]
    assert sorted(post.rows("state, reason")) == [("failed", "expired"), ("sent", None)]


async def test_while_the_server_is_dead_mails_wait_and_no_attempt_counts(post):
    """Killed for a while: nothing is lost, and nothing has failed."""
    await post.server.stop()
    for number in range(3):
        await post.queue(f"user{number}@example.org")
    node = post.node()
    await node.run()
    assert post.rows("state, attempts") == [("queued", 0)] * 3
    await post.server.start()
    post.execute("UPDATE mails SET next_attempt_at = clock_timestamp()")
    await node.run()
    assert len(post.server.received) == 3


async def test_mails_whose_key_cannot_be_had_wait_and_hold_up_no_others(post):
    """A tenant whose data key nobody can open now: its mails are no attempt, the other's go out; then its own do."""
    for number in range(3):
        await post.queue(f"user{number}@example.org")
    await post.queue("old@example.org", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await post.queue("bob@example.org", tenant=1)
    post.execute(f"UPDATE data_keys SET kek_id = 'lost' WHERE tenant_id = '{post.tenants[0]}'")
    keks = post.ring._maker.keks
    post.ring = KeyRing(post.store.sessions, keks)
    await post.node().run()
    assert [mail.recipients for mail in post.server.received] == [["bob@example.org"]]
    states = [("failed", "expired", 1), *[("queued", "no key", 0)] * 3, ("sent", None, 1)]
    assert sorted(post.rows("state, reason, attempts")) == states
    post.execute("UPDATE data_keys SET kek_id = 'k'")
    post.execute("UPDATE mails SET next_attempt_at = clock_timestamp()")
    await post.node().run()
    assert len(post.server.received) == 4


async def test_one_tenant_cannot_keep_another_waiting(post):
    """A flood of one is throttled; the other's mail goes out in the same run."""
    for number in range(12):
        await post.queue(f"user{number}@example.org")
    await post.queue("bob@example.org", tenant=1)
    await post.node(tenant_per_minute=4).run()
    assert len(post.server.received) == 5
    assert len(post.server.to("bob@example.org")) == 1


async def test_all_nodes_together_keep_to_the_throttle(post):
    """However many there are and however often they look, a minute has so many attempts."""
    for number in range(12):
        await post.queue(f"user{number}@example.org", tenant=number % 2)
    await asyncio.gather(*(post.node(per_minute=7).run() for _ in range(3)))
    await post.node(per_minute=7).run()
    assert len(post.server.received) == 7
    post.execute("UPDATE mails SET attempted_at = attempted_at - interval '1 minute'")
    await post.node(per_minute=7).run()
    assert len(post.server.received) == 12


async def test_mails_of_a_suspended_tenant_wait(post):
    """They go out when it is active again."""
    await post.queue("alice@example.org")
    post.execute("UPDATE tenants SET status = 'suspended' WHERE slug = 'acme'")
    await post.node().run()
    assert post.server.received == []
    post.execute("UPDATE tenants SET status = 'active' WHERE slug = 'acme'")
    await post.node().run()
    assert len(post.server.received) == 1


async def test_what_is_about_a_deleted_account_is_not_sent(post):
    """Dropped in the transaction that deletes it; other mails stay."""
    gone = make_uuid7(datetime.now(UTC), secrets.token_bytes(10))
    await post.queue("alice@example.org", user_id=gone)
    await post.queue("bob@example.org")
    async with tenant_unit_of_work(post.store.sessions, post.tenants[0]) as work:
        await drop_mails(work, gone)
    await post.node().run()
    assert [mail.recipients for mail in post.server.received] == [["bob@example.org"]]


async def test_a_tenant_sees_no_mail_of_another(post):
    """Row-level security binds the queue as all else."""
    from sqlalchemy import text

    await post.queue("alice@example.org")
    async with tenant_unit_of_work(post.store.sessions, post.tenants[1]) as work:
        assert (await work.session.execute(text("SELECT count(*) FROM mails"))).scalar_one() == 0
