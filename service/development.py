"""Everything of Kasbah on one machine: servers, schema, sample tenants, keys, and the server itself as a child.

What it keeps lies in the state directory: the data of PostgreSQL, the secrets it made, and the keys that it hands out
again on the next start.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from service.demo import OWN_SERVER, bring_in_people, call, has_people, still_good
from service.processes import Child, StartError, open_private, require_port, spawn, wait_until
from service.settings import PREFIX, host_in_url, postgres_url_fault, redis_url_fault
from service.state_directory import StateDirectory

READY_TIMEOUT_SECONDS = 30
APPLY_TIMEOUT_SECONDS = 300
ATTENTION_SECONDS = 0.2
NOT_A_TENANT = ("_", ".")
"""First characters of directories that hold no tenant: `_base`, and hidden ones."""
PATIENT_SIGN_INS = {f"{PREFIX}PASSWORDS__NICENESS": "0", f"{PREFIX}PASSWORDS__WAIT_SECONDS": "10"}


class StoppedError(BaseException):
    """A signal asked us to end; no `except Exception` may catch it."""


class Progress(Protocol):
    """How steps are shown."""

    def step(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Show that something is under way, and that it is done."""

    def note(self, line: str) -> None:
        """Show a line."""


@dataclass(frozen=True, slots=True)
class DevelopmentSettings:
    """What `kasbah dev` takes from its environment and options."""

    host: str
    port: int
    workers: int
    state_directory: Path
    policies: Path
    database_url: str | None
    redis_url: str | None

    @property
    def base_url(self) -> str:
        """Where the server answers."""
        return f"http://{host_in_url(self.host)}:{self.port}"


