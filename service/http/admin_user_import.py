"""`POST /v1/users/import` and `GET /v1/users/export`: accounts as JSON lines, many at once."""

import re
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from aiohttp import web

from authn.import_users import MAX_BATCH, UserImports
from authn.user_import import BadLine, ImportedUser, read_record
from authn.user_storage import UserStore
from service.edge_errors import InvalidRequestError
from service.http.admin import ADMINISTRATION, json_answer, meta_of, written
from service.http.admin_users import USERS, shown
from service.http.exports import export_place, send_lines
from service.http.lists import parameter
from service.json_body import parse_json
from service.keys import SESSIONS, TENANT
from service.request_body import read_json_body
from service.routes import Needs, Route
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.unit_of_work import tenant_unit_of_work

USER_IMPORTS: web.AppKey[UserImports] = web.AppKey("USER_IMPORTS")

MAX_BODY = 16 << 20
MAX_LINE_BYTES = 8 << 10
EXPORT_PAGE = 1000

_JSON_LINES = re.compile(r"application/(?:x-ndjson|jsonl|json-lines)[ \t]*(?:;.*)?\Z", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode


async def import_users(request: web.Request) -> web.Response:
    """POST a batch of accounts, one JSON object a line; what is good comes in, what is bad is told line by line."""
    admin = request.app[ADMINISTRATION]
    meta = meta_of(request, parameter(request, "reason"))
    async with admin.work.place(request[TENANT]):
        body = await read_json_body(request, _JSON_LINES)
        with admin.work.many_rows():
            records, bad = await admin.work.run(lambda: read_lines(body))
            done = await request.app[USER_IMPORTS].add(request[TENANT], records, bad, meta=meta)
    if done.created:
        await written(request, done.head)
    faults = [{"line": fault.line, "field": fault.field, "reason": fault.reason} for fault in done.bad]
    return json_answer({"created": done.created, "existing": done.existing, "bad": faults}, head=done.head)


def read_lines(body: bytes) -> tuple[list[ImportedUser], list[BadLine]]:
    """Return the accounts of a body, and the lines that describe none; empty lines count and say nothing.

    Raises:
        InvalidRequestError: more lines than a batch may have.
    """
    lines = body.removesuffix(b"\n").split(b"\n") if body.strip() else []
    if len(lines) > MAX_BATCH:
        raise InvalidRequestError(f"a batch has at most {MAX_BATCH} lines")
    records: list[ImportedUser] = []
    bad: list[BadLine] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _read_line(number, line)
        if isinstance(found, BadLine):
            bad.append(found)
        else:
            records.append(found)
    return records, bad


def _read_line(number: int, line: bytes) -> ImportedUser | BadLine:
    if len(line) > MAX_LINE_BYTES:
        return BadLine(number, None, f"takes more than {MAX_LINE_BYTES} bytes")
    try:
        value = parse_json(line)
    except InvalidRequestError as error:
        # SECURITY: the pointer alone, since a fault of syntax could quote what stands in the line.
        return BadLine(number, (error.pointer or "").lstrip("/") or None, "is not one JSON object without repeats")
    return read_record(number, value)


async def export_users(request: web.Request) -> web.StreamResponse:
    """GET every account of the tenant but deleted ones, one JSON object a line, by age; no secrets."""
    with export_place(request):
        async with tenant_unit_of_work(request.app[SESSIONS], request[TENANT]) as work:
            entry = AuditEntry("user.export", target=f"tenant:{request[TENANT]}")
            await append_audit(work, meta_of(request, parameter(request, "reason")), [entry])
        return await send_lines(request, _pages(request.app[USERS], request), what="users")


async def _pages(users: UserStore, request: web.Request) -> AsyncGenerator[bytes]:
    after: str | None = None
    while True:
        page = await users.list(request[TENANT], after=after, limit=EXPORT_PAGE)
        yield b"".join(_line(shown(user)) for user in page.users)
        after = page.cursor
        if after is None:
            return


def _line(value: dict[str, Any]) -> bytes:
    return _encode(value) + b"\n"


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/users/import",
        import_users,
        Needs("user:import", "kasbah:user", "import", home=True),
        MAX_BODY,
        seconds=None,
        bulk=True,
    ),
    Route(
        "GET",
        "/v1/users/export",
        export_users,
        Needs("user:read", "kasbah:user", "export", home=True),
        seconds=None,
        bulk=True,
    ),
)
