"""A real SMTP server in the test's own loop, which can refuse, be slow, go away and come back."""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = Callable[[str], str | None]


@dataclass
class Received:
    """A mail as the server took it."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    options: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The body."""
        return str(self.message.get_content())

    @property
    def link(self) -> str:
        """The first address in the body."""
        return next(line for line in self.text.splitlines() if line.startswith(("http://", "https://")))

    @property
    def token(self) -> str:
        """The token of that address."""
        return self.link.partition("token=")[2]


class SmtpServer:
    """`received` fills; `answer_recipient` and `answer_data` may give another answer than 250, given the address.

    While `hold` is not set the server takes no mail; `holding` says that one waits.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> None:
        self.received: list[Received] = []
        self.answer_recipient: Answer = lambda _: None
        self.answer_data: Answer = lambda _: None
        self.hold = asyncio.Event()
        self.hold.set()
        self.holding = asyncio.Event()
        self.smtputf8 = True
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._login = login
        self._server: asyncio.Server | None = None
        self._open: set[SMTP] = set()

    async def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die: open connections are cut, new ones are refused."""
        if self._server is not None:
            self._server.close()
            for protocol in list(self._open):
                if isinstance(protocol.transport, asyncio.WriteTransport):
                    protocol.transport.abort()
            await asyncio.sleep(0)
            self._server = None

    def to(self, address: str) -> list[Received]:
        """Return what came for an address."""
        return [mail for mail in self.received if address in mail.recipients]

    def _protocol(self) -> SMTP:
        self.connections += 1
        more: dict[str, Any] = {}
        if self._tls is not None:
            more |= {"tls_context": self._tls, "require_starttls": True}
        if self._login is not None:
            more |= {"authenticator": self._authenticate, "auth_required": True}
        protocol = SMTP(
            self, hostname="mail.test", enable_SMTPUTF8=self.smtputf8, loop=asyncio.get_running_loop(), **more
        )
        self._open.add(protocol)
        return protocol

    def _authenticate(self, *arguments: object) -> AuthResult:
        given = arguments[-1]
        login = (getattr(given, "login", b"").decode(), getattr(given, "password", b"").decode())
        return AuthResult(success=login == self._login, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Answer a recipient."""
        refused = self.answer_recipient(address)
        if refused is None:
            envelope.rcpt_tos.append(address)
        return refused or "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a mail."""
        if not self.hold.is_set():
            self.holding.set()
        await self.hold.wait()
        refused = self.answer_data(envelope.rcpt_tos[0])
        if refused is not None:
            return refused
        content = envelope.content if isinstance(envelope.content, bytes) else (envelope.content or "").encode()
        message = message_from_bytes(content, policy=policy.SMTPUTF8)
        assert isinstance(message, EmailMessage)
        self.received.append(
            Received(envelope.mail_from or "", list(envelope.rcpt_tos), message, list(envelope.mail_options))
        )
        return "250 taken"


@contextlib.asynccontextmanager
async def smtp_server(**more: Any) -> AsyncIterator[SmtpServer]:
    """Run a server on a free port of loopback."""
    server = SmtpServer(**more)
    await server.start()
    try:
        yield server
    finally:
        server.hold.set()
        await server.stop()


def make_certificate(directory: Path, name: str = "localhost") -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context with a new certificate for `name`, and the file that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    return context, chain
