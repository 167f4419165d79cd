"""`/v1/tenants/{tenant}/rules`, `/memberships`, `/entities`: lists of everything, and changes to what the API owns."""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from authz.change_policy import change_policy
from authz.request import InvalidNameError, Ref, parse_ref
from authz.rules import Owner, RoleLink, Row, Rule, StoredEntity
from authz.write_ports import ChangeResult, RowPage
from service.edge_errors import InvalidRequestError
from service.http.admin import ADMINISTRATION, expected_revision, heavy, is_base, json_answer, meta_of, written
from service.http.idempotency import OnceFor, idempotent
from service.http.lists import Cursor, page_limit, parameter
from service.http.policy_wire import read_rows, read_struct, to_wire
from service.keys import TENANT
from service.rights import judge_of


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows to add and rows to remove, all or nothing. A row to remove is named by what it says."""

    add: list[msgspec.Raw] = []
    remove: list[msgspec.Raw] = []
    reason: str | None = None


_batch_decoder = msgspec.json.Decoder(BatchBody)


async def list_rules(request: web.Request) -> web.Response:
    """GET rules, hierarchy links and groups of resources."""
    owner = _owner_parameter(request)
    cursor = Cursor("rules", request[TENANT], owner)
    page = await request.app[ADMINISTRATION].writer.list_rules(
        request[TENANT], after=cursor.read(request), limit=page_limit(request), owner=owner
    )
    return _page("rules", page, cursor)


async def list_memberships(request: web.Request) -> web.Response:
    """GET direct roles and groups of subjects."""
    subject, role = _ref_parameter(request, "subject"), _ref_parameter(request, "role")
    cursor = Cursor("memberships", request[TENANT], subject, role)
    page = await request.app[ADMINISTRATION].writer.list_memberships(
        request[TENANT], after=cursor.read(request), limit=page_limit(request), subject=subject, role=role
    )
    return _page("memberships", page, cursor)


async def list_entities(request: web.Request) -> web.Response:
    """GET stored attributes."""
    cursor = Cursor("entities", request[TENANT])
    page = await request.app[ADMINISTRATION].writer.list_entities(
        request[TENANT], after=cursor.read(request), limit=page_limit(request)
    )
    return _page("entities", page, cursor)


@idempotent
async def change_rules(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST rules, hierarchy links and groups of resources to add and remove."""
    return await _change(request, body, once_for, (Rule, RoleLink), memberships=False)


@idempotent
async def change_memberships(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST direct roles and groups of subjects to add and remove."""
    return await _change(request, body, once_for, (RoleLink,), memberships=True)


@idempotent
async def change_entities(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST stored attributes to add and remove."""
    return await _change(request, body, once_for, (StoredEntity,), memberships=False)


async def _change(
    request: web.Request, body: bytes, once_for: OnceFor, kinds: Sequence[type[Row]], *, memberships: bool
) -> web.Response:
    expected = expected_revision(request)
    base = is_base(request)

    def read() -> tuple[BatchBody, list[Row], list[Row]]:
        batch = read_struct(body, _batch_decoder)
        found = tuple(
            read_rows(raws, pointer, owner=Owner.API, base=base, allowed=kinds)
            for raws, pointer in ((batch.add, "/add"), (batch.remove, "/remove"))
        )
        for rows, pointer in zip(found, ("/add", "/remove"), strict=True):
            _check_place(rows, pointer, memberships=memberships)
        return batch, found[0], found[1]

    batch, add, remove = await heavy(request, read)
    result = await change_policy(
        request[TENANT],
        add,
        [row.key for row in remove],
        meta=meta_of(request, batch.reason),
        expected_revision=expected,
        writer=request.app[ADMINISTRATION].writer,
        once=once_for(change_answer),
        judge=judge_of(request),
    )
    await written(request, result.head)
    return change_answer(result)


def change_answer(result: ChangeResult) -> web.Response:
    """Return the outcome of a write."""
    said = {"revision": result.head.revision, "added": result.added, "removed": result.removed}
    return json_answer(said, head=result.head)


def _check_place(rows: Sequence[Row], pointer: str, *, memberships: bool) -> None:
    for place, row in enumerate(rows):
        if isinstance(row, RoleLink) and row.is_membership is not memberships:
            where = "rules" if memberships else "memberships"
            raise InvalidRequestError(f"a link of `{row.member}` belongs to `{where}`", f"{pointer}/{place}/member")


def _page(name: str, page: RowPage, cursor: Cursor) -> web.Response:
    said = {
        name: [to_wire(row) for row in page.rows],
        "next_cursor": cursor.show(page.cursor),
        "revision": page.head.revision,
    }
    return json_answer(said, head=page.head)


def _owner_parameter(request: web.Request) -> Owner | None:
    text = parameter(request, "owner")
    if text is None:
        return None
    try:
        return Owner(text)
    except ValueError:
        raise InvalidRequestError("`owner` is `files` or `api`") from None


def _ref_parameter(request: web.Request, name: str) -> Ref | None:
    text = parameter(request, name)
    if text is None:
        return None
    try:
        return parse_ref(text).ref
    except InvalidNameError as error:
        raise InvalidRequestError(f"`{name}`: {error}") from None
