"""Settings of a running service: one frozen model, read once from the environment, wrong ones named all at once.

Each package states its own part (`authz/settings.py`, `service/http_settings.py`, …); here they are composed. A setting
is the environment variable `KASBAH_` + its name; a setting of a part has the part's name and two underscores before it,
as in `KASBAH_AUTHZ__MAX_STALENESS`.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from authn.mail_settings import MailSettings
from authn.password_settings import PasswordSettings
from authn.sign_in_settings import SignInLimits
from authz.policy_limits import PolicyLimits
from authz.settings import AuthzSettings, CacheSettings
from service.encryption_settings import EncryptionSettings
from service.http_settings import HttpSettings
from service.oauth_settings import OAuthSettings
from service.webauthn_settings import WebauthnSettings
from tenancy.audit_settings import AuditSettings
from tenancy.database import DatabaseLimits
from tenancy.tenant_settings import TenantLimits

PREFIX = "KASBAH_"
MIN_SECRET_CHARACTERS = 32
MIN_DISTINCT_CHARACTERS = 12

OTHER_VARIABLES = frozenset(
    {"KASBAH_URL", "KASBAH_API_KEY", "KASBAH_STATE_DIR", "KASBAH_POLICIES", "KASBAH_SHARED_DATA"}
)
"""Variables that begin like settings and are read by the command line or the tests."""


def usable_cores() -> int:
    """Return the cores this process may run on, as limited by affinity (containers with a cpuset)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SettingsError(Exception):
    """Settings that are missing or wrong. `faults` names each by its variable, never with its value."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Settings(BaseSettings):
    """What `kasbah serve` reads."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="ignore", hide_input_in_errors=True
    )
    hidden_parts: ClassVar[frozenset[str]] = frozenset(
        {"cache.url", "cache.secret", "http.public_url", "http.base_domain"}
    )

    database_url: SecretStr
    """PostgreSQL: `postgresql://user:password@host/database`; the user is a member of the role `kasbah_service`."""
    migration_database_url: SecretStr | None = None
    """PostgreSQL as the user who owns the tables, for `kasbah migrate`; by default `KASBAH_DATABASE_URL`."""
    redis_url: SecretStr
    """Valkey or Redis: `redis://`, `rediss://` (TLS) or `unix://`. Its `maxmemory-policy` must be `noeviction`."""
    secret_key: SecretStr
    """At least 32 random characters, the same on every node: it seals cached rules, page tokens and kept answers."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=1, le=65535)
    """Port to listen on."""
    workers: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Processes that share the port; by default one for each core."""
    public_url: str | None = None
    """Absolute URL by which clients reach the service; it stands in metadata. By default host and port."""
    base_domain: str | None = None
    """`kasbah.example` when `acme.kasbah.example` names the tenant `acme`."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain; together with `KASBAH_TLS_KEY`. Without both: plain HTTP for a proxy."""
    tls_key: Path | None = None
    """PEM file with the private key."""
    fast_path: bool = True
    """`on`: complete decision requests are answered without aiohttp's request objects. `off`: the ordinary way."""
    cross_check_per_second: float = Field(default=1.0, ge=0, le=100)
    """Answers per second and worker that are offered for a comparison with PyCasbin's; 0 turns it off."""
    cross_check_share: float = Field(default=0.01, gt=0, le=1)
    """Part of one core that the process which compares them may take; answers offered while it rests are dropped."""
    bulk_worker: bool = True
    """`on`: one more process plans, applies, exports and signs people in, so that decisions do not wait for it."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of log records: DEBUG, INFO, WARNING or ERROR."""
    drain_seconds: float = Field(default=10.0, ge=0, le=300)
    """How long requests under way may go on after SIGTERM."""
    unready_seconds: float = Field(default=0.0, ge=0, le=300)
    """How long /readyz answers 503 after SIGTERM before listening stops, so that balancers notice."""

    http: HttpSettings = HttpSettings()
    authz: AuthzSettings = AuthzSettings()
    cache: CacheSettings
    database: DatabaseLimits = DatabaseLimits()
    limits: PolicyLimits = PolicyLimits()
    tenants: TenantLimits = TenantLimits()
    passwords: PasswordSettings = PasswordSettings()
    sign_in: SignInLimits = SignInLimits()
    encryption: EncryptionSettings = EncryptionSettings()
    mail: MailSettings = MailSettings()
    audit: AuditSettings = AuditSettings()
    oauth: OAuthSettings | None = None
    webauthn: WebauthnSettings = WebauthnSettings()

    @model_validator(mode="before")
    @classmethod
    def _compose(cls, data: Any) -> Any:
        """Hand values that several parts share to each of them."""
        if not isinstance(data, dict):
            return data
        cache = dict(data.get("cache") or {})
        cache |= {"url": data.get("redis_url") or "redis://", "secret": data.get("secret_key") or ""}
        http = dict(data.get("http") or {})
        port, host = data.get("port", 8080), data.get("host", "127.0.0.1")
        scheme = "https" if data.get("tls_cert") else "http"
        http["public_url"] = data.get("public_url") or f"{scheme}://{host_in_url(str(host))}:{port}"
        if data.get("base_domain"):
            http["base_domain"] = data["base_domain"]
        if data.get("secret_key"):
            http.setdefault("page_token_secret", data["secret_key"])
        return data | {"cache": cache, "http": http}

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _postgres(cls, value: SecretStr | None) -> SecretStr | None:
        fault = None if value is None else postgres_url_fault(value.get_secret_value())
        if fault is not None:
            raise ValueError(fault)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        fault = redis_url_fault(value.get_secret_value())
        if fault is not None:
            raise ValueError(fault)
        return value

    @field_validator("secret_key")
    @classmethod
    def _random(cls, value: SecretStr) -> SecretStr:
        """SECURITY: whoever guesses it can forge snapshots and page tokens."""
        text = value.get_secret_value()
        if len(text) < MIN_SECRET_CHARACTERS or len(set(text)) < MIN_DISTINCT_CHARACTERS:
            raise ValueError(
                f"must be at least {MIN_SECRET_CHARACTERS} random characters: "
                'python -c "import secrets; print(secrets.token_urlsafe(48))"'
            )
        return value

    @model_validator(mode="after")
    def _tls_pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("KASBAH_TLS_CERT and KASBAH_TLS_KEY: both or none")
        return self

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        try:
            self.webauthn.relying_party(self.http.public_url)
        except ValueError as error:
            raise ValueError(f"KASBAH_WEBAUTHN: {error}") from None
        return self

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not os.access(value, os.R_OK):
            raise ValueError(f"cannot read `{value}`")
        return value


