"""The decision log: one JSON object a line for decisions, written by a thread so that no decision ever waits for it.

What cannot be queued is dropped and counted. Attributes are masked by name, and the log says where each came from.
"""

import queue
import random
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

import structlog

from authz.decision import Decision
from authz.request import NO_PROPERTIES, Auth, EvaluationRequest, Properties
from service.http_settings import DecisionLogSettings
from service.logging import render_line

MASK = "***"
MAX_MASK_DEPTH = 64
BATCH = 256
"""Lines written at once at most."""

CLOSE_SECONDS = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asked:
    """One decision and what it was about."""

    at: datetime
    request_id: str
    tenant: str
    caller: str
    request: EvaluationRequest
    decision: Decision
    ignored_subject: Properties = field(default_factory=lambda: NO_PROPERTIES)
    """Properties that the caller sent but may not assert."""
    ignored_resource: Properties = field(default_factory=lambda: NO_PROPERTIES)
    stored_subject: Properties = field(default_factory=lambda: NO_PROPERTIES)
    stored_resource: Properties = field(default_factory=lambda: NO_PROPERTIES)


class DecisionLog:
    """Takes decisions without ever blocking; `dropped` counts what it could not take."""

    def __init__(
        self,
        settings: DecisionLogSettings,
        *,
        opener: Callable[[str], IO[bytes]] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._mode = settings.mode
        self._rate = settings.sample_rate
        self._path = settings.path
        self._masked = frozenset(name.lower() for name in settings.masked)
        self._queue: queue.Queue[Asked | None] = queue.Queue(settings.queue_size)
        self._opener = opener or _open
        self._chance = chance
        self._thread: threading.Thread | None = None
        self.dropped = 0
        self.written = 0
        self.enabled = self._mode != "off"

    def wants(self, *, allowed: bool) -> bool:
        """Whether a decision is to be logged; ask before building an `Asked`."""
        if self._mode == "all":
            return True
        if self._mode == "denies":
            return not allowed
        return self._mode == "sampled" and self._chance() < self._rate

    def record(self, asked: Asked) -> None:
        """Queue one decision, or drop and count it."""
        try:
            self._queue.put_nowait(asked)
        except queue.Full:
            self.dropped += 1

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        return {"decision_log_dropped": self.dropped, "decision_log_written": self.written}

    def start(self) -> None:
        """Open the file and start the writer; raises `OSError` when it cannot be opened."""
        if not self.enabled:
            return
        file = self._opener(self._path)
        self._thread = threading.Thread(target=self._run, args=(file,), name="decision-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, for at most five seconds, and stop."""
        if self._thread is None:
            return
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)
        self._thread = None

    def _run(self, file: IO[bytes]) -> None:
        failing = False
        with file:
            while batch := self._next_batch():
                lines = [self.line(asked).encode() for asked in batch if asked is not None]
                try:
                    _write(file, lines)
                    self.written += len(lines)
                    failing = False
                except OSError as error:
                    self.dropped += len(lines)
                    if not failing:
                        _log.error("decision_log.failed", error=str(error))  # once; the path says it
                    failing = True
                if batch[-1] is None:
                    return

    def _next_batch(self) -> list[Asked | None]:
        """Wait for a decision, and return it with what else is queued; a final None ends the log."""
        batch = [self._queue.get()]
        while batch[-1] is not None and len(batch) < BATCH:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def line(self, asked: Asked) -> str:
        """Return one decision as one line of printable ASCII."""
        request, decision = asked.request, asked.decision
        entry: dict[str, Any] = {
            "at": asked.at.astimezone(UTC).isoformat(),
            "event": "decision",
            "request_id": asked.request_id,
            "tenant": asked.tenant,
            "caller": asked.caller,
            "subject": request.subject.ref,
            "action": request.action.name,
            "resource": request.resource.ref,
            "decision": decision.allowed,
            "reason": decision.reason.value,
            "revision": decision.revision,
            "attributes": {
                "subject": self._attributes(request.subject.properties, asked.stored_subject, asked.ignored_subject),
                "resource": self._attributes(
                    request.resource.properties, asked.stored_resource, asked.ignored_resource
                ),
                "action": self._attributes(request.action.properties, NO_PROPERTIES, NO_PROPERTIES, given="caller"),
                "context": self._attributes(request.context, NO_PROPERTIES, NO_PROPERTIES, given="caller"),
            },
        }
        if request.auth is not None:
            entry["auth"] = _sign_in(request.auth)
        if decision.determining:
            entry["rules"] = [rule.id for rule in decision.determining]
        if decision.errors:
            entry["errors"] = list(decision.errors)
        return render_line(None, "", entry) + "\n"

    def _attributes(
        self, asserted: Properties, stored: Properties, ignored: Properties, given: str = "asserted"
    ) -> dict[str, Any]:
        """Return `{name: {value, from}}`; a stored value wins over an asserted one, an ignored one never counts."""
        found: dict[str, Any] = {}
        for source, properties in (("ignored", ignored), (given, asserted), ("stored", stored)):
            for name, value in properties.items():
                found[name] = {"value": self._mask(name, value), "from": source}
        return found

    def _mask(self, name: str, value: Any, depth: int = 0) -> Any:
        if name.lower() in self._masked or depth > MAX_MASK_DEPTH:
            return MASK
        if isinstance(value, Mapping):
            return {key: self._mask(key, inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._mask("", inner, depth + 1) for inner in value]
        return value


def _sign_in(auth: Auth) -> dict[str, Any]:
    """Return how the subject signed in, and who says so."""
    return {
        "acr": auth.acr,
        "amr": auth.amr,
        "time": None if auth.time is None else auth.time.astimezone(UTC).isoformat(),
        "from": "asserted" if auth.asserted else "session",
    }


def _open(path: str) -> IO[bytes]:
    """Open a file for appending, or standard output, without a buffer."""
    if path == "-":
        return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
    return open(path, "ab", buffering=0)  # noqa: PTH123  # a Path's `open` is the same, one step later


def _write(file: IO[bytes], lines: list[bytes]) -> None:
    """Write whole lines at once: several workers append to one file, and none may cut another's line in two."""
    rest = b"".join(lines)
    while rest:
        rest = rest[file.write(rest) :]
