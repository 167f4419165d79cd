"""Opens what the audit does by itself: partitions ahead, signed checkpoints, the sink they go to."""

import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from service.app import Part
from service.jobs import Job
from service.keys import AUDIT_KEYS, JOBS, KEY_RING, METRICS, SESSIONS, SIGN_IN_AUDIT
from tenancy.audit_batches import AuditBatches
from tenancy.audit_checkpoints import AuditKeys, CheckpointKeeper
from tenancy.audit_partitions import make_partitions
from tenancy.audit_settings import SYSLOG_SCHEMES, AuditSettings
from tenancy.audit_sinks import AuditSink, AuditSinkError, FileSink, SyslogSink

CHECKPOINTS_JOB = "audit-checkpoints"
CHECKPOINTS_SECONDS = 5.0
PARTITIONS_SECONDS = 3600.0


class HttpSink:
    """Posts lines as `application/x-ndjson`; any 2xx answer says that they were taken."""

    def __init__(self, url: str, *, token: str | None, tls: ssl.SSLContext | None, seconds: float) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/x-ndjson"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=seconds)

    async def send(self, lines: Sequence[str]) -> None:
        """Post all lines at once; raises `AuditSinkError`."""
        body = "".join(f"{line}\n" for line in lines).encode()
        where = urlsplit(self._url).hostname
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                # SECURITY: a redirect could carry the token elsewhere.
                session.post(
                    self._url, data=body, headers=self._headers, ssl=self._tls or True, allow_redirects=False
                ) as answer,
            ):
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - success
                    raise AuditSinkError(f"`{where}` answered {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise AuditSinkError(f"`{where}`: {str(error) or 'no answer in time'}") from error


def sink_of(settings: AuditSettings) -> AuditSink | None:
    """Return the sink of the settings, or None; raises `OSError` when its authority's file cannot be read."""
    if settings.sink is None:
        return None
    parts = urlsplit(settings.sink)
    if parts.scheme == "file":
        return FileSink(Path(parts.path))
    secure = parts.scheme in {"https", "syslog+tls"}
    tls = ssl.create_default_context(cafile=settings.sink_ca_file) if secure else None
    if parts.scheme in SYSLOG_SCHEMES:
        udp = parts.scheme == "syslog+udp"
        return SyslogSink(parts.hostname or "", parts.port or 514, udp=udp, tls=tls, seconds=settings.sink_seconds)
    token = None if settings.sink_token is None else settings.sink_token.get_secret_value()
    return HttpSink(settings.sink, token=token, tls=tls, seconds=settings.sink_seconds)


def auditing(settings: AuditSettings) -> Part:
    """Return the part of the application that keeps the audit: opens after the database and the key ring."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        keys = app[AUDIT_KEYS] = AuditKeys(app[SESSIONS], app[KEY_RING], settings.seed)
        metrics = app[METRICS]
        keeper = CheckpointKeeper(app[SESSIONS], keys, sink_of(settings), settings, metrics.count_event)

        async def keep() -> None:
            try:
                await keeper.run()
            finally:
                metrics.set_audit_behind(await keeper.behind_seconds())

        batches = app[SIGN_IN_AUDIT] = AuditBatches(app[SESSIONS])
        batches.start()
        app[JOBS].add(Job("audit-partitions", PARTITIONS_SECONDS, partial(make_partitions, app[SESSIONS])))
        app[JOBS].add(Job(CHECKPOINTS_JOB, CHECKPOINTS_SECONDS, keep))
        yield
        await batches.stop()

    return part
