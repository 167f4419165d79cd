"""`kasbah dev` as a newcomer runs it: real processes, started, stopped, killed, started again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.support.paths import ROOT
from tests.support.running_dev import RunningDev

pytestmark = [pytest.mark.integration, pytest.mark.process]


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """One development server for the module; tests leave it running."""
    running = RunningDev(tmp_path_factory.mktemp("dev"))
    running.start()
    yield running
    running.kill_all()


@pytest.fixture
def other(tmp_path):
    """A second one, with a state directory of its own; not started."""
    running = RunningDev(tmp_path)
    yield running
    running.kill_all()


def ask(base_url: str, key: str, question: dict) -> dict:
    request = urllib.request.Request(
        f"{base_url}/access/v1/evaluation",
        json.dumps(question).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_it_prints_commands_that_work_when_pasted(dev):
    """One answers true; one answers false and says why."""
    commands = re.findall(r"^\s+(curl .*)$", dev.output(), re.MULTILINE)
    assert len(commands) == 2, dev.output()
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    answers = [
        json.loads(subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout)
        for command in commands
    ]
    assert [answer["decision"] for answer in answers] == [True, False]
    assert answers[1]["context"]["kasbah"]["explanation"]["lines"]


def test_it_prints_the_base_url_and_a_key(dev):
    """What a newcomer needs stands in the output."""
    description = dev.description()
    assert f"http://127.0.0.1:{dev.port}" in dev.output()
    assert any(tenant["api_key"] in dev.output() for tenant in description["tenants"].values())


def test_dev_json_is_private_and_complete(dev):
    """Scripts find the server and its keys; nobody else reads them."""
    assert (dev.state / "dev.json").stat().st_mode & 0o777 == 0o600
    assert (dev.state / "secrets.json").stat().st_mode & 0o777 == 0o600
    description = dev.description()
    assert description["base_url"] == f"http://127.0.0.1:{dev.port}"
    assert description["pid"] == dev.process.pid
    assert description["platform_key"].startswith("kasbah_")
    assert description["tenants"]


def test_people_of_the_sample_tenant_can_act_and_are_what_they_were_invited_as(dev):
    """Ada administers Acme by her own key, Cleo does not; nobody has a password that others know."""
    people = dev.description()["tenants"]["acme"]["people"]
    assert {name: person["role"] for name, person in people.items()} == {
        "ada": "role:tenant-admin",
        "ben": "role:editor",
        "cleo": "role:viewer",
    }
    assert len({person["password"] for person in people.values()}) == 3
    assert statuses(dev, "/v1/users", *(person["api_key"] for person in people.values())) == [200, 403, 403]
    assert statuses(dev, "/v1/users/me", people["cleo"]["api_key"]) == [200]
    assert list((dev.state / "mail").glob("*.eml"))


def test_the_token_it_prints_makes_the_first_administrator_once(dev):
    """The platform has no account before."""
    token = dev.description()["administrator_token"]
    assert token in dev.output()
    body = {"token": token, "username": "olga", "email": "olga@platform.example", "password": "seven umbrellas borrow"}
    address = f"http://127.0.0.1:{dev.port}/v1/bootstrap"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        key = json.load(response)["key"]["token"]
    assert statuses(dev, "/v1/tenants", key) == [200]
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request, timeout=60):
        pass
    with refused.value as answer:
        assert answer.code == 403


def statuses(dev, path: str, *keys: str) -> list[int]:
    """Return what each key is answered."""
    answers = []
    for key in keys:
        request = urllib.request.Request(
            f"http://127.0.0.1:{dev.port}{path}", headers={"Authorization": f"Bearer {key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answers.append(response.status)
        except urllib.error.HTTPError as error:
            with error:
                answers.append(error.code)
    return answers


def test_a_second_one_on_the_same_directory_is_refused(dev, tmp_path):
    """It names the process that holds it, in one line."""
    second = RunningDev(tmp_path)
    second.arguments = ("--state-dir", str(dev.state))
    output = run_to_the_end(second)
    assert f"(pid {dev.process.pid})" in output
    assert_one_error_line(output)
    assert dev.description()["pid"] == dev.process.pid, "the first one is still found"


def test_a_taken_port_is_one_clear_line(dev, other):
    """It names the port and the setting, starts nothing and leaves nothing."""
    other.port = dev.port
    output = run_to_the_end(other)
    assert f"port {dev.port}" in output
    assert "KASBAH_PORT" in output
    assert_one_error_line(output)


def test_a_directory_that_cannot_be_written_is_one_clear_line(other):
    """It names the directory, the reason and the setting."""
    (other.directory / "state").write_text("a file, no directory")
    output = run_to_the_end(other)
    assert "KASBAH_STATE_DIR" in output
    assert_one_error_line(output)


def run_to_the_end(running: RunningDev) -> str:
    running.start(wait=False)
    assert running.process.wait(120) == 1
    return running.output()


def assert_one_error_line(output: str) -> None:
    lines = [line for line in output.splitlines() if line.strip()]
    assert [line.startswith("error: ") for line in lines].count(True) == 1, output
    assert lines[-1].startswith("error: "), output
    assert "Traceback" not in output


def test_two_run_side_by_side(dev, other):
    """A port and a state directory of its own are all it takes."""
    other.start()
    assert other.description()["platform_key"] != dev.description()["platform_key"]
    assert other.end() == 0
    assert other.left_behind() == []
    assert dev.process.poll() is None


def test_ctrl_c_stops_every_child_and_data_stays(other):
    """The next start has the same keys, applies nothing, and has work for less than five seconds of one core."""
    other.start()
    assert "applying the sample policies" in other.output()
    before = other.description()
    assert other.end(signal.SIGINT) == 0
    assert other.left_behind() == []
    assert not (other.state / "dev.json").exists()
    other.start()
    assert other.cpu_seconds() < 5.0  # elapsed time says as much about what else the machine does
    assert "applying the sample policies" not in other.output()
    assert {name: value for name, value in other.description().items() if name != "pid"} == {
        name: value for name, value in before.items() if name != "pid"
    }
    assert other.end() == 0


def test_what_ended_is_not_handed_out_again(other):
    """After the README's tour Ada's key is over, after a reset her authenticator: the next start says so, and the way on."""
    other.start()
    assert "ended since" not in other.output()
    for command in (
        ("session", "revoke-all", "--user", "ada", "--reason", "lost the laptop"),
        ("user", "reset-factors", "ada", "--reason", "lost the phone"),
        ("user", "disable", "ben", "--reason", "on leave"),
    ):
        environment = os.environ | {"KASBAH_STATE_DIR": str(other.state)}
        words = [sys.executable, "-m", "service", *command, "--tenant", "acme"]
        agreed = [] if command[1] == "disable" else ["--yes"]
        done = subprocess.run([*words, *agreed], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert other.end() == 0
    other.start()
    people = other.description()["tenants"]["acme"]["people"]
    assert [people["ada"][proof] for proof in ("authenticator", "api_key")] == [None, None]
    assert people["ada"]["password"]
    output = other.output()
    assert "ada           role:tenant-admin of acme; password in dev.json (authenticator and key ended since)" in output
    assert "ben           role:editor of acme; disabled by now" in output
    assert "cleo          role:viewer of acme; password and key in dev.json\n" in output
    assert "signs ada in" not in output
    for way in ("user reset-factors NAME --tenant acme", "key create --own"):
        assert way in output
    assert other.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_it_too(other, number):
    """`kill` and a closed terminal leave nothing behind."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start()
    assert other.end(number) == 0
    assert other.left_behind() == []


