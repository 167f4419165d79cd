"""A mail as RFC 5322 has it."""

from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from uuid import UUID

from authn.mail_texts import MailText
from authn.mails import Mailbox

_POLICY = SMTP.clone(max_line_length=998)
"""The longest line that RFC 5322 allows: a link stays on its line, for those who read mail as it is."""


@dataclass(frozen=True, slots=True)
class Sender:
    """From whom mails come: a name and an address."""

    name: str
    mailbox: Mailbox


def build_message(mail_id: UUID, to: Mailbox, text: MailText, sender: Sender, *, date: datetime) -> EmailMessage:
    """Return the message.

    Its `Message-ID` comes from `mail_id` alone, so that a mail that is sent again, because the first answer was lost,
    is one mail to whoever receives both.

    Raises:
        ValueError: a line break in a header.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address(sender.name, sender.mailbox.local, sender.mailbox.domain)
    message["To"] = Address("", to.local, to.domain)
    message["Subject"] = text.subject
    message["Date"] = format_datetime(date)
    message["Message-ID"] = f"<{mail_id}@{sender.mailbox.domain}>"
    # RFC 3834: no holiday answers, please.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.body)
    return message
