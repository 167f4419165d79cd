"""The directory of one instance on one machine (`.kasbah`): its lock, its secrets, its children."""

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from service.processes import Child, StartError, stop


class StateDirectory:
    """The directory of one instance: a lock, the secrets it made, and a record of its children."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._children: list[Child] = []

    def open(self) -> None:
        """Create the directory and lock it for this process.

        Raises:
            StartError: it cannot be written, or another instance uses it.
        """
        try:
            self._make()
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(
                f"cannot write to `{self.path}` ({reason}): set KASBAH_STATE_DIR to a directory of yours"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise StartError(
                f"another kasbah (pid {holder}) uses `{self.path}`: stop it, or set KASBAH_STATE_DIR and KASBAH_PORT"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        self._lock = handle

    def _make(self) -> None:
        """Create the directory where there is none. One that was there keeps its mode: it may be `/tmp`."""
        if self.path.is_dir():
            return
        self.path.mkdir(parents=True)
        # Servers that do not run as root must be able to pass through; what is secret has a mode of its own.
        self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)

    @property
    def is_open(self) -> bool:
        """Whether this process holds the directory."""
        return self._lock is not None

    def close(self) -> None:
        """Give up the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def adopt(self, child: Child) -> None:
        """Record a child, so that the next start can find it if we are killed."""
        self._children.append(child)
        self._record()

    def _record(self) -> None:
        entries = []
        for child in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(child.process.pid)
                entries.append({"name": child.name, "pid": process.pid, "started": process.create_time()})
        self.write_private("children.json", entries)

    def stop_children(self) -> None:
        """Stop all children, the last started first."""
        while self._children:
            stop(self._children.pop())
        (self.path / "children.json").unlink(missing_ok=True)

    def heal(self) -> list[str]:
        """Stop what an earlier, killed run left behind. Returns lines for people: one for each child, or one in all."""
        said: list[str] = []
        entries = self.read_private("children.json")
        if not isinstance(entries, list):
            return said
        for entry in reversed(entries):
            process = _find_process(entry)
            if process is not None:
                said.append(f"a crashed earlier run left {entry['name']} running (pid {process.pid}): stopped it")
                _end(process)
        (self.path / "children.json").unlink(missing_ok=True)
        return said or ["an earlier run did not end cleanly: its data is being recovered"]

    def read_private(self, name: str) -> Any:
        """Return the JSON value of a file, or None when there is none or it is damaged."""
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def write_private(self, name: str, value: object) -> None:
        """Write a JSON value to a file that only we can read, at once or not at all."""
        target = self.path / name
        aside = target.with_name(f".{name}.new")
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        aside.replace(target)


def _find_process(entry: Mapping[str, Any]) -> psutil.Process | None:
    """Return the process of a record, unless its pid has been given to another since."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, KeyError, TypeError, ValueError):
        process = psutil.Process(int(entry["pid"]))
        if abs(process.create_time() - float(entry["started"])) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _end(process: psutil.Process, grace_seconds: float = 5.0) -> None:
    """End a process that is not our child, and its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        # PostgreSQL: SIGINT is the fast shutdown; Python takes it as Ctrl-C; Valkey as a request to stop.
        process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=grace_seconds)
        for survivor in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(alive, timeout=2)
