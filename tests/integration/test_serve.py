"""`kasbah serve` as an operator runs it: what it refuses, how it ends, what happens when processes die."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from contextlib import suppress

import psutil
import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from service.state_directory import StateDirectory
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.running_service import clean_environment, new_service
from tests.support.servers import OwnServer

pytestmark = [pytest.mark.integration, pytest.mark.process]


def refusal(service, code: int) -> str:
    """Return what a service said that refused to start."""
    assert service.process.wait(120) == code, service.output()
    output = service.output()
    assert "Traceback" not in output
    assert "error: " in output
    return output


def wait_for(condition, timeout_seconds: float = 60.0):
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        with suppress(OSError, AssertionError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_every_missing_setting_is_named_at_once(start_service):
    """Exit 2, and no need to start three times to learn three names."""
    service = start_service(database="", redis="", wait=False, KASBAH_SECRET_KEY="")
    output = refusal(service, 2)
    for name in ("KASBAH_DATABASE_URL", "KASBAH_REDIS_URL", "KASBAH_SECRET_KEY"):
        assert name in output


def test_a_database_without_schema_is_refused(start_service, empty_database_url):
    """It says what to run."""
    assert "run `kasbah migrate`" in refusal(start_service(database=empty_database_url, wait=False), 1)


def test_a_database_of_another_version_is_refused(own_database_url, start_service):
    """Neither an older nor a newer schema is guessed at."""
    with psycopg.connect(own_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffff'")
    assert "`ffff`" in refusal(start_service(database=own_database_url, wait=False), 1)


def test_a_database_that_does_not_answer_is_unreachable(start_service, redis_url):
    """Exit 3, so that a supervisor may try again; the password stays untold."""
    url = f"postgresql://kasbah:hunter2secret@127.0.0.1:{free_port()}/kasbah"
    output = refusal(start_service(database=url, wait=False), 3)
    assert "PostgreSQL does not answer" in output
    assert "hunter2secret" not in output


def test_a_valkey_that_evicts_is_refused(start_service, own_valkey):
    """Under `allkeys-lru` it would throw away what must stay."""
    with redis.Redis.from_url(own_valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    output = refusal(start_service(redis=own_valkey.url, wait=False), 1)
    assert "allkeys-lru" in output
    assert "noeviction" in output


def test_a_wrong_valkey_password_is_refused(start_service, own_valkey):
    """A wrong password is a fault, not an outage."""
    wrong = own_valkey.url.replace(own_valkey.url.split(":")[2].split("@")[0], "wrong")
    assert "KASBAH_REDIS_URL" in refusal(start_service(redis=wrong, wait=False), 1)


def test_without_valkey_it_starts_and_says_so(start_service):
    """Valkey only hastens."""
    service = start_service(redis=f"redis://127.0.0.1:{free_port()}/0")
    assert "Valkey does not answer" in service.output()
    assert service.stop() == 0


def test_a_role_that_bypasses_row_level_security_is_refused(own_database_url, start_service):
    """The wall between tenants must stand without the application's help."""
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("ALTER ROLE kasbah_service BYPASSRLS")
        try:
            output = refusal(start_service(database=own_database_url, wait=False), 1)
        finally:
            connection.execute("ALTER ROLE kasbah_service NOBYPASSRLS")
    assert "row" in output


def test_a_taken_port_is_one_clear_line(start_service):
    """Also when the other listener would share the port."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        output = refusal(start_service(wait=False, KASBAH_PORT=str(taken.getsockname()[1])), 1)
    assert "is taken" in output
    assert "KASBAH_PORT" in output


def test_a_misspelt_setting_is_told(start_service):
    """It starts, with a warning that names the nearest."""
    service = start_service(KASBAH_WORKRES="3")
    assert "did you mean KASBAH_WORKERS?" in service.output()


def test_a_dead_worker_is_replaced_and_its_port_stays(start_service):
    """Connections that arrive meanwhile wait for the new one."""
    service = start_service(KASBAH_WORKERS="2", KASBAH_BULK_WORKER="off")
    before = set(service.workers())
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    for _ in range(20):
        assert service.request("GET", "/healthz").status == 200
    wait_for(lambda: len(service.workers()) == 2 and set(service.workers()) != before)
    assert "serve.worker_ended" in service.output()


def test_metrics_of_all_workers_come_from_any(start_service):
    """The workers add up."""
    service = start_service(KASBAH_WORKERS="2", KASBAH_HTTP__METRICS_TOKEN="metrics-token-of-this-test")
    for _ in range(40):
        service.request("GET", "/healthz")

    def counted() -> float:
        text = service.request("GET", "/metrics", key="metrics-token-of-this-test").body.decode()
        lines = [line for line in text.splitlines() if line.startswith("kasbah_http_requests_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if '"/healthz"' in line)

    wait_for(lambda: counted() >= 40)  # each worker hands its numbers over every second


def test_sigterm_turns_readiness_off_before_it_stops_listening(start_service):
    """Balancers see 503 while requests are still served; then it ends with 0 and the port is free."""
    service = start_service(KASBAH_UNREADY_SECONDS="3")
    service.process.send_signal(signal.SIGTERM)
    wait_for(lambda: service.request("GET", "/readyz").status == 503)
    assert service.request("GET", "/healthz").status == 200
    assert service.process.wait(60) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", service.port), timeout=1)


def test_a_request_under_way_is_finished_after_sigterm(start_service):
    """A body that is still arriving when the signal comes is read to its end and answered."""
    service = start_service()
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        body = b'{"subject": {}}'
        head = f"POST /access/v1/evaluation HTTP/1.1\r\nHost: kasbah\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:5])
        time.sleep(1)  # for the service to read what there is
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(body[5:])
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 4"), answer  # without a key: refused, but answered
    assert service.process.wait(60) == 0


def test_workers_end_with_their_supervisor(start_service):
    """SIGKILL of the supervisor leaves no worker on the port."""
    service = start_service(KASBAH_WORKERS="2")
    workers = [psutil.Process(pid) for pid in service.workers()]
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait(60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []


def test_ctrl_c_ends_it_cleanly(start_service):
    """SIGINT is as good as SIGTERM."""
    service = start_service(KASBAH_WORKERS="2")
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 0, service.output()
    assert "Traceback" not in service.output()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory


def test_tls(start_service, certificate):
    """With a certificate it speaks TLS 1.2 or newer, and nothing else."""
    service = start_service(
        wait=False,
        KASBAH_TLS_CERT=str(certificate / "cert.pem"),
        KASBAH_TLS_KEY=str(certificate / "key.pem"),
    )
    context = ssl.create_default_context(cafile=certificate / "cert.pem")

    def answers() -> bool:
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            wrapped.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return wrapped.version() in {"TLSv1.2", "TLSv1.3"} and b"200 OK" in wrapped.recv(4096)

    wait_for(answers)
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionError):
            assert b"200 OK" not in plain.recv(4096)


def test_a_certificate_that_is_none_is_refused(start_service, certificate):
    """The key in the certificate's place."""
    service = start_service(
        wait=False,
        KASBAH_TLS_CERT=str(certificate / "key.pem"),
        KASBAH_TLS_KEY=str(certificate / "key.pem"),
    )
    output = refusal(service, 1)
    assert "KASBAH_TLS_CERT" in output
    assert "None" not in output


