"""Jobs: again and again, supervised, stopped before what they stand on; run where a process is chosen for it."""

import asyncio

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from service.app import build_app
from service.http_settings import HttpSettings
from service.jobs import Job, Jobs, running_jobs
from service.keys import JOBS, METRICS
from service.metrics import Metrics
from service.routes import Public, Route


def samples(metrics):
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


class Counted:
    """Work that counts its runs and tells when there were enough of them."""

    def __init__(self, enough, *, fails=(), hangs=()):
        self.runs = 0
        self.enough = asyncio.Event()
        self._wanted, self._fails, self._hangs = enough, fails, hangs

    async def run(self):
        self.runs += 1
        if self.runs == self._wanted:
            self.enough.set()
        if self.runs in self._hangs:
            await asyncio.Event().wait()
        if self.runs in self._fails:
            raise RuntimeError("not now")


async def test_a_job_comes_back_whatever_becomes_of_a_run():
    """One that fails and one that hangs are counted, and the next run comes; others are not disturbed."""
    bad, good = Counted(4, fails={1}, hangs={2}), Counted(6)
    jobs, metrics = Jobs(), Metrics()
    jobs.add(Job("bad", 0.001, bad.run, max_seconds=0.01))
    jobs.start(metrics)
    jobs.add(Job("good", 0.001, good.run))
    async with asyncio.timeout(60):
        await bad.enough.wait()
        await good.enough.wait()
    await jobs.stop()
    found = samples(metrics)
    assert found["kasbah_job_runs_total", (("job", "bad"), ("outcome", "failed"))] == 2
    assert found["kasbah_job_runs_total", (("job", "bad"), ("outcome", "done"))] >= 1
    assert found["kasbah_job_runs_total", (("job", "good"), ("outcome", "done"))] >= 5
    assert found["kasbah_job_seconds_total", (("job", "bad"),)] > 0


async def test_nothing_runs_before_start_and_after_stop():
    """Stopping breaks off the run that is under way."""
    work = Counted(1, hangs={1})
    jobs = Jobs()
    jobs.add(Job("work", 0.001, work.run))
    await asyncio.sleep(0)
    assert work.runs == 0
    jobs.start(Metrics())
    async with asyncio.timeout(60):
        await work.enough.wait()
        await jobs.stop()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("job-")] == []
    assert work.runs == 1


async def test_a_job_that_is_woken_does_not_wait_for_its_time():
    """Waking counts also while it runs: what came meanwhile is looked at again."""
    work = Counted(3)
    jobs = Jobs()
    jobs.add(Job("work", 3600, work.run))
    jobs.start(Metrics())
    async with asyncio.timeout(60):
        while not work.enough.is_set():
            jobs.wake("work")
            await asyncio.sleep(0)
    await jobs.stop()


async def test_a_run_by_hand_tells_of_its_failure():
    """For commands and tests, where no job runs by itself."""
    work = Counted(1, fails={1})
    jobs = Jobs()
    jobs.add(Job("work", 1, work.run))
    with pytest.raises(RuntimeError):
        await jobs.run_once("work")
    await jobs.run_once("work")
    assert work.runs == 2


async def test_two_jobs_of_one_name_are_refused():
    """Their metrics could not be told apart."""
    jobs = Jobs()
    jobs.add(Job("work", 1, Counted(1).run))
    with pytest.raises(ValueError, match="already"):
        jobs.add(Job("work", 1, Counted(1).run))


async def test_jobs_end_before_the_parts_that_they_stand_on():
    """A part may add jobs; when it closes, none of them is running."""
    order = []
    began = asyncio.Event()

    async def run():
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            order.append("job ended")

    async def database(app):
        app[METRICS] = Metrics()
        app[JOBS].add(Job("work", 1, run))
        yield
        order.append("database closed")

    routes = [Route("GET", "/", lambda _request: None, Public("a test"))]
    app = build_app(HttpSettings(), [database, running_jobs], routes)
    runner = web.AppRunner(app)
    await runner.setup()
    async with asyncio.timeout(60):
        await began.wait()
    await runner.cleanup()
    assert order == ["job ended", "database closed"]
