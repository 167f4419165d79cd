"""Mails as values: who can get one, what stands in it, and what can never stand in it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.errors import InvalidMailboxError
from authn.mail_message import build_message
from authn.mail_settings import MailSettings, sender_of
from authn.mail_texts import Brand, MailText, names_of, text_of
from authn.mails import MailKind, parse_mailbox, plain_name, plain_username

MAIL_ID = UUID("01890000-0000-7000-8000-000000000001")
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

MAILBOXES = [
    ("alice@example.org", "alice@example.org"),
    ("Alice.Smith+x@Example.ORG", "Alice.Smith+x@example.org"),
    ("alice@bücher.example", "alice@xn--bcher-kva.example"),
    ("ålice@example.org", "ålice@example.org"),
    ("a@localhost", "a@localhost"),
]

NO_MAILBOXES = [
    "",
    "alice",
    "@example.org",
    "alice@",
    "alice@example.org\r\nBcc: eve@evil.example",
    "alice@example.org\nRCPT TO:<eve@evil.example>",
    "alice@example.org\0",
    "alice@example.org, eve@evil.example",
    "alice@example.org eve@evil.example",
    "Alice <alice@example.org>",
    "<alice@example.org>",
    '"a b"@example.org',
    "alice@evil@example.org",
    "alice@exa mple.org",
    "alice@example..org",
    "alice@-example.org",
    "alice@[127.0.0.1]",
    ".alice@example.org",
    "al..ice@example.org",
    "alice\u2028@example.org",
    "alice@" + "a" * 64 + ".org",
    "a" * 250 + "@example.org",
]


@pytest.mark.parametrize(("text", "mailbox"), MAILBOXES)
def test_an_address_is_what_mail_servers_take(text, mailbox):
    """Domains become A-labels, the part before them stays."""
    assert str(parse_mailbox(text)) == mailbox


@pytest.mark.parametrize("text", NO_MAILBOXES)
def test_what_is_more_than_one_plain_address_is_refused(text):
    """Nothing can begin another header, command or recipient."""
    with pytest.raises(InvalidMailboxError):
        parse_mailbox(text)


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_taken_for_an_address_is_one_recipient_in_one_header(local, domain):
    """A message to any accepted address has exactly the headers of ours, on one line each."""
    try:
        mailbox = parse_mailbox(f"{local}@{domain}.org")
    except InvalidMailboxError:
        return
    message = build_message(MAIL_ID, mailbox, MailText("s", "b"), sender_of("K <k@x.org>"), date=NOW)
    lines = message.as_string(policy=message.policy.clone(utf8=True)).split("\r\n\r\n")[0].split("\r\n")
    assert [line.split(":")[0] for line in lines if not line.startswith((" ", "\t"))] == [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "Content-Type",
        "Content-Transfer-Encoding",
        "MIME-Version",
    ]


@pytest.mark.parametrize("name", ["x\r\nBcc: eve@evil.example", "x\nSubject: y", "x\rz"])
def test_a_line_break_in_a_header_is_refused(name):
    """The last line of defence: the header's own class."""
    with pytest.raises(ValueError, match="(?i)linefeed|CR or LF|carriage"):
        build_message(MAIL_ID, parse_mailbox("a@b.org"), MailText(name, ""), sender_of("K <k@x.org>"), date=NOW)


VALUES = {
    "username": "alice",
    "when": "2026-01-02 03:04 UTC",
    "until": "2026-01-03 03:04 UTC",
    "link": "https://k.example/a?token=x",
    "code": "01234567",
    "ticket": "a-ticket",
}


@pytest.mark.parametrize("kind", MailKind)
def test_every_kind_has_a_text_that_says_what_it_is_about(kind):
    """Tenant, link and time stand in it where the kind has them; nothing is left open."""
    text = text_of(kind, VALUES, Brand("Acme", "https://help.example"))
    assert "Acme" in text.subject + text.body
    assert "https://help.example" in text.body
    assert "$" not in text.subject + text.body
    for name in names_of(kind):
        assert VALUES[name] in text.body
    if "link" in names_of(kind):
        assert VALUES["link"] in text.body.splitlines()


def test_a_missing_value_is_an_error_and_no_half_mail():
    """A link that was forgotten must not go unnoticed."""
    with pytest.raises(KeyError):
        text_of(MailKind.RESET, {"username": "alice"}, Brand("Acme"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Acme Inc.", "Acme Inc."),
        ("  Acme \t GmbH ", "Acme GmbH"),
        ("Visit evil.example now", ""),
        ("https://evil.example", ""),
        ("<b>Acme</b>", ""),
        ("Acme\nSubject: you won", ""),
        ("Acme\u202eevil", ""),
        ("call me @ home", ""),
        ("A" * 80, "A" * 63 + "…"),
    ],
)
def test_a_name_in_a_mail_is_nothing_to_click_on(name, shown):
    """A mail of ours does not carry someone else's message or link."""
    assert plain_name(name).replace("Acme Subject: you won", "") == shown


def test_a_username_with_dots_is_shown_to_its_owner():
    """Usernames often have dots; what looks like an address is still left out."""
    assert plain_username("alice.smith") == "alice.smith"
    assert plain_username("x/evil.example") == "—"
    assert plain_username("x\r\ny") == "x y"


def test_the_message_id_is_the_mails_own():
    """Sent again, it is the same mail; another mail has another."""
    made = [
        build_message(mail_id, parse_mailbox("a@b.org"), MailText("s", "b"), sender_of("K <k@x.org>"), date=NOW)
        for mail_id in (MAIL_ID, MAIL_ID, UUID(int=7))
    ]
    assert made[0]["Message-ID"] == made[1]["Message-ID"] == f"<{MAIL_ID}@x.org>"
    assert made[2]["Message-ID"] != made[0]["Message-ID"]
    assert bytes(made[0]) == bytes(made[1])


def test_a_link_stays_on_one_line():
    """Also in the bytes that travel: who reads a file or a plain mail can copy it."""
    link = "https://kasbah.example/account/reset?token=" + "x" * 300
    message = build_message(
        MAIL_ID, parse_mailbox("a@b.org"), MailText("s", f"here:\n{link}\n"), sender_of("K <k@x.org>"), date=NOW
    )
    assert link.encode() in bytes(message)


def test_waits_grow_and_stop_growing():
    """Doubling, up to an hour, whatever the number."""
    waits = [MailSettings().retry_wait(attempts).total_seconds() for attempts in (1, 2, 3, 4, 7, 8, 1000)]
    assert waits == [60, 120, 240, 480, 3600, 3600, 3600]
    assert MailSettings(retry_seconds=0.5).retry_wait(1) == timedelta(seconds=0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sender": "no address"},
        {"sender": "Kasbah <kasbah@x.org>\r\nBcc: eve@evil.example"},
        {"sender": "Kas\nbah <kasbah@x.org>"},
        {"user": "kasbah"},
        {"user": "kasbah", "password": "x", "tls": "none"},
        {"host": "mail.example", "outbox_dir": "/tmp/x"},
        {"tls": "maybe"},
        {"smtp": "x"},
    ],
)
def test_settings_that_would_send_wrongly_are_refused(wrong):
    """Named at the start, not met by the first mail."""
    with pytest.raises(ValueError):
        MailSettings(**wrong)
