"""One process per core: a supervisor that owns the listening sockets, forks workers and replaces the dead.

The sockets outlive a worker, so a connection that arrives while its worker is being replaced waits instead of being
refused. A worker notices the end of the supervisor by a pipe that nobody else holds.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType

import structlog

from service.processes import StartError

BACKLOG = 1024
FAILURES_BEFORE_GIVING_UP = 3
RESTART_PAUSE_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
STABLE_SECONDS = 30.0
KILL_MARGIN_SECONDS = 3.0

_log = structlog.get_logger()

WorkerMain = Callable[[socket.socket, int, int], int]
"""`(listening socket, pipe to say "ready" on, pipe that ends with the supervisor) -> exit status`."""


@dataclass(slots=True)
class Worker:
    """One worker's place: its socket stays, its process may change. The service does not wait for side workers."""

    name: int | str
    listener: socket.socket
    main: WorkerMain
    side: bool = False
    pid: int = 0
    ready_pipe: int = -1
    ready: bool = False
    started: float = 0.0
    failures: int = 0
    start_again_at: float = 0.0


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` sockets that listen on one port; the kernel spreads connections over them.

    Raises:
        StartError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StartError(f"KASBAH_HOST `{host}` is no address of this machine ({error.strerror})") from error
    listeners: list[socket.socket] = []
    try:
        for _ in range(count):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise StartError(
            f"cannot listen on {host}:{port} ({error.strerror}): set KASBAH_PORT or KASBAH_HOST"
        ) from error
    return listeners


class Supervisor:
    """Runs the workers until it is told to stop."""

    def __init__(
        self,
        listeners: list[socket.socket],
        main: WorkerMain,
        *,
        stop_seconds: float,
        on_worker_end: Callable[[int], None] = lambda _pid: None,
        side: Mapping[str, tuple[socket.socket, WorkerMain]] | None = None,
    ) -> None:
        """Prepare; nothing is forked yet.

        Args:
            listeners: One for each worker.
            main: What a worker runs.
            stop_seconds: How long workers may take to end after SIGTERM.
            on_worker_end: Called with the process id of a worker that has ended.
            side: Sockets and main functions of workers that take no connection from outside, by name; they are
                replaced too, whatever they do.
        """
        self._on_worker_end = on_worker_end
        self._workers = [Worker(number, listener, main) for number, listener in enumerate(listeners)]
        self._workers += [Worker(name, own, what, side=True) for name, (own, what) in (side or {}).items()]
        self._stop_seconds = stop_seconds
        self._stopping_since: float | None = None
        self._alive_read, self._alive_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        for handle in (self._wake_read, self._wake_write):
            os.set_blocking(handle, False)
        self._was_ready = False
        self._status = 0

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Run until SIGTERM or SIGINT; returns the exit status.

        Args:
            on_ready: Called once, when every worker listens.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # what is loaded now is shared by all workers; a collection would copy its pages
        gc.enable()
        for worker in self._workers:
            self._start(worker)
        while any(worker.pid or worker.start_again_at for worker in self._workers):
            self._wait()
            self._reap()
            self._read_ready(on_ready)
            self._start_again()
            self._kill_late()
        for worker in self._workers:
            worker.listener.close()
        signal.set_wakeup_fd(-1)
        for handle in (self._alive_read, self._alive_write, self._wake_read, self._wake_write):
            os.close(handle)
        return self._status

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping_since is not None:
            return
        self._stopping_since = time.monotonic()
        _log.info("serve.stopping", signal=signal.Signals(number).name)
        self._end_all(signal.SIGTERM)

    def _end_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.start_again_at = 0.0
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def _start(self, worker: Worker) -> None:
        ready_read, ready_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                    signal.signal(number, signal.SIG_DFL)
                os.close(ready_read)
                os.close(self._alive_write)
                for other in self._workers:
                    if other is not worker:
                        other.listener.close()
                        if other.ready_pipe >= 0:
                            os.close(other.ready_pipe)
                status = worker.main(worker.listener, ready_write, self._alive_read)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.close(ready_write)
        worker.pid, worker.ready_pipe, worker.ready = pid, ready_read, False
        worker.started, worker.start_again_at = time.monotonic(), 0.0

    def _wait(self) -> None:
        """Sleep until a signal, a worker's word, or the next thing that is due."""
        now = time.monotonic()
        due = [worker.start_again_at - now for worker in self._workers if worker.start_again_at]
        timeout = min([0.5, *due])
        pipes = [worker.ready_pipe for worker in self._workers if worker.ready_pipe >= 0]
        readable, _, _ = select.select([self._wake_read, *pipes], [], [], max(timeout, 0.0))
        if self._wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _read_ready(self, on_ready: Callable[[], None]) -> None:
        for worker in self._workers:
            if worker.ready_pipe < 0:
                continue
            readable, _, _ = select.select([worker.ready_pipe], [], [], 0)
            if readable:
                worker.ready = os.read(worker.ready_pipe, 1) == b"r"
                os.close(worker.ready_pipe)
                worker.ready_pipe = -1
        if not self._was_ready and all(worker.ready or worker.side for worker in self._workers):
            self._was_ready = True
            on_ready()

    def _reap(self) -> None:
        for worker in self._workers:
            if not worker.pid:
                continue
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = worker.pid, 0
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        """Replace a worker that ended by itself; give up when none of them ever came up."""
        lived = time.monotonic() - worker.started
        pid, worker.pid, worker.ready = worker.pid, 0, False
        self._on_worker_end(pid)
        if worker.ready_pipe >= 0:
            os.close(worker.ready_pipe)
            worker.ready_pipe = -1
        if self._stopping_since is not None:
            # One that had not begun to listen for signals yet ends by SIGTERM itself.
            self._status = self._status or (0 if code in {0, -signal.SIGTERM} else 1)
            return
        worker.failures = 0 if lived > STABLE_SECONDS else worker.failures + 1
        _log.error("serve.worker_ended", worker=worker.name, pid=pid, status=code, lived_seconds=round(lived, 3))
        if not (self._was_ready or worker.side) and worker.failures >= FAILURES_BEFORE_GIVING_UP:
            self._stopping_since = time.monotonic()
            self._status = 1
            self._end_all(signal.SIGTERM)
            return
        pause = RESTART_PAUSE_SECONDS[min(max(worker.failures - 1, 0), len(RESTART_PAUSE_SECONDS) - 1)]
        worker.start_again_at = time.monotonic() + pause

    def _start_again(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.start_again_at and now >= worker.start_again_at and self._stopping_since is None:
                self._start(worker)
                _log.info("serve.worker_started", worker=worker.name, pid=worker.pid)

    def _kill_late(self) -> None:
        if self._stopping_since is None:
            return
        if time.monotonic() - self._stopping_since > self._stop_seconds + KILL_MARGIN_SECONDS:
            self._end_all(signal.SIGKILL)