def empty_policies(running: RunningDev):
    directory = running.directory / "policies"
    directory.mkdir(exist_ok=True)
    return directory


def test_a_killed_run_leaves_nothing_and_heals(other):
    """SIGKILL: the children end by themselves, and the next start works on the same data."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start()
    before = other.description()
    other.end(signal.SIGKILL)
    other.start()
    assert "earlier run" in other.output(), "one line says what happened"
    assert other.description()["platform_key"] == before["platform_key"]
    assert other.end() == 0
    assert other.left_behind() == []


def test_it_survives_the_death_of_everything(other):
    """All processes killed at once, as when a machine loses power: stale pid files and sockets are no obstacle."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start()
    before = other.description()
    for process in other.family:
        process.kill()
    other.end(signal.SIGKILL)
    assert (other.state / "postgres" / "data" / "postmaster.pid").exists()
    other.start()
    assert other.description()["platform_key"] == before["platform_key"]
    assert other.end() == 0


def test_a_dead_database_ends_it_with_one_line(other):
    """It says which child died, and stops the rest."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start()
    postmaster = int((other.state / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    assert other.process.wait(120) == 1
    assert "PostgreSQL ended" in other.output()
    assert_one_error_line(other.output().partition("Ctrl-C")[2].partition("\n")[2])
    assert other.left_behind() == []


def test_servers_of_your_own_are_used(other, empty_database_url, redis_url):
    """With both URLs set it starts neither, and migrates the database it was given."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start(KASBAH_DATABASE_URL=empty_database_url, KASBAH_REDIS_URL=redis_url)
    assert not (other.state / "postgres").exists()
    assert not (other.state / "valkey").exists()
    assert "starting PostgreSQL" not in other.output()
    assert other.end() == 0


