"""`/v1/tenants/{tenant}/policy/history` and `…/changes/{revision}/items`: who changed what, and which rows."""

from typing import Any

from aiohttp import web

from authz.errors import RevisionNotFoundError
from authz.write_ports import Change
from service.http.admin import ADMINISTRATION, json_answer
from service.http.lists import Cursor, page_limit
from service.http.policy_wire import to_wire
from service.keys import TENANT


async def history(request: web.Request) -> web.Response:
    """GET changes, the newest first."""
    limit = page_limit(request)
    cursor = Cursor("history", request[TENANT])
    before = cursor.read_number(request) or 0
    changes = await request.app[ADMINISTRATION].writer.list_changes(
        request[TENANT], after_revision=before, limit=limit + 1, newest_first=True
    )
    after = str(changes[limit - 1].revision) if len(changes) > limit else None
    said = {"changes": [shown_change(change) for change in changes[:limit]], "next_cursor": cursor.show(after)}
    return json_answer(said)


async def change_items(request: web.Request) -> web.Response:
    """GET the rows that one change removed and added; a row that was changed is both, one after the other."""
    revision = _revision(request.match_info["revision"])
    limit = page_limit(request)
    cursor = Cursor("items", request[TENANT], str(revision))
    after = cursor.read_number(request) or 0
    items = await request.app[ADMINISTRATION].writer.list_change_items(
        request[TENANT], revision, after=after, limit=limit + 1
    )
    shown = [{"change": "added" if item.added else "removed", "row": to_wire(item.row)} for item in items[:limit]]
    following = str(after + limit) if len(items) > limit else None
    return json_answer({"revision": revision, "items": shown, "next_cursor": cursor.show(following)})


def _revision(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - 64 bits
        raise RevisionNotFoundError("a revision is a whole number")
    return int(text)


def shown_change(change: Change) -> dict[str, Any]:
    """Return the JSON-ready form of a change."""
    return {
        "revision": change.revision,
        "rules_revision": change.rules_revision,
        "kind": change.kind.value,
        "actor": change.meta.actor,
        "reason": change.meta.reason,
        "git_commit": change.meta.git_commit,
        "request_id": change.meta.request_id,
        "at": change.at,
        "added": change.added,
        "removed": change.removed,
        "rolled_back_to": change.rolled_back_to,
    }
