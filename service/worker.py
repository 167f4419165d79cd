"""One worker process: an event loop, the application on its listening socket, and a graceful end."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
import uvloop
from aiohttp import web

from service.bulk import BulkForwarder
from service.composition import compose
from service.cross_check import Sampler, compare_samples, give_way
from service.key_rates import KeyRates
from service.keys import DRAINING
from service.logging import configure_logging
from service.server import KasbahRunner
from service.settings import Settings

GC_THRESHOLDS = (50_000, 25, 100)
"""Most garbage here is freed by reference counts; the collector looks rarely, so that it stops decisions rarely."""

SWITCH_SECONDS = 0.0005
"""How long a thread that builds a snapshot keeps the interpreter while the event loop wants it. With Python's own five
milliseconds, at each step of an answer, others' answers waited for 100 ms at p99 during a build; now for 25."""

BULK_NICENESS = 5
"""The bulk worker gets a third of a core that a worker wants, too: what it does takes seconds in any case."""

Composed = Callable[[], tuple[web.Application, KasbahRunner]]
SiteOf = Callable[[KasbahRunner], web.BaseSite]

_log = structlog.get_logger()


def run_worker(  # noqa: PLR0917 (the last three are the supervisor's)
    settings: Settings,
    tls: ssl.SSLContext | None,
    samples: socket.socket | None,
    bulk_socket: Path | None,
    first: socket.socket,
    rates: KeyRates,
    listener: socket.socket,
    ready_pipe: int,
    alive_pipe: int,
) -> int:
    """Serve until SIGTERM, or until the supervisor is gone; returns the exit status.

    Without a bulk worker, the worker with the `first` listening socket runs the jobs.
    """
    composed = partial(
        compose,
        settings,
        Sampler(samples, settings.cross_check_per_second),
        forwarder=None if bulk_socket is None else BulkForwarder(bulk_socket),
        jobs=bulk_socket is None and listener is first,
        rates=rates,
    )
    site_of = partial(web.SockSite, sock=listener, ssl_context=tls)
    return _run(settings, composed, site_of, (ready_pipe, alive_pipe))


def run_bulk_worker(
    settings: Settings, bulk_socket: Path, _unused: socket.socket, ready_pipe: int, alive_pipe: int
) -> int:
    """As `run_worker`, on a Unix socket, for what public workers forward."""
    configure_logging(settings.log_level, process="bulk")
    # It hashes for all of them: as much at once as they would by themselves.
    of_one, workers = settings.passwords, settings.workers
    passwords = of_one.model_copy(update={"threads": of_one.threads * workers, "queue": of_one.queue * workers})
    composed = partial(compose, settings.model_copy(update={"passwords": passwords}), public=False, jobs=True)
    os.nice(BULK_NICENESS)
    return _run(settings, composed, partial(web.UnixSite, path=bulk_socket), (ready_pipe, alive_pipe))


def _run(settings: Settings, composed: Composed, site_of: SiteOf, pipes: tuple[int, int]) -> int:
    try:
        uvloop.run(_serve(settings, composed, site_of, pipes))
    except Exception:  # noqa: BLE001 - the last line of a process says why it ended
        _log.exception("serve.worker_failed")
        return 1
    return 0


def run_cross_check(settings: Settings, receiver: socket.socket, ready_pipe: int, alive_pipe: int) -> int:
    """Compare samples with PyCasbin until SIGTERM, or until the supervisor is gone; returns the exit status."""
    give_way()
    try:
        asyncio.run(_compare(settings, receiver, ready_pipe, alive_pipe))
    except Exception:  # noqa: BLE001 - as above
        _log.exception("cross_check.failed")
        return 1
    return 0


async def _compare(settings: Settings, receiver: socket.socket, ready_pipe: int, alive_pipe: int) -> None:
    alone = asyncio.Event()
    asyncio.get_running_loop().add_reader(alive_pipe, alone.set)
    _say_ready(ready_pipe)
    comparing = asyncio.create_task(compare_samples(settings, receiver))
    ending = asyncio.create_task(alone.wait())
    done, _ = await asyncio.wait({comparing, ending}, return_when=asyncio.FIRST_COMPLETED)
    comparing.cancel()
    ending.cancel()
    if comparing in done:
        comparing.result()
    with contextlib.suppress(asyncio.CancelledError):
        await comparing


def _stop_event(alive_pipe: int) -> asyncio.Event:
    """Return an event that is set by SIGTERM, SIGINT or the end of the supervisor."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(alive_pipe, stop.set)
    return stop


def _say_ready(ready_pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.write(ready_pipe, b"r")
    os.close(ready_pipe)


async def _serve(settings: Settings, composed: Composed, site_of: SiteOf, pipes: tuple[int, int]) -> None:
    ready_pipe, alive_pipe = pipes
    sys.setswitchinterval(SWITCH_SECONDS)
    stop = _stop_event(alive_pipe)
    app, runner = composed()
    await runner.setup()
    try:
        await site_of(runner).start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        _say_ready(ready_pipe)
        await stop.wait()
        asyncio.get_running_loop().remove_reader(alive_pipe)
        app[DRAINING].set()
        if settings.unready_seconds:
            await asyncio.sleep(settings.unready_seconds)
    finally:
        await runner.cleanup()


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of the settings, or None for plain HTTP.

    Raises:
        ssl.SSLError: the files are not a certificate and its key.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context
