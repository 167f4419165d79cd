"""What is done beside requests, again and again: one process of a machine runs the jobs, and none of them ends it.

A part adds its jobs while it opens; they run from when every part is open until the first one closes. That is in the
bulk worker, or in worker 0 where there is none. What only one node of a cluster may do takes `once_in_cluster`; what
several may share takes rows with `FOR UPDATE SKIP LOCKED`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
from aiohttp import web

from service.keys import JOBS, METRICS
from service.metrics import Metrics
from tenancy.audit_sinks import AuditSinkError
from tenancy.cluster_lock import once_in_cluster as once_in_cluster  # noqa: PLC0414 - part of what jobs are made of
from tenancy.errors import TenancyError

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """Work that comes back. A run that fails or takes longer than `max_seconds` is logged, counted and tried again."""

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[object]]
    max_seconds: float = 300.0


class Jobs:
    """The jobs of an application, by name. They run by themselves only between `start` and `stop`."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._wanted: dict[str, asyncio.Event] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._metrics: Metrics | None = None

    def add(self, job: Job) -> None:
        """Take up a job; two of one name are a mistake in the program."""
        if job.name in self._jobs:
            raise ValueError(f"there is a job `{job.name}` already")
        self._jobs[job.name] = job
        self._wanted[job.name] = asyncio.Event()
        if self._metrics is not None:
            self._begin(job, self._metrics)

    def wake(self, name: str) -> None:
        """Have a job run now if jobs run in this process; elsewhere it comes in its own time."""
        self._wanted[name].set()

    async def run_once(self, name: str) -> None:
        """Run a job here and now, once; its failure is raised."""
        await self._jobs[name].run()

    def start(self, metrics: Metrics) -> None:
        """Let all jobs run, each at once and then again and again."""
        self._metrics = metrics
        for job in self._jobs.values():
            self._begin(job, metrics)

    async def stop(self) -> None:
        """End all jobs; a run that is under way is broken off."""
        self._metrics = None
        for task in self._running.values():
            task.cancel()
        for task in self._running.values():
            with suppress(asyncio.CancelledError):
                await task
        self._running.clear()

    def _begin(self, job: Job, metrics: Metrics) -> None:
        self._running[job.name] = asyncio.create_task(self._repeat(job, metrics), name=f"job-{job.name}")

    async def _repeat(self, job: Job, metrics: Metrics) -> None:
        wanted = self._wanted[job.name]
        while True:
            wanted.clear()
            started = time.perf_counter()
            try:
                async with asyncio.timeout(job.max_seconds):
                    await job.run()
                outcome = "done"
            except Exception as error:  # noqa: BLE001 - a supervisor: the next run may succeed
                outcome = "failed"
                # An outage fails every run; a traceback is for what nobody expected.
                known = isinstance(error, TenancyError | AuditSinkError | TimeoutError)
                _log.warning("job.failed", job=job.name, error=str(error) or type(error).__name__, exc_info=not known)
            metrics.count_job(job.name, outcome, time.perf_counter() - started)
            with suppress(TimeoutError):
                async with asyncio.timeout(job.every_seconds):
                    await wanted.wait()


async def running_jobs(app: web.Application) -> AsyncIterator[None]:
    """Part of the application that runs its jobs: opened last, so that it is closed before what they stand on."""
    app[JOBS].start(app[METRICS])
    yield
    await app[JOBS].stop()
