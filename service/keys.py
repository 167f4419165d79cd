"""What lives in the application and in a request: typed keys, nothing by string."""

from typing import TYPE_CHECKING

from aiohttp import web

from service.callers import Caller, Callers
from service.routes import Route
from service.tenant_of_request import TenantDirectory
from tenancy.ids import TenantId

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from authz.node import Node  # type: ignore[import-not-found,unused-ignore]
    from service.http_settings import HttpSettings

HTTP_SETTINGS: web.AppKey["HttpSettings"] = web.AppKey("HTTP_SETTINGS")
SESSIONS: web.AppKey["async_sessionmaker[AsyncSession]"] = web.AppKey("SESSIONS")
VALKEY: web.AppKey["Redis"] = web.AppKey("VALKEY")
NODE: web.AppKey["Node"] = web.AppKey("NODE")
CALLERS: web.AppKey[Callers] = web.AppKey("CALLERS")
TENANTS: web.AppKey[TenantDirectory] = web.AppKey("TENANTS")
ROUTES: web.AppKey[tuple[Route, ...]] = web.AppKey("ROUTES")

ROUTE: web.RequestKey[Route] = web.RequestKey("ROUTE")
REQUEST_ID: web.RequestKey[str] = web.RequestKey("REQUEST_ID")
CALLER: web.RequestKey[Caller] = web.RequestKey("CALLER")
TENANT: web.RequestKey[TenantId] = web.RequestKey("TENANT")