def load_settings(**given: Any) -> Settings:
    """Read the settings from the environment.

    Args:
        given: Values that win over the environment, by field name (from command-line options).

    Raises:
        SettingsError: names every fault.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_faults(error)) from None


def _faults(error: ValidationError) -> list[str]:
    """Return one line for each fault, by the variable's name."""
    faults: dict[str, str] = {}
    for fault in error.errors(include_input=False, include_url=False):
        where = [str(part) for part in fault["loc"]]
        if not where:
            faults[fault["msg"]] = fault["msg"].removeprefix("Value error, ")
            continue
        if ".".join(where[:2]) in Settings.hidden_parts:
            if where[0] == "cache":
                continue  # said of KASBAH_REDIS_URL and KASBAH_SECRET_KEY already
            where = where[1:]
        name = PREFIX + "__".join(where).upper()
        said = "is missing" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
        faults.setdefault(name, f"{name}: {said}")
    return list(faults.values())


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that begins with KASBAH_ and is no setting: most likely a misspelt one."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    parts = {PREFIX + name.upper() + "__": part for name, part in part_models().items()}
    lines = []
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        if any(
            name.upper().startswith(start) and name.upper().removeprefix(start).split("__")[0].lower() in _names(part)
            for start, part in parts.items()
        ):
            continue
        near = difflib.get_close_matches(name.upper(), known, n=1)
        lines.append(f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else ""))
    return lines


def part_models() -> dict[str, type[Any]]:
    """Return the models that are composed into `Settings`, by the field that holds them."""
    kinds = ((name, (field.annotation, *get_args(field.annotation))) for name, field in Settings.model_fields.items())
    return {name: kind for name, found in kinds for kind in found if isinstance(kind, type) and _is_part(kind)}


def _is_part(kind: type[Any]) -> bool:
    return issubclass(kind, BaseModel) or is_dataclass(kind)


def _names(part: type[Any]) -> set[str]:
    if issubclass(part, BaseModel):
        return set(part.model_fields)
    return set(part.__dataclass_fields__)


def host_in_url(host: str) -> str:
    """Return a host as URLs write it; an address that means "all" is not one that clients can use."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def postgres_url_fault(url: str) -> str | None:
    """Return what is wrong with the address of a PostgreSQL, or None; never the address, which holds a password."""
    if not url.startswith(("postgresql://", "postgresql+psycopg://")):
        return "must begin with `postgresql://`"
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        return "is no URL: write postgresql://user:password@host:port/database"
    return None


def redis_url_fault(url: str) -> str | None:
    """Return what is wrong with the address of a Valkey, or None."""
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return "must begin with `redis://`, `rediss://` or `unix://`"
    return None
