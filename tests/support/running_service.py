"""A real `kasbah serve` as a process, to be asked over HTTP, stopped and killed."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.process_logs import follow

START_TIMEOUT_SECONDS = 120.0
"""A process is slow to start on a machine that is busy with other tests; this is no promise of the service."""


@dataclass(frozen=True)
class Answer:
    """Status, headers (names in lower case) and body of one HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as a JSON value."""
        return json.loads(self.body)


def clean_environment(**settings: str) -> dict[str, str]:
    """Return our environment without KASBAH_ settings of the person who runs the tests, plus `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KASBAH_")}
    kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"} | settings


@dataclass
class RunningService:
    """One `kasbah serve` process (a supervisor and its workers) on a port of its own."""

    log: Path
    environment: dict[str, str]
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def base_url(self) -> str:
        """Where it answers."""
        scheme = "https" if self.environment.get("KASBAH_TLS_CERT") else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until /readyz says 200."""
        with self.log.open("ab") as output:
            follow(f"kasbah serve on port {self.port}", self.log)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Wait until it is ready; fails with its log when it ended or took too long."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError):
                if self.request("GET", "/readyz").status == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"serve was not ready after {timeout_seconds} s:\n{self.output()}")

    def output(self) -> str:
        """Return the end of what it said."""
        return self.log.read_text("utf-8", "replace")[-8000:]

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 60.0,
    ) -> Answer:
        """Send one request on a connection of its own; every status is an answer, no answer is an OSError."""
        data = None if body is None else json.dumps(body).encode()
        sent = {} if data is None else {"Content-Type": "application/json"}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.base_url + path, data, sent | dict(headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
                return Answer(response.status, _lower(response.headers.items()), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers.items()), error.read())

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def stop(self, timeout_seconds: float = 60.0) -> int:
        """SIGTERM, then wait. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_seconds)

    def kill(self) -> None:
        """SIGKILL the supervisor and its workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


def _lower(items: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in items}


def new_service(directory: Path, database_url: str, redis_url: str, **settings: str) -> RunningService:
    """Return a service that is not started yet; `settings` are further KASBAH_ variables, by their full names."""
    port = int(settings.pop("KASBAH_PORT", None) or free_port())
    environment = clean_environment(
        **{
            "KASBAH_PORT": str(port),
            "KASBAH_WORKERS": "1",
            "KASBAH_CROSS_CHECK_PER_SECOND": "0",
            "KASBAH_PASSWORDS__NICENESS": "0",  # a machine that tests is busy
            "KASBAH_DATABASE_URL": database_url,
            "KASBAH_REDIS_URL": redis_url,
            "KASBAH_SECRET_KEY": SECRET_KEY,
            "KASBAH_STATE_DIR": str(directory / f"state-{port}"),
        }
        | settings
    )
    return RunningService(directory / f"serve-{port}-{secrets.token_hex(2)}.log", environment, port)


SECRET_KEY = secrets.token_urlsafe(48)
"""One key for all services of a session: nodes of one installation share it."""
