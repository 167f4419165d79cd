"""What the administration handlers share: ports, answers with a revision, preconditions, a worker thread."""

import asyncio
import gc
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from authz.ports import StoredModel, TenantHead
from authz.served_model import ServedModel
from authz.write_ports import ChangeMeta, PolicyWriter
from service.caller import Caller
from service.client_address import address_of
from service.edge_errors import InvalidRequestError, NoSuchResourceError, OverloadedError
from service.keys import CALLER, REQUEST_ID, TENANT
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId
from tenancy.ports import TenantRegistry

LARGE_BODY = 64 << 20
MAX_REASON = 1000
WAITING_WORK = 8

_REVISION_TAG = re.compile(r'"([0-9]{1,18})"\Z')
_COMMIT = re.compile(r"[0-9a-zA-Z._-]{1,80}\Z")
_encode = msgspec.json.Encoder().encode
_Result = TypeVar("_Result")


class Notices(Protocol):
    """What of the node the administration uses."""

    on_advance: list[Callable[[TenantHead], None]]

    def now(self) -> datetime:
        """The node's time."""

    async def note_write(self, head: TenantHead) -> None:
        """Take up an own write and tell the other nodes."""

    async def watch(self, tenant_id: TenantId) -> TenantHead:
        """Keep this tenant's head up to date."""


class Work:
    """One thread for what would stall decisions: parsing large bodies, comparing policies.

    At most `WAITING_WORK` requests hold a large body at once, and half as many of one tenant; more are refused, so that
    memory stays bounded and no tenant takes the places of the others.
    """

    def __init__(self, waiting: int = WAITING_WORK) -> None:
        self._share = max(1, waiting // 2)
        self._held: Counter[TenantId] = Counter()
        self._resting = 0
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="administration")
        self._left = waiting

    @asynccontextmanager
    async def place(self, tenant_id: TenantId) -> AsyncIterator[None]:
        """Hold one of the places for heavy requests; raises `OverloadedError` when none is left for this tenant."""
        if self._left <= 0 or self._held[tenant_id] >= self._share:
            raise OverloadedError
        self._left -= 1
        self._held[tenant_id] += 1
        try:
            yield
        finally:
            self._left += 1
            self._held[tenant_id] -= 1
            if not self._held[tenant_id]:
                del self._held[tenant_id]

    @contextmanager
    def many_rows(self) -> Iterator[None]:
        """Let the garbage collector rest while a request holds rows; not while its body is still awaited.

        With a million live rows one full collection would stop decisions for half a second, and rows form no cycles,
        so reference counts free them. SECURITY: a body may come slowly, and one after the other must not keep the
        collector from all else for ever.
        """
        if not self._resting:
            gc.disable()
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1
            if not self._resting:
                gc.enable()

    async def run(self, task: Callable[[], _Result]) -> _Result:
        """Run `task` in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, task)

    def close(self) -> None:
        """Let the thread end; what has not begun is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Models:
    """Compiles the platform's model, and remembers the last few."""

    compile: Callable[[StoredModel], ServedModel]
    _known: dict[str, ServedModel] = field(default_factory=dict)

    def get(self, model: StoredModel) -> ServedModel:
        """Return the compiled model; raises `ModelError`."""
        found = self._known.get(model.digest)
        if found is None:
            found = self.compile(model)
            if len(self._known) > 4:  # noqa: PLR2004 - a model changes rarely
                self._known.clear()
            self._known[model.digest] = found
        return found


@dataclass(frozen=True, slots=True)
class Administration:
    """The ports of all administration routes."""

    writer: PolicyWriter
    tenants: TenantRegistry
    node: Notices
    models: Models
    work: Work


ADMINISTRATION: web.AppKey[Administration] = web.AppKey("ADMINISTRATION")


def json_answer(value: Any, *, status: int = 200, head: TenantHead | None = None) -> web.Response:
    """Return a JSON answer; with a head, it says the revision that it shows or made."""
    return raw_answer(_encode(value), status=status, head=head)


def raw_answer(body: bytes, *, status: int = 200, head: TenantHead | None = None) -> web.Response:
    """Return an answer that is encoded already."""
    response = web.Response(status=status, body=body, content_type="application/json")
    if head is not None:
        response.headers["Kasbah-Revision"] = str(head.revision)
        response.headers["ETag"] = f'"{head.revision}"'
    return response


def no_content(head: TenantHead | None) -> web.Response:
    """Return the answer when something ended; `head` is None when it had ended before, and nothing changed."""
    return web.Response(status=204, headers=None if head is None else {"Kasbah-Revision": str(head.revision)})


def ended(*, found: bool) -> web.Response:
    """Return the answer when something without a revision ended; raises `NoSuchResourceError` when it was not there."""
    if not found:
        raise NoSuchResourceError
    return no_content(None)


async def written(request: web.Request, head: TenantHead) -> None:
    """Take up an own write before it is answered, so that this node never answers older than it said."""
    await request.app[ADMINISTRATION].node.note_write(head)


def meta_of(request: web.Request, reason: str | None = None, git_commit: str | None = None) -> ChangeMeta:
    """Return who changes something, and why.

    Raises:
        InvalidRequestError: a reason or commit that history cannot show.
    """
    if reason is not None:
        reason = reason.strip()
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise InvalidRequestError(f"a reason has at most {MAX_REASON} printable characters", "/reason")
    if git_commit is not None and _COMMIT.match(git_commit) is None:
        raise InvalidRequestError("not a commit: up to 80 letters, digits, `.`, `_` or `-`", "/git_commit")
    caller = request[CALLER]
    return ChangeMeta(
        caller.actor,
        reason or None,
        git_commit,
        request[REQUEST_ID],
        credential=caller.credential,
        address=_told_address(request, caller),
    )


def _told_address(request: web.Request, caller: Caller) -> str | None:
    """Return from where a request comes, as far as its tenant may know: where people of the platform are, it may not.

    What is about a person is sealed under a key in the person's own tenant, so that it ends with it.
    """
    away = caller.user_id is not None and request.get(TENANT, PLATFORM_TENANT_ID) != caller.home
    return None if away else address_of(request)


def is_base(request: web.Request) -> bool:
    """Whether the request is about the base."""
    return request[TENANT] == BASE_TENANT_ID


def expected_revision(request: web.Request) -> int | None:
    """Return the revision of `If-Match`, or None when any will do.

    Raises:
        InvalidRequestError: anything but one quoted revision or `*`.
    """
    values = request.headers.getall("If-Match", [])
    if not values or values == ["*"]:
        return None
    found = _REVISION_TAG.match(values[0]) if len(values) == 1 else None
    if found is None:
        raise InvalidRequestError('`If-Match` takes one revision in quotes, as in `"42"`')
    return int(found.group(1))


async def heavy(request: web.Request, task: Callable[[], _Result]) -> _Result:
    """Run `task` off the event loop."""
    return await request.app[ADMINISTRATION].work.run(task)