def test_samples_are_loaded_where_they_are_missing_and_nowhere_twice(other, empty_database_url, redis_url):
    """Another database gets them, though this directory saw them loaded; one that has them keeps what it has."""
    own = {"KASBAH_DATABASE_URL": empty_database_url, "KASBAH_REDIS_URL": redis_url}
    other.start()
    assert other.end() == 0
    other.start(**own)
    assert "applying the sample policies" in other.output()
    assert set(other.description()["tenants"]["acme"]["people"]) == {"ada", "ben", "cleo"}
    assert '# answers "decision":true' in other.output()
    assert other.end() == 0
    another = RunningDev(other.directory, state_name="another")
    try:
        another.start(**own)
        assert "applying the sample policies" not in another.output()
        assert '# answers "decision":true' in another.output()
        assert another.end() == 0
    finally:
        another.kill_all()


def test_a_proxy_for_the_world_outside_is_not_asked(other):
    """Its own server is on this machine, and a proxy would not find it."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start(http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9", all_proxy="http://127.0.0.1:9")
    assert other.end() == 0


@pytest.mark.parametrize("url", ["nonsense", "mysql://a/b", "postgresql://user:hunter2@host:port/database"])
def test_an_address_that_is_none_is_one_clear_line(other, url):
    """Before anything is started; what may be a password stays untold."""
    other.start(wait=False, KASBAH_DATABASE_URL=url)
    assert other.process.wait(120) == 1
    assert "KASBAH_DATABASE_URL: " in other.output()
    assert "hunter2" not in other.output()
    assert_one_error_line(other.output())
    assert not (other.state / "valkey").exists()


def test_a_server_that_refuses_its_settings_says_which(other):
    """The line names the fault, not only the log that does."""
    other.arguments = ("--policies", str(empty_policies(other)))
    other.start(wait=False, KASBAH_LOG_LEVEL="loud")
    assert other.process.wait(120) == 1
    assert "KASBAH_LOG_LEVEL" in other.output()
    assert_one_error_line(other.output())


def test_a_bad_setting_is_named_as_it_was_given(other):
    """Who set a variable never saw an option."""
    other.start(wait=False, KASBAH_WORKERS="none")
    assert other.process.wait(120) == 2
    assert "KASBAH_WORKERS" in other.output()


def test_a_port_that_somebody_listens_on(other):
    """Somebody else's listener is found before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other.port = taken.getsockname()[1]
        output = run_to_the_end(other)
    assert "is taken" in output
    assert not (other.state / "postgres").exists()
