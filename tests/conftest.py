"""Fixtures for everything that needs real servers. They start when a test first asks for them."""

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import make_url

from service.state_directory import StateDirectory
from tests.support.process_logs import begin_test, said_in_test
from tests.support.running_service import RunningService, new_service
from tests.support.servers import VALKEY_DATABASES, OwnServer, Servers, running_servers, temporary_database

# A machine that is busy with other tests is no fault of the one that runs.
settings.register_profile("kasbah", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kasbah")

_valkey_databases = itertools.cycle(range(1, VALKEY_DATABASES))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--nightly` adds the long runs."""
    parser.addoption("--nightly", action="store_true", help="also run tests marked `nightly`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nightly tests out, visibly, unless they are asked for."""
    if config.getoption("--nightly"):
        return
    skip = pytest.mark.skip(reason="nightly: run with --nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What processes say from here on belongs to this test."""
    begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a failed test said; let all that was said pass from one process to another."""
    report = yield
    if report.failed:
        if call.excinfo is not None and isinstance(call.excinfo.value, subprocess.CalledProcessError):
            error = call.excinfo.value
            report.sections.append(("command", f"{error.cmd}\n{error.stdout!r}\n{error.stderr!r}"))
        report.sections += said_in_test()
    # Hostile names and all.
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Valkey for the whole session."""
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def template_database(servers: Servers) -> Iterator[str]:
    """Name of a migrated, empty database that others are copied from; nobody connects to it."""
    from migrations.runner import upgrade

    with temporary_database(servers.postgres_url, "kasbah_template") as url:
        upgrade(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="module")
def database_url(servers: Servers, template_database: str) -> Iterator[str]:
    """`postgresql://…` of a migrated database of this test module, as the user that owns its tables."""
    with temporary_database(servers.postgres_url, "kasbah_test", template_database) as url:
        yield url


@pytest.fixture
def own_database_url(servers: Servers, template_database: str) -> Iterator[str]:
    """As `database_url`, for one test alone."""
    with temporary_database(servers.postgres_url, "kasbah_test", template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """`postgresql://…` of a database without any table."""
    with temporary_database(servers.postgres_url, "kasbah_empty") as url:
        yield url


@pytest.fixture(scope="module")
def redis_url(servers: Servers) -> str:
    """`redis://…` of an empty logical database for this test module. Channels are shared by all."""
    import redis

    url = f"{servers.redis_url.rpartition('/')[0]}/{next(_valkey_databases)}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


StartService = Callable[..., RunningService]


@pytest.fixture
def start_service(tmp_path_factory, database_url: str, redis_url: str) -> Iterator[StartService]:
    """Start `kasbah serve` processes on this module's database: `start_service(KASBAH_WORKERS="2")`."""
    directory = tmp_path_factory.mktemp("serve")
    running: list[RunningService] = []

    def start(
        *, database: str = database_url, redis: str = redis_url, wait: bool = True, **settings: str
    ) -> RunningService:
        service = new_service(directory, database, redis, **settings)
        running.append(service)
        service.start(wait=wait)
        return service

    yield start
    for service in running:
        service.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory, database_url: str, redis_url: str) -> Iterator[RunningService]:
    """One running `kasbah serve` for the whole module."""
    running = new_service(tmp_path_factory.mktemp("serve"), database_url, redis_url)
    running.start()
    yield running
    running.kill()


@contextlib.contextmanager
def own_server(directory: Path, name: str) -> Iterator[OwnServer]:
    with contextlib.closing(StateDirectory(directory)) as state:
        state.open()
        server = OwnServer(state, name)
        server.start()
        yield server
        with contextlib.suppress(ProcessLookupError):
            server.thaw()
        state.stop_children()


@pytest.fixture
def own_postgres(tmp_path_factory) -> Iterator[OwnServer]:
    """A PostgreSQL of this test alone (durable, not migrated), to be killed."""
    with own_server(tmp_path_factory.mktemp("postgres"), "postgres") as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path_factory) -> Iterator[OwnServer]:
    """A Valkey of this test alone, to be killed."""
    with own_server(tmp_path_factory.mktemp("valkey"), "valkey") as server:
        yield server
