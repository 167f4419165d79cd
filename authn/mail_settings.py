"""Settings of mail. The edge fills them from the environment; nothing here has a side effect."""

from datetime import timedelta
from email.utils import parseaddr
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from authn.errors import InvalidMailboxError
from authn.mail_message import Sender
from authn.mails import parse_mailbox


class MailSettings(BaseModel):
    """How mail leaves. Without a host (and without an outbox) mails wait in the queue. Durations are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str | None = None
    """The mail server (SMTP submission). Without it mails stay queued until they are worth nothing any more."""
    port: int = Field(default=587, ge=1, le=65535)
    """Its port: 587 for `starttls`, 465 for `tls`."""
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` and `tls` verify the server's certificate; `none` is for a relay on the same machine."""
    ca_file: Path | None = None
    """PEM file with the authorities to trust instead of the system's."""
    user: str | None = None
    """Who signs in at the mail server; needs TLS."""
    password: SecretStr | None = None
    """Their password."""
    sender: str = "Kasbah <kasbah@localhost>"
    """From whom mails come: `Name <address>`."""
    outbox_dir: Path | None = None
    """For development: a directory that gets each mail as an .eml file, instead of a mail server."""
    per_minute: int = Field(default=600, ge=1)
    """Mails that all nodes together try to send in a minute."""
    tenant_per_minute: int = Field(default=120, ge=1)
    """Mails of one tenant among them, so that none keeps the others' waiting."""
    attempt_seconds: float = Field(default=30.0, gt=0, le=120)
    """Longest wait for the mail server's answer, for each mail."""
    retry_seconds: float = Field(default=60.0, gt=0)
    """Wait before a mail that the server put off is tried again; doubles each time."""
    retry_most_seconds: float = Field(default=3600.0, gt=0)
    """Longest such wait."""
    give_up_seconds: float = Field(default=86400.0, gt=0)
    """From then on a mail that was not taken has failed; after a day in any case."""

    @field_validator("sender")
    @classmethod
    def _sender(cls, value: str) -> str:
        sender_of(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.host is not None and self.outbox_dir is not None:
            raise ValueError("a mail server or an outbox, not both")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password: both or none")
        # SECURITY: nobody sends a password in the clear by leaving a setting out.
        if self.user is not None and self.tls == "none":
            raise ValueError("a password needs TLS: `starttls` or `tls`")
        return self

    def retry_wait(self, attempts: int) -> timedelta:
        """Return how long to wait after so many attempts (1 or more)."""
        return timedelta(seconds=min(self.retry_seconds * 2 ** min(attempts - 1, 20), self.retry_most_seconds))


def sender_of(text: str) -> Sender:
    """Return the sender in `Name <address>`; raises `ValueError`."""
    if not text.isprintable():
        raise ValueError("the sender is one printable line")
    name, address = parseaddr(text)
    try:
        mailbox = parse_mailbox(address)
    except InvalidMailboxError as error:
        raise ValueError(f"write `Name <address>`: {error}") from None
    return Sender(name, mailbox)
