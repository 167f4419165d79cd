"""Settings of the decision point. The edge fills them from the environment; nothing here has a side effect."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

MIN_SECRET_BYTES = 32


def _seconds(value: object) -> object:
    """Accept a bare number of seconds also as text, as environment variables write it."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]
"""A positive duration: seconds as a number, or ISO 8601 (`PT5S`)."""


class AuthzSettings(BaseModel):
    """How a node keeps up with PostgreSQL, and how much it may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_interval: Duration = timedelta(milliseconds=500)
    """Time between two polls of the change feed; notices only make one come sooner."""
    poll_timeout: Duration = timedelta(seconds=1)
    """A poll that takes longer counts as failed."""
    notice_spacing: Duration = timedelta(milliseconds=25)
    """Least time between two polls: a flood of notices becomes at most one poll each so often."""
    max_staleness: Duration = timedelta(seconds=5)
    """A tenant that PostgreSQL's primary has not confirmed for so long is not decided (503)."""
    serve_stale: bool = False
    """Decide from what is held however old it is. The operator's choice: revocations may then come late."""
    min_revision_wait: Duration = timedelta(seconds=1)
    """How long a demanded revision, which the primary does not have yet, is waited for."""
    request_timeout: Duration = timedelta(milliseconds=2500)
    """Bound of everything that one request waits for; work begun for it goes on for the next one."""
    read_timeout: Duration = timedelta(seconds=2)
    """Bound of one small read from PostgreSQL."""
    load_timeout: Duration = timedelta(seconds=10)
    """Bound of reading one tenant's whole rule set from PostgreSQL."""
    lookup_concurrency: int = Field(default=6, gt=0)
    """Membership look-ups under way at once; what comes meanwhile joins the next one of its tenant."""
    lookup_batch: int = Field(default=2000, gt=0)
    """Names that one membership look-up may ask for."""
    advance_concurrency: int = Field(default=4, gt=0)
    """Tenants that are brought up to date in the background at once."""

    membership_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=64 * 1024)
    """Estimated memory of all cached subjects and resources of this node, unknown ones included."""
    snapshot_cache_bytes: int = Field(default=256 * 1024 * 1024, gt=0)
    """Estimated memory of all snapshots of this node; the one used last is always kept."""
    max_warm_tenants: int = Field(default=2000, gt=0)
    """Tenants with a snapshot in memory."""
    max_watched_tenants: int = Field(default=100_000, gt=0)
    """Tenants whose head is followed without a snapshot (for API keys)."""
    idle_ttl: Duration = timedelta(minutes=15)
    """A snapshot not used for so long is dropped."""
    idle_rebuild: Duration = timedelta(seconds=60)
    """A snapshot not used for so long is dropped instead of rebuilt when its rules change."""
    slow_build_rows: int = Field(default=4000, gt=0)
    """Rule sets above this size are built in their own thread, so that small ones do not queue behind them."""
    failed_build_pause: Duration = timedelta(seconds=1)
    """A rule set that could not be built is not tried again before."""


class CacheSettings(BaseModel):
    """Valkey: authenticated rule sets and notices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: SecretStr
    """`redis://`, `rediss://` or `unix://`; it may hold a password."""
    secret: SecretStr
    """At least 32 bytes; the key of the MACs is derived from it (HKDF), the same on every node."""
    timeout: Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0), le=timedelta(milliseconds=500))] = (
        timedelta(milliseconds=300)
    )
    """Bound of one operation, connecting included."""
    connections: int = Field(default=8, gt=0)
    """Connections of the pool, the one that listens for notices not counted."""
    snapshot_ttl: Duration = timedelta(days=1)
    """A rule set not stored anew for so long is forgotten."""
    max_snapshot_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    """A larger value is neither stored nor read."""
    breaker_failures: int = Field(default=3, gt=0)
    """After so many failures in a row Valkey is left alone for `breaker_pause`."""
    breaker_pause: Duration = timedelta(seconds=1)
    """How long it is left alone; then one operation tries again."""
