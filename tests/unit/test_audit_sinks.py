"""Sinks: a file, HTTP and syslog, each against a real receiver; what was not surely taken is a failure."""

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import ValidationError

from service.audit_part import HttpSink, sink_of
from tenancy.audit_settings import AuditSettings
from tenancy.audit_sinks import AuditSinkError, FileSink, SyslogSink

LINES = ['{"number":1}', '{"number":2}']


async def test_a_file_gets_whole_lines_behind_what_it_has(tmp_path):
    """Also behind half a line that a write left when it broke off."""
    path = tmp_path / "checkpoints.jsonl"
    await FileSink(path).send(LINES)
    assert path.read_text() == '{"number":1}\n{"number":2}\n'
    with path.open("a") as file:
        file.write('{"numb')
    await FileSink(path).send(['{"number":3}'])
    assert path.read_text().splitlines()[-2:] == ['{"numb', '{"number":3}']
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
async def test_a_full_disk_is_a_failure(tmp_path):
    """What the disk did not take was not taken."""
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(AuditSinkError, match="No space left"):
        await FileSink(tmp_path / "full").send(LINES)
    with pytest.raises(AuditSinkError, match="No such file"):
        await FileSink(tmp_path / "nowhere" / "file").send(LINES)


@contextlib.asynccontextmanager
async def http_receiver(handler):
    """Serve `handler` at a port of loopback."""
    app = web.Application()
    app.router.add_post("/audit", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/audit"
    await runner.cleanup()


async def test_http_posts_all_lines_with_the_token():
    """Any 2xx is an answer."""
    got = []

    async def handler(request):
        got.append((request.headers["Authorization"], request.content_type, await request.text()))
        return web.Response(status=204)

    async with http_receiver(handler) as url:
        await HttpSink(url, token="secret", tls=None, seconds=5).send(LINES)
    assert got == [("Bearer secret", "application/x-ndjson", '{"number":1}\n{"number":2}\n')]


@pytest.mark.parametrize("status", [302, 401, 500])
async def test_http_answers_that_are_no_success_are_failures(status):
    """A redirect, too: it would carry the token elsewhere."""
    seen = []

    async def handler(request):
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with http_receiver(handler) as url:
        with pytest.raises(AuditSinkError, match=str(status)) as raised:
            await HttpSink(url, token="secret", tls=None, seconds=5).send(LINES)
    assert "secret" not in str(raised.value)
    assert seen == ["/audit"]


async def test_http_that_nobody_answers_is_a_failure():
    """Neither a refused connection nor one that hangs."""
    with pytest.raises(AuditSinkError):
        await HttpSink("http://127.0.0.1:1/", token=None, tls=None, seconds=5).send(LINES)

    async def handler(_request):
        await asyncio.Event().wait()

    async with http_receiver(handler) as url:
        with pytest.raises(AuditSinkError, match="no answer in time"):
            await HttpSink(url, token=None, tls=None, seconds=0.1).send(LINES)


def messages_of(data: bytes) -> list[bytes]:
    """Split what a stream receiver got (RFC 6587, octet counting)."""
    found = []
    while data:
        count, _, rest = data.partition(b" ")
        found.append(rest[: int(count)])
        data = rest[int(count) :]
    return found


def check_messages(messages):
    """Each is RFC 5424: facility log audit, severity notice, and the line as it is."""
    assert [message.partition(b" - ")[2].decode() for message in messages] == LINES
    for message in messages:
        priority, time, host, name, process, kind, _rest = message.split(b" ", 6)
        assert (priority, name, kind) == (b"<109>1", b"kasbah", b"checkpoint")
        assert time.endswith(b"Z")
        assert host
        assert process.isdigit()


async def test_syslog_over_udp():
    """One datagram for each line."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        await SyslogSink("127.0.0.1", receiver.getsockname()[1], udp=True).send(LINES)
        check_messages([receiver.recv(2048) for _ in LINES])


@contextlib.asynccontextmanager
async def stream_receiver(tls=None, *, reads=True):
    """Receive on a port of loopback; what came is in the queue that is yielded beside it."""
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader, writer):
        if reads:
            got.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1], got
    server.close()
    await server.wait_closed()


async def test_syslog_over_tcp():
    """All messages have arrived when it returns."""
    async with stream_receiver() as (port, got):
        await SyslogSink("127.0.0.1", port).send(LINES)
        check_messages(messages_of(await got.get()))


async def test_syslog_over_tcp_that_does_not_read_is_a_failure():
    """Neither one that hangs, nor one that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(AuditSinkError, match="no answer in time"):
        await SyslogSink("127.0.0.1", server.getsockname()[1], seconds=0.1).send(LINES)
    with pytest.raises(AuditSinkError):
        await SyslogSink("127.0.0.1", 1).send(LINES)


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 and its key."""
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
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


async def test_syslog_over_tls_verifies_who_takes_it(certificate):
    """With the authority's certificate it arrives; without it nothing is sent."""
    path, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, key)
    async with stream_receiver(context) as (port, got):
        settings = AuditSettings(sink=f"syslog+tls://127.0.0.1:{port}", sink_ca_file=path)
        await sink_of(settings).send(LINES)
        check_messages(messages_of(await got.get()))
    async with stream_receiver(context, reads=False) as (port, _):
        with pytest.raises(AuditSinkError, match="(?i)certificate"):
            await sink_of(AuditSettings(sink=f"syslog+tls://127.0.0.1:{port}")).send(LINES)


GOOD = ["file:///var/log/kasbah.jsonl", "https://audit.example/in", "syslog+udp://h:514", "syslog+tcp://h:601"]
BAD = ["kasbah.jsonl", "file://relative", "ftp://h/x", "https://", "syslog+tls://h", "syslog://h:1", "https://u:p@h/"]


def test_settings_say_where_and_with_which_key():
    """What cannot be is refused at start."""
    assert sink_of(AuditSettings()) is None
    assert isinstance(sink_of(AuditSettings(sink=GOOD[0])), FileSink)
    assert isinstance(sink_of(AuditSettings(sink=GOOD[1])), HttpSink)
    assert isinstance(sink_of(AuditSettings(sink=GOOD[2])), SyslogSink)
    for sink in BAD:
        with pytest.raises(ValidationError):
            AuditSettings(sink=sink)
    with pytest.raises(ValidationError, match="no such file"):
        AuditSettings(sink=GOOD[1], sink_ca_file=Path("/nowhere.pem"))
    for key in ("short", "AAAA", "!" * 44):
        with pytest.raises(ValidationError) as raised:
            AuditSettings(signing_key=key)
        assert key not in str(raised.value)
