"""How mails leave, against a real SMTP server: taken, put off, refused, unreachable."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest

from authn.mail_message import build_message
from authn.mail_settings import MailSettings, sender_of
from authn.mail_texts import MailText
from authn.mail_transport import OutboxTransport, PutOff, Refused, SmtpTransport, Taken, Unreachable, transport_of
from authn.mails import parse_mailbox
from tests.support.smtp_server import SmtpServer, make_certificate, smtp_server

pytestmark = pytest.mark.integration

SENDER = sender_of("Kasbah <kasbah@example.org>")


@pytest.fixture
async def server():
    """A server that takes everything."""
    async with smtp_server() as running:
        yield running


def transport(server: SmtpServer, **more) -> SmtpTransport:
    """The transport to a server, in the clear unless said otherwise."""
    settings = MailSettings(**{"host": "127.0.0.1", "port": server.port, "tls": "none", "attempt_seconds": 5} | more)
    return SmtpTransport(settings, SENDER.mailbox)


async def send(through, *addresses: str):
    """Send a mail to each address over one opening; return the outcomes."""
    outcomes = []
    async with through.open() as send_one:
        for number, address in enumerate(addresses):
            to = parse_mailbox(address)
            message = build_message(
                UUID(int=number + 1), to, MailText("Grüße", "Hello Ünï\n"), SENDER, date=datetime.now(UTC)
            )
            outcomes.append(await send_one(UUID(int=number + 1), message, to))
    return outcomes


async def test_mails_go_over_one_connection(server):
    """Taken by the server, whole, from the sender that is configured."""
    assert await send(transport(server), "a@example.org", "b@example.org") == [Taken(), Taken()]
    assert server.connections == 1
    assert [mail.recipients for mail in server.received] == [["a@example.org"], ["b@example.org"]]
    assert server.received[0].sender == "kasbah@example.org"
    assert server.received[0].message["Subject"] == "Grüße"
    assert server.received[0].text.strip() == "Hello Ünï"


async def test_an_international_address_is_sent_as_such(server):
    """SMTPUTF8 for what stands before the `@`; the domain is ASCII and needs nothing."""
    assert await send(transport(server), "jürgen@bücher.example", "x@bücher.example") == [Taken(), Taken()]
    assert server.received[0].recipients == ["jürgen@xn--bcher-kva.example"]
    assert "SMTPUTF8" in server.received[0].options
    assert server.received[1].recipients == ["x@xn--bcher-kva.example"]
    assert "SMTPUTF8" not in server.received[1].options


async def test_an_international_address_is_refused_where_the_server_has_none(server):
    """It will never be taken there; the next mail goes on."""
    server.smtputf8 = False
    assert await send(transport(server), "jürgen@example.org", "x@example.org") == [Refused("smtputf8"), Taken()]


async def test_what_the_server_says_decides(server):
    """5xx is for good, 4xx for now, each for its own mail."""
    codes = {"no@example.org": "550 no such user", "full@example.org": "452 mailbox full"}
    server.answer_recipient = codes.get
    server.answer_data = {"spam@example.org": "554 spam", "busy@example.org": "451 later"}.get
    outcomes = await send(
        transport(server), "no@example.org", "full@example.org", "spam@example.org", "busy@example.org", "a@example.org"
    )
    assert outcomes == [Refused("550"), PutOff("452"), Refused("554"), PutOff("451"), Taken()]


async def test_a_slow_server_is_not_waited_for(server):
    """A mail is put off after its time; the next one gets a connection of its own."""
    server.hold.clear()
    waiting = asyncio.create_task(send(transport(server, attempt_seconds=2), "a@example.org"))
    (outcome,) = await waiting
    assert isinstance(outcome, PutOff)
    server.hold.set()
    assert await send(transport(server), "b@example.org") == [Taken()]


async def test_a_server_that_dies_in_between_is_found_again(server):
    """What was under way is put off; while nobody listens it is unreachable; then mails go on."""
    through = transport(server)
    async with through.open() as send_one:
        to = parse_mailbox("a@example.org")
        message = build_message(UUID(int=1), to, MailText("s", "b"), SENDER, date=datetime.now(UTC))
        assert await send_one(UUID(int=1), message, to) == Taken()
        server.hold.clear()
        sending = asyncio.create_task(send_one(UUID(int=1), message, to))
        await server.holding.wait()
        await server.stop()
        assert isinstance(await sending, PutOff | Unreachable)
        assert isinstance(await send_one(UUID(int=1), message, to), Unreachable)
        server.hold.set()
        await server.start()
        assert await send_one(UUID(int=1), message, to) == Taken()
    assert len({mail.message["Message-ID"] for mail in server.received}) == 1


async def test_the_certificate_is_verified(tmp_path):
    """STARTTLS with the right authority works; with another one, or for another name, nothing is sent."""
    context, trusted = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, stranger = make_certificate(tmp_path / "other")
    async with smtp_server(tls=context, login=("kasbah", "pässword")) as server:
        more = {"tls": "starttls", "user": "kasbah", "password": "pässword"}
        good = transport(server, host="localhost", ca_file=trusted, **more)
        assert await send(good, "a@example.org") == [Taken()]
        for wrong in (
            {"host": "localhost", "ca_file": stranger},
            {"host": "127.0.0.1", "ca_file": trusted},
            {"host": "localhost"},
        ):
            (outcome,) = await send(transport(server, **more | wrong), "a@example.org")
            assert isinstance(outcome, Unreachable), wrong
        (outcome,) = await send(
            transport(server, host="localhost", ca_file=trusted, **more | {"password": "x"}), "a@example.org"
        )
        assert outcome == Unreachable("535")
        assert len(server.received) == 1


async def test_a_server_that_offers_no_tls_gets_nothing(server):
    """Whoever strips the offer from the answer reads nothing."""
    (outcome,) = await send(transport(server, tls="starttls"), "a@example.org")
    assert isinstance(outcome, Unreachable)
    assert server.received == []


async def test_the_outbox_writes_files_for_its_owner_alone(tmp_path):
    """One file for each mail, the same one when it is sent again."""
    outbox = tmp_path / "outbox"
    through = transport_of(MailSettings(outbox_dir=outbox), SENDER.mailbox)
    assert isinstance(through, OutboxTransport)
    for _ in range(2):
        assert await send(through, "a@example.org", "b@example.org") == [Taken(), Taken()]
    files = sorted(outbox.iterdir())
    assert [file.suffix for file in files] == [".eml", ".eml"]
    assert b"To: a@example.org" in files[0].read_bytes()
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert outbox.stat().st_mode & 0o777 == 0o700


def test_without_settings_nothing_is_sent():
    """Mails wait."""
    assert transport_of(MailSettings(), SENDER.mailbox) is None
