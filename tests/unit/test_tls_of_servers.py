"""PostgreSQL and Valkey must prove who they are where their address asks for it, and a start warns where it does not."""

import asyncio
import contextlib
import ssl

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.sql import text

from service.preflight import unverified_servers
from service.settings import Settings
from tenancy.database import open_engine
from tenancy.errors import DatabaseUnavailableError
from tenancy.unit_of_work import database_errors
from tests.support.smtp_server import make_certificate

PASSWORD = "hunter2-of-the-server"
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client of PostgreSQL asks first (protocol, "SSL Session Encryption")."""


@contextlib.asynccontextmanager
async def impostor(tls: ssl.SSLContext | None, *, postgres: bool):
    """Yield port and what was told to a server that shakes hands, listens and never answers."""
    told: list[bytes] = []
    listening: list[asyncio.Task[None]] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        listening.append(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            if postgres:
                first = await reader.readexactly(8)
                if first != SSL_REQUEST:
                    told.append(first)
                elif tls is None:
                    writer.write(b"N")
                else:
                    writer.write(b"S")
                    await writer.drain()
                    await writer.start_tls(tls, ssl_handshake_timeout=60)
            told.append(await reader.read(4096))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=None if postgres else tls)
    async with server:
        yield server.sockets[0].getsockname()[1], told
    await asyncio.gather(*listening)


async def ask_postgres(port: int, host: str, query: str) -> None:
    """Connect as the service does; no server here lets anybody in."""
    engine = open_engine(f"postgresql://kasbah:{PASSWORD}@{host}:{port}/kasbah?{query}", role=None)
    try:
        with pytest.raises(DatabaseUnavailableError), database_errors():
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
    finally:
        await engine.dispose()


async def ask_valkey(port: int, host: str, query: str) -> None:
    """Connect as the service does."""
    client = Redis.from_url(f"rediss://:{PASSWORD}@{host}:{port}/0?{query}", socket_timeout=2, socket_connect_timeout=2)
    with pytest.raises((RedisError, OSError)):
        await client.ping()
    await client.aclose()


async def test_a_postgresql_that_proves_nothing_is_told_nothing(tmp_path):
    """Another authority, another name, no TLS at all: neither user nor password leave; with the right one they do."""
    context, trusted = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, stranger = make_certificate(tmp_path / "other")
    async with impostor(context, postgres=True) as (port, told):
        await ask_postgres(port, "localhost", f"sslmode=verify-full&sslrootcert={stranger}")
        await ask_postgres(port, "127.0.0.1", f"sslmode=verify-full&sslrootcert={trusted}")
        assert b"".join(told) == b""
        await ask_postgres(port, "localhost", f"sslmode=verify-full&sslrootcert={trusted}")
        assert b"kasbah" in b"".join(told), "the way without fault works, so the others were refused for theirs"
    async with impostor(None, postgres=True) as (port, told):
        await ask_postgres(port, "localhost", f"sslmode=verify-full&sslrootcert={trusted}")
        assert b"".join(told) == b""


async def test_a_valkey_that_proves_nothing_is_told_nothing(tmp_path):
    """As PostgreSQL; `rediss://` verifies without being asked to."""
    context, trusted = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, stranger = make_certificate(tmp_path / "other")
    async with impostor(context, postgres=False) as (port, told):
        await ask_valkey(port, "localhost", f"ssl_ca_certs={stranger}")
        await ask_valkey(port, "127.0.0.1", f"ssl_ca_certs={trusted}")
        await ask_valkey(port, "localhost", "")
        assert b"".join(told) == b""
        await ask_valkey(port, "localhost", f"ssl_ca_certs={trusted}")
        assert PASSWORD.encode() in b"".join(told)


@pytest.mark.parametrize(
    ("postgres", "valkey", "warned"),
    [
        ("postgresql://u:p@127.0.0.1/k", "redis://localhost:6379/0", ""),
        ("postgresql://u:p@/k?host=/run/postgresql", "unix:///run/valkey.sock", ""),
        ("postgresql://u:p@[::1]/k", "redis://[::1]/0", ""),
        ("postgresql://u:p@db.example/k?sslmode=verify-full", "rediss://cache.example/0", ""),
        ("postgresql://u:p@db.example/k", "rediss://cache.example/0", "D"),
        ("postgresql://u:p@db.example/k?sslmode=require", "rediss://cache.example/0", "D"),
        ("postgresql://u:p@/k?host=db.example", "rediss://cache.example/0", "D"),
        ("postgresql://u:p@10.0.0.5/k?sslmode=disable", "redis://cache.example/0", "DR"),
        ("postgresql://u:p@localhost/k", "redis://10.0.0.6/0", "R"),
        ("postgresql://u:p@localhost/k", "rediss://cache.example/0?ssl_cert_reqs=none", "R"),
        ("postgresql://u:p@localhost/k", "rediss://cache.example/0?ssl_check_hostname=false", "R"),
    ],
)
def test_a_start_warns_of_servers_that_prove_nothing(postgres, valkey, warned):
    """By the setting's name, without its value."""
    settings = Settings(database_url=postgres, redis_url=valkey, secret_key="kX9-pQ2_vL7mZ4tR8wB1nC6yH3sD5fG0jA-eU2oI9")
    said = unverified_servers(settings)
    assert "".join(one[len("KASBAH_")] for one in said) == warned
    assert not any("example" in one or "10.0" in one for one in said)
