"""`kasbah serve`: the server, on a PostgreSQL and a Valkey of your own."""

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from service.cli.output import ExitCode, fail
from service.processes import StartError, require_port
from service.settings import Settings, SettingsError, load_settings, unknown_variables

METRICS_DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@click.command()
@click.option("--host", help="Address to listen on (KASBAH_HOST; default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (KASBAH_PORT; default 8080).")
@click.option("--workers", type=int, help="Processes (KASBAH_WORKERS; default one for each core).")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the server.

    It needs KASBAH_DATABASE_URL (migrated by `kasbah migrate`), KASBAH_REDIS_URL and KASBAH_SECRET_KEY, and refuses to
    start when a setting is missing or a server is not fit to be used. SIGTERM ends it gracefully. All settings:
    docs/configuration.md.
    """
    started = time.monotonic()
    gc.disable()  # while modules load, collections find nothing and take a tenth of the time; the supervisor enables it
    given = {
        name: value for name, value in {"host": host, "port": port, "workers": workers}.items() if value is not None
    }
    try:
        settings = load_settings(**given)
    except SettingsError as error:
        fail(
            "not started, settings are missing or wrong (docs/configuration.md):\n  " + "\n  ".join(error.faults),
            ExitCode.USAGE,
        )
    for line in unknown_variables(os.environ):
        click.echo(f"warning: {line}", err=True)
    with contextlib.ExitStack() as directories:
        directories.enter_context(metrics_directory())
        try:
            sys.exit(_serve(settings, started, directories))
        except StartError as error:
            fail(str(error))


def _serve(settings: Settings, started: float, directories: contextlib.ExitStack) -> int:
    """Check, listen, fork; returns the exit status."""
    from service.bulk import bulk_socket, unused_socket
    from service.cross_check import sample_sockets
    from service.key_rates import KeyRates
    from service.logging import configure_logging
    from service.supervisor import Supervisor, WorkerMain, open_listeners
    from service.worker import run_bulk_worker, run_cross_check, run_worker, tls_context

    configure_logging(settings.log_level)
    require_port(settings.host, settings.port)
    try:
        tls = tls_context(settings)
    except ssl.SSLError as error:
        raise StartError(
            f"KASBAH_TLS_CERT, KASBAH_TLS_KEY: not a certificate and its key ({error.reason or error})"
        ) from error
    _preflight(settings)
    listeners = open_listeners(settings.host, settings.port, settings.workers)
    sender, receiver = sample_sockets() if settings.cross_check_per_second else (None, None)
    bulk = directories.enter_context(bulk_socket()) if settings.bulk_worker else None
    side: dict[str, tuple[socket.socket, WorkerMain]] = {}
    if bulk is not None:
        side["bulk"] = (unused_socket(), partial(run_bulk_worker, settings, bulk))
    if receiver is not None:
        side["cross-check"] = (receiver, partial(run_cross_check, settings))
    supervisor = Supervisor(
        listeners,
        partial(run_worker, settings, tls, sender, bulk, listeners[0], KeyRates()),
        stop_seconds=settings.unready_seconds + settings.drain_seconds,
        on_worker_end=_forget_gauges,
        side=side,
    )
    return supervisor.run(partial(_say_ready, settings, started))


def _preflight(settings: Settings) -> None:
    from service.preflight import check

    findings = asyncio.run(check(settings))
    for warning in findings.warnings:
        click.echo(f"warning: {warning}", err=True)
    if findings.faults:
        fail("not started:\n  " + "\n  ".join(findings.faults + findings.unreachable))
    if findings.unreachable:
        fail("not started:\n  " + "\n  ".join(findings.unreachable), ExitCode.UNREACHABLE)


def _say_ready(settings: Settings, started: float) -> None:
    import structlog

    structlog.get_logger().info(
        "serve.ready",
        url=settings.http.public_url,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        seconds=round(time.monotonic() - started, 3),
    )


def _forget_gauges(pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def metrics_directory() -> Iterator[None]:
    """Give the workers a directory in which they add up their metrics, empty at the start.

    It must be named before prometheus-client is imported for the first time.
    """
    given = os.environ.get(METRICS_DIRECTORY_VARIABLE)
    if given is not None:
        directory = Path(given)
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob("*.db"):
            left.unlink(missing_ok=True)
        yield
        return
    made = tempfile.mkdtemp(prefix="kasbah-metrics-")
    os.environ[METRICS_DIRECTORY_VARIABLE] = made
    try:
        yield
    finally:
        shutil.rmtree(made, ignore_errors=True)
