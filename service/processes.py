"""Child processes that are ours: started to die with us, stopped in order, found again after a crash.

A child is told by the kernel when its parent dies (Linux). Where that fails, or elsewhere, the next start finds the
child in the state directory's record (`service/state_directory.py`) and stops it.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522


class StartError(Exception):
    """Something that a person must put right before we can start; the message is one line."""


@dataclass(frozen=True, slots=True)
class Account:
    """A system user that a child runs as. `capability` is kept so that it reaches directories closed to others."""

    uid: int
    gid: int
    capability: int | None = None


@dataclass(slots=True)
class Child:
    """A running child process."""

    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    log: Path

    def last_log_line(self) -> str:
        """Return the last line that says something, with what it announces, for a one-line report."""
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        telling = [n for n, line in enumerate(lines) if "FATAL" in line or "PANIC" in line or "rror" in line]
        last = telling[-1] if telling else len(lines) - 1
        if lines and lines[last].endswith(":"):  # what it announces stands below
            return " ".join(line.strip() for line in lines[last:])
        return lines[last].strip() if lines else ""


def spawn(
    name: str,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    standard_input: bytes | None = None,
    directory: Path | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
) -> Child:
    """Start a child in a session of its own, so that Ctrl-C at a terminal reaches only us and we stop it in order.

    Raises:
        StartError: the program cannot be executed.
    """
    before_exec = _preparation(stop_signal, account)
    with open(log, "ab", opener=open_private) as output:
        try:
            process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL if standard_input is None else subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=None if environment is None else dict(environment),
                cwd=directory,
                start_new_session=True,
                preexec_fn=before_exec,  # noqa: PLW1509 - no threads run yet, and only this can set a death signal
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise StartError(f"cannot start {name}: {error}") from error
    if standard_input is not None and process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(standard_input)
    return Child(name, process, stop_signal, log)


def open_private(path: str, flags: int) -> int:
    """Open a file for `open(…, opener=…)`; one that it creates is for us alone: logs name people and rules."""
    return os.open(path, flags, 0o600)


def _preparation(death_signal: signal.Signals, account: Account | None) -> Callable[[], None]:
    """Return what the child does between fork and exec."""
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        if account is not None:
            if account.capability is not None and libc is not None:
                libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            if account.capability is not None and libc is not None:
                _keep_capability(libc, account.capability)
        if libc is not None:
            # Last: a change of user clears it.
            libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _keep_capability(libc: ctypes.CDLL, capability: int) -> None:
    """Keep one capability across exec for an account that is not root."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    mask = 1 << capability
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    libc.capset(header, data)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def unprivileged_account(*needed: Path, owner_of: Path) -> Account | None:
    """Return the account for servers that refuse to run as root, or None when we are not root.

    Args:
        needed: Paths it must reach. Where a parent directory is closed to others (a checkout below `/root`), the
            account keeps the capability to search it, rather than us opening the directory to everyone.
        owner_of: Data whose owner it must be, if there is any yet; `nobody` otherwise.

    Raises:
        StartError: there is no such account, or it cannot reach what it needs.
    """
    if os.geteuid() != 0:
        return None
    uid, gid = _owner(owner_of)
    closed = [parent for path in needed for parent in path.resolve().parents if not parent.stat().st_mode & 0o001]
    if not closed:
        return Account(uid, gid)
    held = _permitted_capabilities()
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if held & (1 << capability):
            return Account(uid, gid, capability)
    raise StartError(
        f"PostgreSQL does not run as root, and `{closed[0]}` is closed to other users: "
        "run as a user of your own, or set KASBAH_DATABASE_URL to a server of yours"
    )


def _owner(path: Path) -> tuple[int, int]:
    """Return who owns `path`, or `nobody` when it is missing or root's."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
    try:
        user = pwd.getpwnam("nobody")
    except KeyError as error:
        raise StartError(
            "PostgreSQL does not run as root, and there is no user `nobody`: run as a user of your own, "
            "or set KASBAH_DATABASE_URL to a server of yours"
        ) from error
    return user.pw_uid, user.pw_gid


def _permitted_capabilities() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def stop(child: Child, *, grace_seconds: float = 8.0) -> None:
    """Ask a child to end, and kill its whole session when it does not within `grace_seconds`."""
    if child.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(child.stop_signal)
        try:
            child.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait(30)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_port(host: str, port: int, setting: str = "KASBAH_PORT") -> None:
    """Raise `StartError` when somebody listens on the port already.

    Workers share a port through SO_REUSEPORT, which would also let two servers of one user share it silently.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise StartError(f"not allowed to listen on {host}:{port}: set {setting} to a port above 1023") from error
        except OSError as error:
            raise StartError(f"port {port} on {host} is taken: stop what listens there or set {setting}") from error


def wait_until(
    ready: Callable[[], bool], child: Child, *, timeout_seconds: float, interval_seconds: float = 0.02
) -> None:
    """Wait until `ready()` holds.

    Raises:
        StartError: the child ended first, or the time was up.
    """
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        code = child.process.poll()
        if code is not None:
            raise StartError(
                f"{child.name} ended with status {code}: {child.last_log_line() or 'no log'} ({child.log})"
            )
        if time.monotonic() > deadline:
            raise StartError(f"{child.name} was not ready after {timeout_seconds:g} s: see {child.log}")
        time.sleep(interval_seconds)
