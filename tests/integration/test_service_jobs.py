"""Jobs of a real `kasbah serve`: in the bulk worker, or in one worker where there is none; seen in the metrics."""

import asyncio
import re
import socket
import time

import pytest

from authn.password_settings import PasswordSettings
from service import worker
from tests.support.seeding import seed

pytestmark = pytest.mark.integration

RUNS = re.compile(r'kasbah_job_runs_total\{job="audit-partitions",outcome="done"\} (\S+)')


@pytest.mark.process
@pytest.mark.parametrize("bulk", ["true", "false"])
def test_jobs_run(start_service, database_url, bulk):
    """With a bulk worker and without one."""
    service = start_service(KASBAH_WORKERS="2", KASBAH_BULK_WORKER=bulk)
    key = asyncio.run(seed(database_url, {})).platform_key
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = RUNS.search(service.request("GET", "/metrics", key=key).body.decode())
        if found is not None:
            break
        time.sleep(0.05)
    assert found is not None
    assert float(found.group(1)) == 1


def test_of_the_workers_of_a_machine_one_runs_jobs(monkeypatch, tmp_path):
    """The bulk worker, or the one with the first socket; never two."""
    asked = []

    def compose(*_args, jobs=False, **_more):
        asked.append(jobs)

    monkeypatch.setattr(worker, "compose", compose)
    monkeypatch.setattr(worker, "_run", lambda _settings, composed, *_rest: composed() or 0)
    monkeypatch.setattr(worker, "configure_logging", lambda *_args, **_more: None)
    monkeypatch.setattr(worker.os, "nice", lambda _by: 0)
    first, second = socket.socket(), socket.socket()
    settings = type("Settings", (), {"cross_check_per_second": 0, "log_level": "ERROR"})()
    settings.passwords, settings.workers = PasswordSettings(), 2
    settings.model_copy = lambda **_: settings
    for listener in (first, second):
        worker.run_worker(settings, None, None, None, first, None, listener, 0, 0)
    worker.run_bulk_worker(settings, tmp_path / "socket", first, 0, 0)
    for listener in (first, second):
        worker.run_worker(settings, None, None, tmp_path / "socket", first, None, listener, 0, 0)
    assert asked == [True, False, True, False, False]
    first.close()
    second.close()
