"""The embedded servers: private, ours, and healed after a crash."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from service.embedded import start_postgres, start_valkey
from service.processes import StartError, free_port, require_port
from service.state_directory import StateDirectory
from tests.support.paths import ROOT

pytestmark = pytest.mark.integration


@pytest.fixture
def state(tmp_path):
    directory = StateDirectory(tmp_path / "state")
    directory.open()
    yield directory
    directory.stop_children()
    directory.close()


def test_postgres_asks_for_the_password(state):
    """Nobody else on the machine gets in without it."""
    server = start_postgres(state, durable=False)
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    user, _, rest = server.url.partition("@")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"{user.rpartition(':')[0]}:wrong@{rest}")


def test_postgres_keeps_data_between_starts(state):
    """Data lies under the state directory and outlives the server."""
    server = start_postgres(state)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    state.stop_children()
    server = start_postgres(state)
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_valkey_asks_for_the_password_and_never_evicts(state):
    """Evicting would lose notices and throttles silently."""
    server = start_valkey(state)
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with (
        redis.Redis(port=int(server.url.rpartition(":")[2].partition("/")[0])) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    command = psutil.Process(server.child.process.pid).cmdline()
    assert not any(server.url.split(":")[2].split("@")[0] in part for part in command)


def test_secrets_are_private(state):
    """Passwords lie in files that only their owner reads."""
    start_valkey(state)
    assert (state.path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_logs_are_private(state):
    """They name people and rules; the directory itself must let PostgreSQL's account pass."""
    server = start_valkey(state)
    assert server.child.log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o2750])
def test_a_directory_that_was_there_keeps_its_mode(tmp_path, mode):
    """It may be `/tmp` or somebody's home; only one that we make is closed."""
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(mode)
    for place in (there, there / "new"):
        directory = StateDirectory(place)
        directory.open()
        directory.close()
    assert there.stat().st_mode & 0o7777 == mode
    assert (there / "new").stat().st_mode & 0o077 in {0o000, 0o011}


def start_and_be_killed(directory: Path) -> list[int]:
    """Run a process that starts both servers and is then killed; returns the servers' process ids."""
    script = """
        import sys, time
        from pathlib import Path
        from service.embedded import start_postgres, start_valkey
        from service.state_directory import StateDirectory
        state = StateDirectory(Path(sys.argv[1]))
        state.open()
        print(start_postgres(state).child.process.pid, start_valkey(state).child.process.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(directory)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    return pids


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_servers_die_with_their_parent(tmp_path):
    """SIGKILL of the parent leaves nothing running."""
    pids = start_and_be_killed(tmp_path / "state")
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_a_crashed_run_heals(tmp_path):
    """A killed postmaster leaves its pid file behind; the next start works and the data is there."""
    state = StateDirectory(tmp_path / "state")
    state.open()
    server = start_postgres(state)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    os.kill(server.child.process.pid, signal.SIGKILL)
    server.child.process.wait(60)
    assert (state.path / "postgres" / "data" / "postmaster.pid").exists()
    state.close()
    again = StateDirectory(tmp_path / "state")
    again.open()
    again.heal()
    try:
        with psycopg.connect(start_postgres(again).url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
    finally:
        again.stop_children()
        again.close()


def test_an_orphan_is_stopped_by_the_next_start(tmp_path):
    """Where the kernel did not tell it, the record does; one line says so."""
    state = StateDirectory(tmp_path / "state")
    state.open()
    server = start_valkey(state)
    state.close()  # as if this process had died without its children noticing
    again = StateDirectory(tmp_path / "state")
    again.open()
    said = again.heal()
    again.close()
    assert len(said) == 1
    assert "Valkey" in said[0]
    server.child.process.wait(60)


def test_a_recycled_pid_is_left_alone(tmp_path):
    """A record whose pid now belongs to somebody else kills nobody."""
    state = StateDirectory(tmp_path / "state")
    state.open()
    state.write_private("children.json", [{"name": "Valkey", "pid": os.getpid(), "started": 1.0}])
    assert len(state.heal()) == 1
    assert psutil.Process().is_running()
    state.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change whose data it is")
def test_data_that_a_user_made_is_served_as_root(state):
    """`make run` first as oneself, then with sudo: PostgreSQL runs as the owner of its data."""
    server = start_postgres(state, durable=False)
    state.stop_children()
    uid = 61_234
    for path in [state.path / "postgres", *(state.path / "postgres").rglob("*")]:
        os.lchown(path, uid, uid)
    server = start_postgres(state, durable=False)
    assert psutil.Process(server.child.process.pid).uids().real == uid
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupted_initdb_starts_over(state):
    """What an interrupted first start left is thrown away."""
    aside = state.path / "postgres" / "data.new"
    aside.mkdir(parents=True)
    (aside / "PG_VERSION").write_text("18")
    with psycopg.connect(start_postgres(state, durable=False).url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_two_runs_on_one_directory(state):
    """The second is told who holds it."""
    with pytest.raises(StartError, match=f"pid {os.getpid()}.*KASBAH_STATE_DIR"):
        StateDirectory(state.path).open()


def test_a_directory_that_cannot_be_written(tmp_path):
    """One line with the reason and the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot write to .*KASBAH_STATE_DIR"):
        StateDirectory(tmp_path / "file" / "state").open()


def test_a_taken_port():
    """One line with the port and the setting."""
    port = free_port()
    require_port("127.0.0.1", port)
    import socket

    with (
        socket.create_server(("127.0.0.1", port), reuse_port=True),
        pytest.raises(StartError, match=f"{port}.*KASBAH_PORT"),
    ):
        require_port("127.0.0.1", port)
