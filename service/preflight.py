"""What must hold before the service listens; every fault is named with what to do about it."""

import asyncio
import os
import re
from dataclasses import dataclass, replace
from importlib import resources
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import text

from service.encryption_settings import EncryptionSettings
from service.key_encryption import vault_address
from service.settings import Settings
from service.vault_transit import VaultCertificateError, VaultRefusedError, VaultTransit
from tenancy.database import SERVICE_ROLE, DatabaseLimits, open_engine, open_sessions, require_safe_role
from tenancy.envelope import KEY_BYTES
from tenancy.errors import DatabaseUnavailableError, EncryptionUnavailableError, UnsafeDatabaseRoleError
from tenancy.key_encryption import DERIVED
from tenancy.rotation_storage import RotationStore
from tenancy.unit_of_work import database_errors

PATIENCE_SECONDS = 10
"""For PostgreSQL: without it there is no start, and nobody waits yet."""

VALKEY_TIMEOUT_SECONDS = 1.0

NO_KEY_OF_ITS_OWN = (
    "KASBAH_ENCRYPTION__KEYS is not set: what is stored is encrypted under a key made from KASBAH_SECRET_KEY; "
    "give it one of its own in production"
)

_REVISION = re.compile(r'^(revision|down_revision)(?::[^=\n]+)? = "(\w+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Findings:
    """What stands against a start. `unreachable`: no answer, so a later try may work; `warnings` stop nothing."""

    faults: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


async def check(settings: Settings) -> Findings:
    """Look at PostgreSQL, Valkey and Vault side by side."""
    found = await asyncio.gather(
        _check_database(settings),
        _check_valkey(settings),
        check_keys(settings.encryption),
    )
    return Findings(
        tuple(fault for one in found for fault in one.faults),
        tuple(one_more for one in found for one_more in one.unreachable),
        (*unverified_servers(settings), *(warning for one in found for warning in one.warnings)),
    )


async def _check_database(settings: Settings) -> Findings:
    url = settings.database_url.get_secret_value()
    found = await check_postgres(url, settings.database)
    return found if found.faults or found.unreachable else await check_wrapped_keys(url, settings)


def unverified_servers(settings: Settings) -> tuple[str, ...]:
    """Say which servers are asked over a network without TLS that proves who they are.

    A warning and no fault: a mesh or a tunnel may do the same below.
    """
    found = []
    postgres = make_url(settings.database_url.get_secret_value())
    host = str(postgres.query.get("host") or postgres.host or "/")
    if not _is_this_machine(host) and postgres.query.get("sslmode") != "verify-full":
        found.append(
            "KASBAH_DATABASE_URL: PostgreSQL may be anybody on the network: add `sslmode=verify-full` and `sslrootcert`"
        )
    valkey = urlsplit(settings.redis_url.get_secret_value())
    careless = {"ssl_cert_reqs", "ssl_check_hostname"} & parse_qs(valkey.query).keys()
    if not _is_this_machine(valkey.hostname or "/") and (valkey.scheme == "redis" or careless):
        found.append(
            "KASBAH_REDIS_URL: Valkey may be anybody on the network: use `rediss://`, with its certificate verified"
        )
    return tuple(found)


def _is_this_machine(host: str) -> bool:
    """Whether a host is a socket in the file system, or a loopback address (RFC 6890)."""
    try:
        return host.startswith("/") or host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


async def check_wrapped_keys(database_url: str, settings: Settings) -> Findings:
    """Say which key-encryption keys are missing here; what they wrap cannot be opened, all else goes on."""
    engine = open_engine(database_url, settings.database)
    try:
        _, found = await RotationStore(open_sessions(engine)).counts()
    except DatabaseUnavailableError:
        return Findings()
    finally:
        await engine.dispose()
    missing = [count for count in found if count.kek_id not in settings.encryption.ids]
    return Findings(
        warnings=tuple(
            f"KASBAH_ENCRYPTION__KEYS lacks `{count.kek_id}`, which wraps {count.data_keys} data keys of "
            f"{count.tenants} tenants: what they sealed does not open on this node"
            for count in missing
        )
    )


async def check_postgres(database_url: str, limits: DatabaseLimits) -> Findings:
    """Look at the schema and at the role."""
    patient = replace(limits, connect_seconds=PATIENCE_SECONDS, statement_seconds=PATIENCE_SECONDS)
    engine = open_engine(database_url, patient)
    try:
        found = await _schema_fault(engine)
        if found is not None:
            return Findings(faults=(found,))
        await require_safe_role(engine)
    except UnsafeDatabaseRoleError as error:
        return Findings(faults=(f"KASBAH_DATABASE_URL: {error}",))
    except DatabaseUnavailableError as error:
        cause = error.__cause__
        reason = str(getattr(cause, "orig", None) or cause or error).strip().partition("\n")[0]
        advice = _advice(reason, engine.url.username)
        if advice is not None:
            return Findings(faults=(f"KASBAH_DATABASE_URL: {reason}; {advice}",))
        return Findings(unreachable=(f"KASBAH_DATABASE_URL: PostgreSQL does not answer: {reason}",))
    finally:
        await engine.dispose()
    return Findings()


def _advice(reason: str, user: str | None) -> str | None:
    """Return what helps when PostgreSQL answers, but not as we need it; None when it does not answer."""
    if "must be able to SET ROLE" in reason or "permission denied to set role" in reason:
        return f'let an administrator run: GRANT {SERVICE_ROLE} TO "{user}";'
    if "does not exist" in reason:
        return "create it" if 'database "' in reason else "run `kasbah migrate` first"
    return None


async def _schema_fault(engine: AsyncEngine) -> str | None:
    """Return what is wrong with the schema's version, or None."""
    expected = newest_migration()
    with database_errors():
        async with engine.connect() as connection:
            if await connection.scalar(text("SELECT to_regclass('public.alembic_version') IS NULL")):
                return "the database has no schema: run `kasbah migrate`"
            found = await connection.scalar(text("SELECT version_num FROM public.alembic_version"))
    if found != expected:
        return f"the database schema is at `{found}`, this version needs `{expected}`: run `kasbah migrate`"
    return None


def newest_migration() -> str:
    """Return the newest schema revision that this code knows.

    It reads the files, since loading Alembic would take a tenth of the time in which the service has to be ready.

    Raises:
        RuntimeError: not exactly one migration is the last.
    """
    revisions: set[str] = set()
    followed: set[str] = set()
    for entry in resources.files("migrations.versions").iterdir():
        if entry.name.endswith(".py"):
            for name, value in _REVISION.findall(entry.read_text("utf-8")):
                (revisions if name == "revision" else followed).add(value)
    newest = revisions - followed
    if len(newest) != 1:
        raise RuntimeError(f"the migrations have {len(newest)} ends")
    return newest.pop()


async def _check_valkey(settings: Settings) -> Findings:
    """Valkey that is down is a warning: the service works without it, only slower."""
    client = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=VALKEY_TIMEOUT_SECONDS,
        socket_connect_timeout=VALKEY_TIMEOUT_SECONDS,
        decode_responses=True,
    )
    try:
        policy = (await client.info("memory")).get("maxmemory_policy")
    except AuthenticationError as error:
        return Findings(faults=(f"KASBAH_REDIS_URL: {error}",))
    except (RedisError, OSError, TimeoutError) as error:
        return Findings(warnings=(f"KASBAH_REDIS_URL: Valkey does not answer, going on without it: {error}",))
    finally:
        await client.aclose()
    if policy != "noeviction":
        fault = (
            f"KASBAH_REDIS_URL: Valkey's maxmemory-policy is `{policy}`, under which it throws data away when memory "
            "runs short: set it to `noeviction`"
        )
        return Findings(faults=(fault,))
    return Findings()


async def check_keys(settings: EncryptionSettings) -> Findings:
    """Say when no key-encryption key is set, and try the one in Vault.

    Vault that is down is a warning: decisions need no key, and what does is refused until Vault is back.
    """
    if settings.ids == (DERIVED,):
        return Findings(warnings=(NO_KEY_OF_ITS_OWN,))
    address = vault_address(settings)
    if address is None:
        return Findings()
    vault = VaultTransit(address)
    try:
        await vault.wrap(os.urandom(KEY_BYTES), b"start")
    except (VaultCertificateError, VaultRefusedError) as error:
        return Findings(faults=(f"KASBAH_ENCRYPTION__VAULT_URL: {error}",))
    except EncryptionUnavailableError as error:
        return Findings(warnings=(f"KASBAH_ENCRYPTION__VAULT_URL: {error}; going on without it",))
    finally:
        await vault.close()
    return Findings()
