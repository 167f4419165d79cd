"""Live cross-check with PyCasbin: workers offer samples, one process of the node compares them.

Samples are datagrams on a socket pair made before the workers are forked. A sample that cannot be sent at once is
dropped: nothing here ever makes a decision wait.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from authz.casbin_oracle import CasbinOracle, parse_model
from authz.cross_check import CasbinRow, CasbinShape, Comparison, CrossCheck, Sample
from authz.errors import AuthzError
from authz.positional import PolicyRow
from authz.storage import PostgresPolicyReader
from service.settings import Settings
from tenancy.database import open_engine, open_sessions

MAX_SAMPLE_BYTES = 16 * 1024

_log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Sample)


class Sampler:
    """Sends at most so many samples a second. `due` is when the next one may go, by the caller's monotonic clock."""

    __slots__ = ("_interval", "_sender", "due")

    def __init__(self, sender: socket.socket | None, per_second: float) -> None:
        self._sender = sender
        self._interval = 1.0 / per_second if per_second > 0 else 0.0
        self.due = 0.0 if sender is not None and per_second > 0 else float("inf")

    def offer(self, sample: Sample, now: float) -> None:
        """Send one sample, or drop it; call it when `due` has passed."""
        self.due = now + self._interval
        if self._sender is None:
            return
        with contextlib.suppress(OSError):
            self._sender.send(_encode(sample))


def sample_sockets() -> tuple[socket.socket, socket.socket]:
    """Return the end that workers send on, which never blocks, and the end that is read."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    receiver.setblocking(False)
    return sender, receiver


async def compare_samples(settings: Settings, receiver: socket.socket) -> None:
    """Compare what arrives until cancelled; what differs is logged as an error and counted."""
    registry = CollectorRegistry()
    counter = Counter(
        "kasbah_oracle_checks", "Answers compared with PyCasbin's, by outcome", ["outcome"], registry=registry
    )
    outcomes = {comparison: counter.labels(comparison.value) for comparison in Comparison}
    engine = open_engine(settings.database_url.get_secret_value(), settings.database)
    check = CrossCheck(PostgresPolicyReader(open_sessions(engine)), ask_casbin, shape_of)
    loop = asyncio.get_running_loop()
    try:
        while True:
            data = await loop.sock_recv(receiver, MAX_SAMPLE_BYTES)
            try:
                sample = _decoder.decode(data)
                comparison = await check.compare(sample)
            except msgspec.MsgspecError:
                continue
            except AuthzError as error:
                _log.debug("cross_check.not_read", error=str(error))
                continue
            outcomes[comparison].inc()
            if comparison is Comparison.DIFFERS:
                _log.error(
                    "cross_check.differs",
                    tenant=str(sample.tenant_id),
                    revision=sample.revision,
                    subject=sample.subject,
                    action=sample.action,
                    resource=sample.resource,
                    answered=sample.allowed,
                )
    finally:
        await engine.dispose()


def ask_casbin(model_text: str, rows: Sequence[CasbinRow], request: tuple[str, ...]) -> bool | None:
    """Return PyCasbin's decision, or None when it raises."""
    oracle = CasbinOracle(model_text, [PolicyRow(row.kind, row.values) for row in rows])
    decision: bool | None = oracle.ask(request).decision
    return decision


def shape_of(model_text: str) -> CasbinShape:
    """Return the form of the model's rows."""
    parsed = parse_model(model_text)
    with_domain = {kind: definition.columns > 2 for kind, definition in parsed.roles.items()}  # noqa: PLR2004
    return CasbinShape(parsed.policies["p"], with_domain)
