"""`/v1/audit`: what happened in a tenant, searched page by page, and whole chains as JSON lines."""

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from aiohttp import web

from service.edge_errors import InvalidRequestError, MissingRightError
from service.http.admin import json_answer, meta_of
from service.http.exports import export_place, send_lines
from service.http.lists import Cursor, choice, page_limit, parameter
from service.keys import AUDIT_KEYS, KEY_RING, SESSIONS, TENANT
from service.rights import may
from service.routes import Needs, Route
from tenancy.audit import AUDIT_ACTIONS, AuditChain, AuditEntry, AuditOutcome
from tenancy.audit_chain import AuditEvent, show_time
from tenancy.audit_lines import begin_line, end_line, event_line
from tenancy.audit_log import append_audit
from tenancy.audit_personal import PERSONAL_MEMBERS, Opened, open_events
from tenancy.audit_reader import AuditFilter, AuditReader
from tenancy.unit_of_work import tenant_unit_of_work

AUDIT: web.AppKey[AuditReader] = web.AppKey("AUDIT")
EXPORT_PAGE = 500


class Order(StrEnum):
    """Which events come first."""

    NEWEST = "newest"
    OLDEST = "oldest"


async def search(request: web.Request) -> web.Response:
    """GET events that a filter fits."""
    wanted = _filter(request)
    chain = choice(request, "chain", AuditChain) or AuditChain.TENANT
    order = choice(request, "order", Order) or Order.NEWEST
    said = [repr(getattr(wanted, name)) for name in AuditFilter.__slots__]
    cursor = Cursor("audit", request[TENANT], chain, order, *said)
    after, limit = cursor.read_number(request), page_limit(request)
    opening = await _may_open(request)
    events = await request.app[AUDIT].search(
        request[TENANT], chain, wanted, after=after, limit=limit + 1, newest_first=order is Order.NEWEST
    )
    page = events[:limit]
    opened = await _opened(request, page) if opening else [None] * len(page)
    following = str(page[-1].seq) if len(events) > limit else None
    shown = [_shown(event, fields) for event, fields in zip(page, opened, strict=True)]
    return json_answer({"events": shown, "next_cursor": cursor.show(following)})


async def export(request: web.Request) -> web.StreamResponse:
    """GET a whole chain, oldest first, in lines that can be verified."""
    chain = choice(request, "chain", AuditChain) or AuditChain.TENANT
    opening = await _may_open(request)
    with export_place(request):
        if opening:
            await _record_opening(request, chain)
        return await send_lines(request, _lines(request, chain, opening=opening), what="audit")


async def _lines(request: web.Request, chain: AuditChain, *, opening: bool) -> AsyncGenerator[bytes]:
    """Yield pages of lines. Each page is of one moment, and so are the last one and what the end says."""
    place: tuple[int, datetime] | None = None
    while True:
        head, events = await request.app[AUDIT].read(request[TENANT], chain, after=place, limit=EXPORT_PAGE)
        opened = await _opened(request, events) if opening else [None] * len(events)
        lines = [event_line(event, fields) for event, fields in zip(events, opened, strict=True)]
        if place is None:
            lines.insert(0, begin_line(head))
        if len(events) < EXPORT_PAGE:
            yield b"".join([*lines, end_line(head)])
            return
        place = events[-1].seq, events[-1].at
        yield b"".join(lines)


async def _record_opening(request: web.Request, chain: AuditChain) -> None:
    """Have the audit say who takes personal data out of it."""
    entry = AuditEntry("audit.export", target=f"tenant:{request[TENANT]}", detail={"chain": chain.value})
    async with tenant_unit_of_work(request.app[SESSIONS], request[TENANT]) as work:
        await append_audit(work, meta_of(request), [entry])


async def _may_open(request: web.Request) -> bool:
    """Whether personal fields are wanted; raises `MissingRightError` when the caller may not read accounts."""
    text = parameter(request, "personal")
    if text not in {None, "true", "false"}:
        raise InvalidRequestError("`personal` is `true` or `false`")
    if text == "true" and not await may(request, "kasbah:user", "read"):
        raise MissingRightError("personal fields need the right to read accounts, `read` on `kasbah:user`")
    return text == "true"


async def _opened(request: web.Request, events: Sequence[AuditEvent]) -> list[dict[str, Opened]]:
    return await open_events(request.app[SESSIONS], request.app[KEY_RING], request[TENANT], events)


def _filter(request: web.Request) -> AuditFilter:
    action = _text(request, "action")
    if action is not None and action not in AUDIT_ACTIONS:
        raise InvalidRequestError(f"there is no action `{action}`")
    return AuditFilter(
        action=action,
        actor=_text(request, "actor"),
        target=_text(request, "target"),
        outcome=choice(request, "outcome", AuditOutcome),
        request_id=_text(request, "request_id"),
        since=_time(request, "since"),
        until=_time(request, "until"),
    )


def _text(request: web.Request, name: str) -> str | None:
    text = parameter(request, name)
    if text is not None and not text.isprintable():
        raise InvalidRequestError(f"`{name}` holds characters that cannot be searched for")
    return text


def _time(request: web.Request, name: str) -> datetime | None:
    text = parameter(request, name)
    try:
        time = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        time = None
    if text is not None and (time is None or time.tzinfo is None):
        raise InvalidRequestError(f"`{name}` is a time with its zone, such as 2026-03-01T12:00:00Z")
    return time


def _shown(event: AuditEvent, opened: Mapping[str, Opened] | None) -> dict[str, Any]:
    """Return an event as a search shows it; its exact text is in exports."""
    said: dict[str, Any] = json.loads(event.text)
    for name in PERSONAL_MEMBERS:
        if name in said:
            personal = {"subject": said[name]["subject"]}
            said[name] = personal if opened is None else personal | {"fields": opened[name]}
    return {"seq": event.seq, "at": show_time(event.at), "hash": event.hash.hex()} | said


async def public_keys(request: web.Request) -> web.Response:
    """GET the keys that signed checkpoints, oldest first; the last one signs now."""
    keys = await request.app[AUDIT_KEYS].public_keys()
    shown = [{"id": key.key_id, "public_key": _b64(key.public_key), "created_at": key.created_at} for key in keys]
    return json_answer({"keys": shown})


async def checkpoints(request: web.Request) -> web.Response:
    """GET the signed checkpoints of a chain, the newest first, each as the line that the sink got."""
    chain = choice(request, "chain", AuditChain) or AuditChain.TENANT
    cursor, limit = Cursor("audit-checkpoints", request[TENANT], chain), page_limit(request)
    found = await request.app[AUDIT].checkpoints(
        request[TENANT], chain, before=cursor.read_number(request), limit=limit + 1
    )
    following = str(found[limit - 1][0]) if len(found) > limit else None
    said = {"checkpoints": [line for _, line in found[:limit]], "next_cursor": cursor.show(following)}
    return json_answer(said)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(bytes(data)).decode()


_READ = Needs("audit:read", "kasbah:audit", "read", base=True, home=True, gone=True)

ROUTES = (
    Route("GET", "/v1/audit", search, _READ),
    Route("GET", "/v1/audit/export", export, _READ, seconds=None),
    Route("GET", "/v1/audit/checkpoints", checkpoints, _READ),
    Route("GET", "/v1/audit/keys", public_keys, Needs("audit:read", "kasbah:audit", "read", tenant=False)),
)
