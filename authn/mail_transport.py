"""How mails leave: to an SMTP server, or as files for development."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

import aiosmtplib

from authn.mail_settings import MailSettings
from authn.mails import Mailbox

_TRANSIENT = 400
_PERMANENT = 500


@dataclass(frozen=True, slots=True)
class Taken:
    """The server answers for the mail from now on."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """The server may take it later. `reason` is a code or a word, never the server's text, which quotes addresses."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will never take it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nothing was asked about this mail: no server, or one that does not know us."""

    reason: str


Outcome = Taken | PutOff | Refused | Unreachable

Send = Callable[[UUID, EmailMessage, Mailbox], Awaitable[Outcome]]


class SmtpTransport:
    """An SMTP server, over one connection for as many mails as are sent while it is open (RFC 5321, 3207, 6531)."""

    def __init__(self, settings: MailSettings, sender: Mailbox) -> None:
        """Keep the settings; the certificate store is read once."""
        self._settings = settings
        self._sender = sender
        ca_file = None if settings.ca_file is None else str(settings.ca_file)
        self._tls = None if settings.tls == "none" else ssl.create_default_context(cafile=ca_file)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Send]:
        """Connect when the first mail is sent, again after the connection was lost, and say goodbye at the end."""
        client: aiosmtplib.SMTP | None = None

        async def send(_: UUID, message: EmailMessage, to: Mailbox) -> Outcome:
            nonlocal client
            try:
                async with asyncio.timeout(self._settings.attempt_seconds):
                    if client is None or not client.is_connected:
                        client = await self._connect()
            except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
                return Unreachable(_reason(error))
            try:
                async with asyncio.timeout(self._settings.attempt_seconds):
                    await client.send_message(message, sender=str(self._sender), recipients=str(to))
            except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
                outcome = _outcome(error)
                if not isinstance(outcome, Refused):
                    client.close()
                    client = None
                return outcome
            return Taken()

        try:
            yield send
        finally:
            if client is not None and client.is_connected:
                with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await client.quit()
                client.close()

    async def _connect(self) -> aiosmtplib.SMTP:
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            timeout=settings.attempt_seconds,
            use_tls=settings.tls == "tls",
            # SECURITY: never "if the server offers it": whoever strips the offer would read everything.
            start_tls=settings.tls == "starttls",
            tls_context=self._tls,
            local_hostname=self._sender.domain,
        )
        try:
            await client.connect()
            if settings.user is not None and settings.password is not None:
                await client.login(settings.user, settings.password.get_secret_value())
        except BaseException:
            client.close()
            raise
        return client


class OutboxTransport:
    """A directory that gets an .eml file for each mail: nothing leaves the machine. For development."""

    def __init__(self, directory: Path) -> None:
        """Keep where files go; the directory is made when it is needed, for its owner alone."""
        self._directory = directory

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Send]:
        """Write mails, each under its own name: one that is sent again replaces itself."""

        async def send(mail_id: UUID, message: EmailMessage, _: Mailbox) -> Outcome:
            try:
                await asyncio.to_thread(self._write, mail_id, bytes(message))
            except OSError as error:
                return Unreachable(type(error).__name__)
            return Taken()

        yield send

    def _write(self, mail_id: UUID, content: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self._directory / f".{mail_id}"
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(content)
        unfinished.rename(self._directory / f"{mail_id}.eml")


def transport_of(settings: MailSettings, sender: Mailbox) -> "SmtpTransport | OutboxTransport | None":
    """Return what the settings name, or None: mails wait."""
    if settings.host is not None:
        return SmtpTransport(settings, sender)
    return None if settings.outbox_dir is None else OutboxTransport(settings.outbox_dir)


def _outcome(error: Exception) -> Outcome:
    """Return what an error says about one mail, once the server was reached and knows us."""
    match error:
        case aiosmtplib.SMTPSenderRefused():
            return Unreachable(str(error.code))  # our own address: every mail would meet the same
        case aiosmtplib.SMTPRecipientsRefused(recipients=[refused, *_]):
            return _by_code(refused.code)
        case aiosmtplib.SMTPResponseException():
            return _by_code(error.code)
        case aiosmtplib.SMTPNotSupported():
            return Refused("smtputf8")
        case _:
            return PutOff(_reason(error))


def _by_code(code: int) -> Outcome:
    if code >= _PERMANENT:
        return Refused(str(code))
    return PutOff(str(code) if code >= _TRANSIENT else "protocol")


def _reason(error: Exception) -> str:
    return str(error.code) if isinstance(error, aiosmtplib.SMTPResponseException) else type(error).__name__
