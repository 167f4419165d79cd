"""A real `kasbah dev` as a process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.process_logs import follow
from tests.support.running_service import clean_environment

START_TIMEOUT_SECONDS = 180.0


@dataclass
class RunningDev:
    """One `kasbah dev`, with its own port and state directory."""

    directory: Path
    port: int = field(default_factory=free_port)
    arguments: tuple[str, ...] = ()
    state_name: str = "state"
    process: subprocess.Popen[bytes] = field(init=False)
    family: list[psutil.Process] = field(init=False, default_factory=list)

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.directory / self.state_name

    @property
    def log(self) -> Path:
        """Where its terminal output goes."""
        return self.directory / "output"

    def start(self, *, wait: bool = True, **settings: str) -> float:
        """Start it; returns the seconds until `dev.json` says that it is ready."""
        environment = clean_environment(KASBAH_PORT=str(self.port), KASBAH_STATE_DIR=str(self.state), **settings)
        started = time.monotonic()
        with self.log.open("wb") as output:
            follow(f"kasbah dev on port {self.port}", self.log)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "dev", *self.arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()
        return time.monotonic() - started

    def wait_ready(self) -> None:
        """Wait for `dev.json` of this process and the welcome; fails with the output when it ended."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"dev ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError, ValueError):
                if self.description()["pid"] == self.process.pid and "Ctrl-C" in self.output():
                    self.family = psutil.Process(self.process.pid).children(recursive=True)
                    return
            time.sleep(0.05)
        raise AssertionError(f"dev was not ready:\n{self.output()}")

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its children have used."""
        total = 0.0
        for process in [psutil.Process(self.process.pid), *self.family]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def description(self) -> Any:
        """Return what `dev.json` says."""
        return json.loads((self.state / "dev.json").read_text("utf-8"))

    def output(self) -> str:
        """Return what it printed."""
        return self.log.read_text("utf-8", "replace")

    def end(self, number: signal.Signals = signal.SIGINT, timeout_seconds: float = 60.0) -> int:
        """Send a signal and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_seconds)

    def left_behind(self, timeout_seconds: float = 60.0) -> list[str]:
        """Return which children still run, after giving them a moment."""
        _, alive = psutil.wait_procs([process for process in self.family if _runs(process)], timeout=timeout_seconds)
        return [str(process) for process in alive if _runs(process)]

    def kill_all(self) -> None:
        """SIGKILL everything that is left."""
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
        for process in self.family:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
