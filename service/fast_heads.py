"""Plain heads of decision requests: which headers matter to a decision, and what heads that came before said."""

import re

from authz.evaluate import StateView
from service.app import request_id_of
from service.caller import Caller
from service.key_rates import KeyRate

MAX_REVISION_DIGITS = 18
MAX_REMEMBERED = 512
MAX_SEEN_ONCE = 4_096
MAX_REQUEST_ID = 200
"""Characters; as `request_id_of` has it."""
MAX_HEAD = 8 * 1024
MAX_HEAD_LINES = 100
"""Of what is looked up: longer heads, and those with more headers than aiohttp takes, are for its parser to judge."""
MAX_BODY = 64 * 1024
"""Longest body that is waited for outside of aiohttp's parser."""

_AUTHORIZATION, _CONTENT_TYPE, _REQUEST_ID, _TENANT, _MIN_REVISION, _HOST, _NOT_PLAIN = range(7)
_HEADERS = {
    b"authorization": _AUTHORIZATION,
    b"content-type": _CONTENT_TYPE,
    b"x-request-id": _REQUEST_ID,
    b"x-tenant-id": _TENANT,
    b"kasbah-min-revision": _MIN_REVISION,
    b"host": _HOST,
    b"kasbah-session": _NOT_PLAIN,
    b"content-encoding": _NOT_PLAIN,
    b"expect": _NOT_PLAIN,
    b"transfer-encoding": _NOT_PLAIN,
    b"upgrade": _NOT_PLAIN,
}
"""Headers that mean something to a decision, in lower case."""

_OTHER = -1
_MAX_SPELLINGS = 256
_spellings: dict[bytes, int] = {}
"""What each spelling of a header's name is; clients use few, and a look-up is cheaper than lowering every name."""

# Whole header lines behind another line, without space around their values, and without a continuation after them.
_VARYING_LINES = re.compile(
    rb"\r\n(?=[xXtTbB])(?i:(x-request-id)|traceparent|tracestate|baggage|b3|x-b3-[a-z]{1,20}|x-amzn-trace-id|x-cloud-trace-context)"
    rb": ?([!-~](?:[ -~]{0,510}[!-~])?)(?=\r\n(?![ \t]))"
)
"""Headers whose values differ with each request, and mean nothing to a decision."""

RawHeaders = tuple[tuple[bytes, bytes], ...]


def _is_short(head: bytes) -> bool:
    # SECURITY: the parser skips line ends before a request. A line between them and the request is no header.
    return len(head) <= MAX_HEAD and head.startswith(b"POST ") and head.count(b"\n") <= MAX_HEAD_LINES


def _strip(head: bytes) -> tuple[bytes, str | None]:
    """Return a head without what differs with each request, and its request id; one that is out of order stays in."""
    request_id: str | None = None
    kept = []
    start = 0
    for line in _VARYING_LINES.finditer(head):
        if line[1] is not None:
            if request_id is not None or len(line[2]) > MAX_REQUEST_ID:
                continue
            request_id = line[2].decode("ascii")
        kept.append(head[start : line.start()])
        start = line.end()
    return b"".join((*kept, head[start:])), request_id


def _kind_of(name: bytes) -> int:
    kind = _HEADERS.get(name.lower(), _OTHER)
    if len(_spellings) < _MAX_SPELLINGS:
        _spellings[name] = kind
    return kind


class PlainHead:
    """What a head says; from `changes` on, what `FastPath` found out about who that is."""

    __slots__ = (
        "caller",
        "changes",
        "frames",
        "holds_until",
        "length",
        "min_revision",
        "path",
        "rate",
        "request_id",
        "state",
        "tenant",
        "token",
    )

    def __init__(self, path: str, token: bytes, request_id: str | None, tenant: str | None, min_revision: int) -> None:
        self.path = path
        self.token = token
        self.request_id = request_id
        self.tenant = tenant
        self.min_revision = min_revision
        self.length = 0
        """Of the body, as `Content-Length` says; of remembered heads only."""
        self.changes = -1
        self.holds_until = 0.0
        self.caller: Caller
        self.rate: KeyRate | None = None
        """The bucket of a key with a limit."""
        self.state: StateView
        self.frames: list[tuple[bytes, bytes] | None] = []


class PlainHeads:
    """Reads heads that aiohttp's parser has parsed, and remembers them for a while.

    A client that keeps its connection sends the same head again and again. What the parser made of a head at the
    beginning of a message, it makes of the same bytes there again, so they need not be parsed. Heads hold keys: all are
    forgotten before the first answer of each second.
    """

    __slots__ = ("_hosts", "_once", "known")

    def __init__(self, *, hosts: bool) -> None:
        """Keep whether the `Host` header means nothing (no subdomain names a tenant)."""
        self._hosts = hosts
        self.known: dict[bytes, PlainHead] = {}
        """By their bytes, the empty line included."""
        self._once: set[int] = set()
        """Hashes of heads that came once, stripped."""

    def without_varying(self, head: bytes) -> tuple[PlainHead, str | None] | None:
        """Return a head that is known but for what differs with each request, and this one's `X-Request-ID`."""
        if not _is_short(head):
            return None
        stripped, request_id = _strip(head)
        known = self.known.get(stripped)
        return None if known is None else (known, request_id)

    def is_repeated(self, head: bytes) -> bool:
        """Whether a head came before in this second, but for what varies; one that never comes again takes no place."""
        if len(self.known) >= MAX_REMEMBERED or not _is_short(head):
            return False
        stripped = hash(_strip(head)[0])
        if stripped in self._once:
            return True
        if len(self._once) >= MAX_SEEN_ONCE:
            self._once.clear()
        self._once.add(stripped)
        return False

    def learn(self, plain: PlainHead, head: bytes, length: int) -> None:
        """Remember a repeated head that the parser took for the whole head of a message with `length` bytes of body."""
        stripped, request_id = _strip(head)
        if length > MAX_BODY or request_id != plain.request_id:
            return
        plain.request_id = None
        plain.length = length
        self.known[stripped] = plain

    def forget(self) -> None:
        """Forget every head."""
        self.known.clear()
        self._once.clear()

    def read(self, path: str, raw_headers: RawHeaders) -> PlainHead | None:
        """Return what a head says, or None when it is not plain; headers as the parser gives them."""
        token: bytes | None = None
        request_id: bytes | None = None
        tenant: bytes | None = None
        min_revision = b"0"
        typed = False
        seen = 0
        for name, value in raw_headers:
            kind = _spellings.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind == _OTHER:
                continue
            # A header that is repeated is for the ordinary way to judge.
            if seen & (1 << kind):
                return None
            seen |= 1 << kind
            if kind == _AUTHORIZATION:
                if not value.startswith(b"Bearer "):
                    return None
                token = value[7:]
            elif kind == _CONTENT_TYPE:
                typed = value == b"application/json"
            elif kind == _REQUEST_ID:
                request_id = value
            elif kind == _TENANT:
                tenant = value
            elif kind == _MIN_REVISION:
                min_revision = value
            elif kind == _HOST:
                if not self._hosts:
                    return None
            else:
                return None
        if token is None or not typed or not min_revision.isdigit() or len(min_revision) > MAX_REVISION_DIGITS:
            return None
        identifier = None if request_id is None else request_id_of([request_id.decode("latin-1")])
        named = None if tenant is None else tenant.decode("latin-1")
        return PlainHead(path, token, identifier, named, int(min_revision))
