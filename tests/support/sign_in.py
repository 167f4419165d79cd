"""People who sign in, over HTTP, with passwords and second factors."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from authn.users import User
from service.keys import KEY_RING, PASSWORDS, SESSIONS
from service.sign_in_aftermath import Aftermath
from service.sign_in_part import AFTERMATH, SIGN_IN_THROTTLES
from tenancy import one_trip
from tenancy.tenant_settings import TenantLimits
from tests.support.administration import Answer
from tests.support.factors import Phone, bind_phone
from tests.support.people import PostOffice
from tests.support.smtp_server import smtp_server

PASSWORD = "correct horse battery staple"
WRONG = "incorrect horse battery staple"
LOGIN = "/v1/auth/login"
VERIFY = "/v1/auth/mfa/verify"
OPTIONS = "/v1/auth/mfa/options"


class FrontDoor(PostOffice):
    """The whole application, with people who have passwords."""

    async def user(self, username: str, *, password: str | None = PASSWORD, **more: Any) -> User:
        """Enter an account that has a password."""
        stored = None if password is None else await self.app[PASSWORDS].hash(password)
        return await self.person(username, password_hash=stored, **more)

    async def phone(self, user: User) -> Phone:
        """Bind an authenticator application to an account."""
        return await bind_phone(self.app[SESSIONS], self.app[KEY_RING], user.tenant_id, user.id)

    async def login(
        self, identifier: str, password: str = PASSWORD, *, tenant: str = "acme", agent: str = "browser", **more: Any
    ) -> Answer:
        """POST a password; `headers` and other members go along."""
        headers = {"X-Tenant-ID": tenant, "User-Agent": agent} | more.pop("headers", {})
        body = {"identifier": identifier, "password": password} | more
        return await self.post(LOGIN, body, key="", headers=headers)

    async def verify(
        self, challenge: str, method: str, given: str | dict[str, Any], *, agent: str = "browser", **more: Any
    ) -> Answer:
        """POST the proof of a second factor."""
        what = {"code": given} if isinstance(given, str) else {"assertion": given}
        headers = {"User-Agent": agent} | more.pop("headers", {})
        body = {"challenge": challenge, "method": method} | what | more
        return await self.post(VERIFY, body, key="", headers=headers)

    async def options(self, challenge: str, method: str, *, agent: str = "browser") -> Answer:
        """Ask for what a method needs."""
        body = {"challenge": challenge, "method": method}
        return await self.post(OPTIONS, body, key="", headers={"User-Agent": agent})

    async def settled(self) -> None:
        """Wait for what follows refusals."""
        await self.app[AFTERMATH].settled()

    @property
    def aftermath(self) -> Aftermath:
        """What follows refusals."""
        return self.app[AFTERMATH]

    def app_bucket(self, name: str) -> int:
        """Return where a name that is nobody's is counted."""
        return self.app[SIGN_IN_THROTTLES].bucket(self.tenants["acme"], "identifier", name)

    @contextlib.contextmanager
    def statements(self) -> Iterator[list[str]]:
        """Collect what is asked of PostgreSQL, but for the node's own polls: whole trips, and other statements."""
        asked: list[str] = []

        def executed(_: Any, __: Any, statement: str, *___: Any) -> None:
            if not any(of_the_node in statement for of_the_node in ("pg_snapshot_xmin", "system_identifier")):
                asked.append(statement.split(" FROM ", 1)[0][:60])

        async def fetched(sessions: Any, bind: str, bound: Any, statement: Any, parameters: Any) -> Any:
            asked.append(f"trip {str(statement)[:60]}")
            return await original(sessions, bind, bound, statement, parameters)

        original = one_trip._fetch
        engine = self._engine.sync_engine
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(one_trip, "_fetch", fetched)
            event.listen(engine, "before_cursor_execute", executed)
            try:
                yield asked
            finally:
                event.remove(engine, "before_cursor_execute", executed)

    def later(self, seconds: int) -> None:
        """Let time go by for whatever waits."""
        self.execute(
            "UPDATE credential_failures SET blocked_until = blocked_until - make_interval(secs => %s)", seconds
        )
        self.execute(
            "UPDATE sign_in_throttles SET blocked_until = blocked_until - make_interval(secs => %s), "
            "counted_at = counted_at - make_interval(secs => %s)",
            seconds,
            seconds,
        )

    def events(self, chain: str = "sign_in") -> list[dict[str, Any]]:
        """Return the events of a kind of chain, oldest first."""
        return [
            event
            for (event,) in self.query("SELECT event FROM audit_events WHERE chain = %s ORDER BY tenant_id, seq", chain)
        ]


@contextlib.asynccontextmanager
async def front_door(database_url: str, **more: Any) -> AsyncIterator[FrontDoor]:
    """Serve on a free port of loopback."""
    async with smtp_server() as server, FrontDoor(database_url, server, **more).serving() as running:
        assert isinstance(running, FrontDoor)
        await running.open_tenants()
        yield running


@contextlib.asynccontextmanager
async def two_doors(
    database_url: str, *, then: TenantLimits | None = None, **more: Any
) -> AsyncIterator[tuple[FrontDoor, FrontDoor]]:
    """Serve twice, as two nodes of one deployment; the first one has the tenants, the second one perhaps other bounds."""
    async with smtp_server() as server, contextlib.AsyncExitStack() as stack:
        first = FrontDoor(database_url, server, **more)
        second = FrontDoor(database_url, server, **({"limits": then} if then else {}) | more)
        second._valkey, second.keks = first._valkey, first.keks
        await stack.enter_async_context(first.serving())
        await first.open_tenants()
        await stack.enter_async_context(second.serving())
        second.tenants, second.keys = first.tenants, first.keys
        yield first, second
