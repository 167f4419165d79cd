"""A service with a real mail server behind it, and people who read their mails."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg

from authn.account_flows import AccountFlows
from authn.mail_settings import MailSettings
from authn.user_rows import insert_user
from authn.users import NewUser, User, normalize_display_name, normalize_email, normalize_username
from service.http.account_links import ACCOUNT_FLOWS, ERRANDS
from service.keys import JOBS, SESSIONS
from service.mail_part import MAILS_JOB
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import META, Service
from tests.support.smtp_server import Received, SmtpServer, smtp_server


class PostOffice(Service):
    """The whole application on a database, with tenants `acme` and `beta` and a mail server."""

    def __init__(
        self, database_url: str, server: SmtpServer, *, limits: TenantLimits | None = None, **more: Any
    ) -> None:
        settings = MailSettings(
            host="127.0.0.1", port=server.port, tls="none", per_minute=10_000, tenant_per_minute=10_000
        )
        super().__init__(database_url, mail=settings, limits=limits, **more)
        self.database_url = database_url
        self.server = server
        self.tenants: dict[str, TenantId] = {}
        self.keys: dict[str, str] = {}

    @property
    def flows(self) -> AccountFlows:
        """What the flows work with."""
        return self.app[ACCOUNT_FLOWS]

    async def open_tenants(self) -> None:
        """Create the tenants, each with a key."""
        for slug in ("acme", "beta"):
            self.keys[slug] = await self.tenant(slug)
            self.tenants[slug] = await self.bootstrap.ensure_tenant(slug, slug, meta=META)

    async def person(
        self, username: str, *, tenant: str = "acme", email: str | None = None, verified: bool = True, **more: Any
    ) -> User:
        """Enter an account whose address is `<username>@example.org` unless said otherwise."""
        async with tenant_unit_of_work(self.app[SESSIONS], self.tenants[tenant]) as work:
            await lock_head(work)
            new = NewUser(
                normalize_username(username),
                normalize_email(email or f"{username}@example.org"),
                normalize_display_name(username.title()),
                **more,
            )
            user = await insert_user(work, new, created_by="key:test")
            head = await raise_head(work, counts={"users": 1})
            entry = AuditEntry("user.create", target=user.ref)
            await record_change(work.session, head, "user", META, audit=[entry], touched=[user.ref])
        if verified:
            self.execute("UPDATE users SET email_verified_at = clock_timestamp() WHERE user_id = %s", user.id)
        return user

    async def mails(self, address: str) -> list[Received]:
        """Let everything be sent, and return what came for an address, oldest first."""
        await self.app[ERRANDS].settled()
        await self.app[JOBS].run_once(MAILS_JOB)
        return self.server.to(address)

    async def token(self, address: str) -> str:
        """Return the token of the last mail for an address that has one: notices come when they come."""
        return [mail for mail in await self.mails(address) if "token=" in mail.text][-1].token

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement as the owner of the tables."""
        with psycopg.connect(self.database_url, autocommit=True) as owner:
            owner.execute(statement.encode(), parameters)

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return rows as the owner of the tables sees them."""
        with psycopg.connect(self.database_url, autocommit=True) as owner:
            return owner.execute(statement.encode(), parameters).fetchall()

    def account(self, user_id: UUID, columns: str) -> tuple[Any, ...]:
        """Return columns of one account."""
        return self.query(f"SELECT {columns} FROM users WHERE user_id = %s", user_id)[0]


@contextlib.asynccontextmanager
async def post_office(
    database_url: str, *, limits: TenantLimits | None = None, **more: Any
) -> AsyncIterator[PostOffice]:
    """Serve on a free port of loopback."""
    async with smtp_server() as server, PostOffice(database_url, server, limits=limits, **more).serving() as running:
        assert isinstance(running, PostOffice)
        await running.open_tenants()
        yield running