def test_bootstrap_makes_a_key_that_works(start_service, database_url):
    """The first platform key needs no server, and opens one."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "bootstrap", "--output", "json"],
        cwd=ROOT,
        env=clean_environment(KASBAH_DATABASE_URL=database_url),
        capture_output=True,
        check=True,
    )
    service = start_service()
    said = json.loads(done.stdout)
    answer = service.request("GET", "/v1/tenants", key=said["token"])
    assert answer.status == 200, answer.body
    ada = {"username": "ada", "email": "ada@example.com", "password": "nine purple ladders sing"}
    made = service.request("POST", "/v1/bootstrap", ada | {"token": said["administrator_token"]})
    assert made.status == 201, made.body
    key = json.loads(made.body)["key"]["token"]
    assert service.request("GET", "/v1/tenants", key=key).status == 200, "the base was seeded, and the role is of it"
    quiet = bootstrap(database_url)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert service.request("GET", "/v1/tenants", key="kasbah_00000000_" + "A" * 43).status == 401


def bootstrap(database_url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "bootstrap"],
        cwd=ROOT,
        env=clean_environment(KASBAH_DATABASE_URL=database_url),
        capture_output=True,
        text=True,
        check=False,
    )


def test_bootstrap_without_a_schema_says_what_to_run(empty_database_url):
    """One line, no traceback."""
    done = bootstrap(empty_database_url)
    assert done.returncode == 5
    assert "run `kasbah migrate`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["nonsense", "postgresql://user:hunter2@host:port/database"])
def test_bootstrap_with_an_address_that_is_none_says_so(url):
    """One line, without the password."""
    done = bootstrap(url)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr


def test_a_user_who_is_no_member_of_the_role_learns_what_to_grant(own_database_url, start_service):
    """To migrate again would not help; `serve` and `bootstrap` say what does."""
    user = f"stranger-{uuid.uuid4().hex[:8]}"
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE \"{user}\" LOGIN PASSWORD 'x'")
        try:
            url = make_url(own_database_url).set(username=user, password="x").render_as_string(hide_password=False)
            granted = f'GRANT kasbah_service TO "{user}";'
            assert granted in refusal(start_service(database=url, wait=False), 1)
            assert granted in bootstrap(url).stderr
        finally:
            connection.execute(f'DROP ROLE "{user}"')


def test_it_serves_through_a_database_restart(tmp_path, redis_url):
    """PostgreSQL is killed and comes back: readiness goes and returns without a restart of the service."""
    from migrations.runner import upgrade

    state = StateDirectory(tmp_path / "state")
    state.open()
    postgres = OwnServer(state, "postgres")
    postgres.start()
    upgrade(postgres.url)
    service = new_service(tmp_path, postgres.url, redis_url, KASBAH_AUTHZ__MAX_STALENESS="1.5")
    try:
        service.start()
        postgres.kill()
        wait_for(lambda: service.request("GET", "/readyz").status == 503)
        assert service.request("GET", "/healthz").status == 200
        postgres.start_again()
        wait_for(lambda: service.request("GET", "/readyz").status == 200)
    finally:
        service.kill()
        state.stop_children()
        state.close()


def test_two_supervisors_do_not_share_a_port(start_service):
    """SO_REUSEPORT is for our own workers, not for a second installation."""
    first = start_service(KASBAH_WORKERS="2")
    output = refusal(start_service(wait=False, KASBAH_PORT=str(first.port), KASBAH_WORKERS="2"), 1)
    assert "is taken" in output