@dataclass(slots=True)
class Development:
    """A running development server; `start` fills it, `stop` ends everything."""

    settings: DevelopmentSettings
    progress: Progress
    state: StateDirectory = field(init=False)
    platform_key: str = field(init=False, default="", repr=False)
    tenant_keys: dict[str, str] = field(init=False, default_factory=dict, repr=False)
    people: dict[str, dict[str, Any]] = field(init=False, default_factory=dict, repr=False)
    """Accounts of the first sample tenant, by username."""
    administrator_token: str | None = field(init=False, default=None, repr=False)
    """Makes the first administrator of the platform, once; None where there is one."""
    children: list[Child] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.state = StateDirectory(self.settings.state_directory)

    def start(self) -> None:
        """Bring everything up.

        Raises:
            StartError: one line that says what is in the way.
        """
        settings, progress = self.settings, self.progress
        require_urls(settings)
        slugs = sample_slugs(settings.policies)
        self.state.open()
        for line in self.state.heal():
            progress.note(line)
        (self.state.path / "dev.json").unlink(missing_ok=True)
        require_port(settings.host, settings.port)
        database_url, redis_url = self._start_servers()
        with progress.step("migrating the database"):
            _migrate(database_url)
        with progress.step("starting the server"):
            server = self._start_serve(database_url, redis_url)
            self._make_keys(database_url, slugs)
            wait_until(self._ready, server, timeout_seconds=READY_TIMEOUT_SECONDS)
        if slugs and not self._held().get("samples_loaded"):
            with progress.step(f"applying the sample policies ({', '.join(slugs)})"):
                self._apply_samples()
            self._hold(samples_loaded=True)
        if self.tenant_keys:
            self._gather_people(self.people_of)

    def wait(self) -> str:
        """Return why we should end: a line about a child that died. A signal raises `StoppedError` instead."""
        while True:
            for child in self.children:
                code = child.process.poll()
                if code is not None:
                    return f"{child.name} ended with status {code}: {child.last_log_line() or 'no log'} ({child.log})"
            time.sleep(ATTENTION_SECONDS)

    def stop(self) -> None:
        """End all children, the last started first, and withdraw `dev.json`."""
        if not self.state.is_open:
            return  # the directory is another instance's, or none
        (self.state.path / "dev.json").unlink(missing_ok=True)
        self.state.stop_children()
        self.state.close()

    def ask(self, slug: str, question: Mapping[str, Any]) -> Any:
        """Ask the running server a question as a tenant's key; returns the answer's JSON value."""
        return call(self.settings.base_url, self.tenant_keys[slug], "POST", "/access/v1/evaluation", question)

    def _start_servers(self) -> tuple[str, str]:
        from service.embedded import start_postgres, start_valkey

        database_url, redis_url = self.settings.database_url, self.settings.redis_url
        if database_url is None:
            with self.progress.step("starting PostgreSQL"):
                postgres = start_postgres(self.state)
            self.children.append(postgres.child)
            database_url = postgres.url
        if redis_url is None:
            with self.progress.step("starting Valkey"):
                valkey = start_valkey(self.state)
            self.children.append(valkey.child)
            redis_url = valkey.url
        return database_url, redis_url

    def _start_serve(self, database_url: str, redis_url: str) -> Child:
        settings = self.settings
        log = self.state.path / "serve.log"
        if log.exists():
            log.replace(log.with_name("serve.log.1"))
        plain = {name: value for name, value in os.environ.items() if not name.startswith(f"{PREFIX}TLS_")}
        environment = plain | {
            "KASBAH_HOST": settings.host,
            "KASBAH_PORT": str(settings.port),
            "KASBAH_WORKERS": str(settings.workers),
            "KASBAH_DATABASE_URL": database_url,
            "KASBAH_REDIS_URL": redis_url,
            "KASBAH_SECRET_KEY": self._secret_key(),
            "PROMETHEUS_MULTIPROC_DIR": str(self.state.path / "metrics"),
        }
        # One machine does everything here, perhaps much else besides: who signs in waits rather than is turned away.
        environment = PATIENT_SIGN_INS | environment
        if not any(name.startswith(f"{PREFIX}MAIL__") for name in environment):
            self.outbox.mkdir(mode=0o700, exist_ok=True)
            environment[f"{PREFIX}MAIL__OUTBOX_DIR"] = str(self.outbox)
        child = spawn(
            "the server",
            [sys.executable, "-m", "service", "serve"],
            log=log,
            environment=environment,
            stop_signal=signal.SIGTERM,
        )
        self.state.adopt(child)
        self.children.append(child)
        return child

    def _secret_key(self) -> str:
        held = self._held().get("secret_key")
        if not isinstance(held, str):
            held = secrets.token_urlsafe(48)
            self._hold(secret_key=held)
        return os.environ.get(f"{PREFIX}SECRET_KEY") or held

    def _make_keys(self, database_url: str, slugs: list[str]) -> None:
        from authn.errors import AuthnError
        from service.bootstrap import Held, prepare_development
        from tenancy.errors import TenancyError
        from tenancy.ids import InvalidSlugError

        held = self._held()
        keys = held.get("tenant_keys")
        given = Held(held.get("platform_key"), keys if isinstance(keys, dict) else {}, held.get("administrator_token"))
        try:
            prepared = asyncio.run(prepare_development(database_url, slugs, given))
        except (AuthnError, TenancyError, InvalidSlugError) as error:
            raise StartError(f"the sample tenants and their keys were not made: {error}") from error
        self.platform_key, self.tenant_keys = prepared.platform_key, prepared.tenant_keys
        self.administrator_token = prepared.administrator_token
        # A key that the database does not know is of another one: what was loaded there says nothing about this.
        is_same = prepared.platform_key == held.get("platform_key")
        self._hold(
            platform_key=self.platform_key,
            tenant_keys=self.tenant_keys,
            administrator_token=self.administrator_token,
            samples_loaded=bool(held.get("samples_loaded")) if is_same else prepared.was_applied,
            **({} if is_same else {"people": None}),
        )

    def _gather_people(self, slug: str) -> None:
        """Take the accounts of the sample tenant, or bring them in where the tenant has none at all."""
        base_url, key, held = self.settings.base_url, self.tenant_keys[slug], self._held().get("people")
        if isinstance(held, dict):
            self.people = still_good(base_url, key, held)
        elif self.outbox.is_dir() and not has_people(base_url, key):
            with self.progress.step(f"inviting people to {slug}"):
                self.people = bring_in_people(base_url, key, slug, self.outbox)
            self._hold(people=self.people)

    @property
    def people_of(self) -> str:
        """The tenant of `people`."""
        return next(iter(self.tenant_keys), "")

    @property
    def outbox(self) -> Path:
        """Where the server leaves mails, unless it has a mail server."""
        return self.state.path / "mail"

    def _ready(self) -> bool:
        with (
            contextlib.suppress(OSError),
            OWN_SERVER.open(f"{self.settings.base_url}/readyz", timeout=2) as response,
        ):
            return bool(response.status == 200)  # noqa: PLR2004 - the code has a name in every reader's head
        return False

    def _apply_samples(self) -> None:
        """Apply the sample directory with the command that people use for theirs."""
        environment = dict(os.environ) | {"KASBAH_URL": self.settings.base_url, "KASBAH_API_KEY": self.platform_key}
        done = subprocess.run(
            [sys.executable, "-m", "service", "policy", "apply", str(self.settings.policies), "--yes"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=APPLY_TIMEOUT_SECONDS,
        )
        with open(self.state.path / "apply.log", "wb", opener=open_private) as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise StartError(
                f"the sample policies were not applied: {said[-1] if said else f'status {done.returncode}'} "
                f"({self.state.path / 'apply.log'})"
            )

    def announce(self) -> None:
        """Write `dev.json`, which tells scripts and the command line that everything is up."""
        self.state.write_private(
            "dev.json",
            {
                "base_url": self.settings.base_url,
                "pid": os.getpid(),
                "platform_key": self.platform_key,
                "administrator_token": self.administrator_token,
                "tenants": {
                    slug: {"api_key": key} | ({"people": self.people} if number == 0 and self.people else {})
                    for number, (slug, key) in enumerate(self.tenant_keys.items())
                },
            },
        )

    def _held(self) -> dict[str, Any]:
        held = self.state.read_private("secrets.json")
        return held if isinstance(held, dict) else {}

    def _hold(self, **values: object) -> None:
        self.state.write_private("secrets.json", self._held() | values)


def require_urls(settings: DevelopmentSettings) -> None:
    """Raise `StartError` when the address of a server of one's own is none."""
    database_fault = settings.database_url and postgres_url_fault(settings.database_url)
    redis_fault = settings.redis_url and redis_url_fault(settings.redis_url)
    if database_fault:
        raise StartError(f"KASBAH_DATABASE_URL: {database_fault}")
    if redis_fault:
        raise StartError(f"KASBAH_REDIS_URL: {redis_fault}")


def sample_slugs(policies: Path) -> list[str]:
    """Return the tenants that a policy directory holds.

    Raises:
        StartError: there is no such directory.
    """
    if not policies.is_dir():
        raise StartError(f"no policy directory `{policies}`: set KASBAH_POLICIES, or start in a checkout of Kasbah")
    return sorted(
        entry.name for entry in policies.iterdir() if entry.is_dir() and not entry.name.startswith(NOT_A_TENANT)
    )


def _migrate(database_url: str) -> None:
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    from sqlalchemy.exc import DBAPIError

    from migrations.runner import SchemaTooNewError, ServerTooOldError, upgrade
    from migrations.service_role import ServiceRoleError

    owner_url = os.environ.get(f"{PREFIX}MIGRATION_DATABASE_URL") or database_url
    try:
        upgrade(owner_url)
    except (ServiceRoleError, SchemaTooNewError, ServerTooOldError) as error:
        raise StartError(str(error)) from error
    except DBAPIError as error:
        raise StartError(f"the database was not migrated: {str(error.orig).strip().partition(chr(10))[0]}") from error


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into `StoppedError`, once; later ones change nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop_once(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise StoppedError

    before = {number: signal.signal(number, stop_once) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
