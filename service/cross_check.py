"""Live cross-check with PyCasbin: workers offer samples, one process of the node compares them.

Samples are datagrams on a socket pair made before the workers are forked. A sample that cannot be sent at once is
dropped: nothing here ever makes a decision wait. The process that compares runs where no other wants a core, and rests
after each comparison until what it took is a small share of one (`KASBAH_CROSS_CHECK_SHARE`).
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from authz.casbin_oracle import CasbinOracle, parse_model
from authz.cross_check import CasbinRow, CasbinShape, Comparison, CrossCheck, Judge, Sample
from authz.errors import AuthzError
from authz.positional import PolicyRow
from authz.storage import PostgresPolicyReader
from service.metrics import SAMPLES_DROPPED, comparison_counter
from service.settings import Settings
from tenancy.database import open_engine, open_sessions

MAX_SAMPLE_BYTES = 16 * 1024
LOWEST_PRIORITY = 19

_log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Sample)


class Sampler:
    """Sends at most so many samples a second. `due` is when the next one may go, by the caller's monotonic clock."""

    __slots__ = ("_dropped", "_interval", "_sender", "due")

    def __init__(self, sender: socket.socket | None, per_second: float) -> None:
        self._sender = sender
        self._dropped = 0
        self._interval = 1.0 / per_second if per_second > 0 else 0.0
        self.due = 0.0 if sender is not None and per_second > 0 else float("inf")

    def offer(self, sample: Sample, now: float) -> None:
        """Send one sample, or drop it; call it when `due` has passed."""
        self.due = now + self._interval
        if self._sender is None:
            return
        try:
            self._sender.send(_encode(sample))
        except OSError:
            self._dropped += 1

    def totals(self) -> Mapping[str, int]:
        """Return counters."""
        return {SAMPLES_DROPPED: self._dropped}


def sample_sockets() -> tuple[socket.socket, socket.socket]:
    """Return the end that workers send on, which never blocks, and the end that is read."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    receiver.setblocking(False)
    return sender, receiver


class Rest:
    """How long to rest so that all the processor time taken, ever since it was made, is `share` of one core."""

    def __init__(self, share: float, processor_seconds: Callable[[], float] = time.process_time) -> None:
        self._share = share
        self._processor_seconds = processor_seconds
        self._accounted = processor_seconds()

    def owed(self) -> float:
        """Return seconds of rest for what was done since the last call."""
        before, self._accounted = self._accounted, self._processor_seconds()
        took = self._accounted - before
        return took / self._share - took


def give_way() -> None:
    """Let every other process have the cores first, and end at once when told to: there is nothing to tidy up."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the supervisor says when to end
    os.nice(LOWEST_PRIORITY)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


async def compare_samples(settings: Settings, receiver: socket.socket) -> None:
    """Compare what arrives until cancelled, and rest in between; what differs is logged as an error and counted."""
    counter = comparison_counter(CollectorRegistry())
    rest = Rest(settings.cross_check_share)
    engine = open_engine(settings.database_url.get_secret_value(), settings.database)
    check = CrossCheck(PostgresPolicyReader(open_sessions(engine)), load_casbin, shape_of)
    loop = asyncio.get_running_loop()
    try:
        while True:
            data = await loop.sock_recv(receiver, MAX_SAMPLE_BYTES)
            counter.labels((await _compared(check, data)).value).inc()
            await asyncio.sleep(rest.owed())
            counter.labels(Comparison.DROPPED.value).inc(_left_out(receiver))
    finally:
        await engine.dispose()


async def _compared(check: CrossCheck, data: bytes) -> Comparison:
    try:
        sample = _decoder.decode(data)
        comparison = await check.compare(sample)
    except (AuthzError, msgspec.MsgspecError) as error:
        _log.debug("cross_check.not_read", error=str(error))
        return Comparison.NOT_READ
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
    return comparison


def _left_out(receiver: socket.socket) -> int:
    """Take out the samples that came during a rest, which are of old revisions by now; return how many."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(MAX_SAMPLE_BYTES)
            count += 1
    return count


class LoadedCasbin:
    """`Judge`."""

    def __init__(self, oracle: CasbinOracle) -> None:
        self._oracle = oracle

    def ask(self, request: tuple[str, ...], links: Sequence[CasbinRow]) -> bool | None:
        """Return what PyCasbin decides, or None when it raises."""
        decision: bool | None = self._oracle.ask(request, [PolicyRow(row.kind, row.values) for row in links]).decision
        return decision


def load_casbin(model_text: str, rows: Sequence[CasbinRow]) -> Judge:
    """Return PyCasbin with the rows."""
    return LoadedCasbin(CasbinOracle(model_text, [PolicyRow(row.kind, row.values) for row in rows]))


def shape_of(model_text: str) -> CasbinShape:
    """Return the form of the model's rows."""
    parsed = parse_model(model_text)
    with_domain = {kind: definition.columns > 2 for kind, definition in parsed.roles.items()}  # noqa: PLR2004
    return CasbinShape(parsed.policies["p"], with_domain)
