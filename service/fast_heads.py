"""Plain heads of decision requests: which headers matter to a decision, and what each said the last time."""

from service.app import request_id_of

MAX_REVISION_DIGITS = 18
MAX_REMEMBERED = 512

_AUTHORIZATION, _CONTENT_TYPE, _REQUEST_ID, _TENANT, _MIN_REVISION, _HOST, _NOT_PLAIN = range(7)
_HEADERS = {
    b"authorization": _AUTHORIZATION,
    b"content-type": _CONTENT_TYPE,
    b"x-request-id": _REQUEST_ID,
    b"x-tenant-id": _TENANT,
    b"kasbah-min-revision": _MIN_REVISION,
    b"host": _HOST,
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


def _kind_of(name: bytes) -> int:
    kind = _HEADERS.get(name.lower(), _OTHER)
    if len(_spellings) < _MAX_SPELLINGS:
        _spellings[name] = kind
    return kind


RawHeaders = tuple[tuple[bytes, bytes], ...]

Plain = tuple[bytes, str | None, str | None, int, int]
"""Token, given request id, named tenant, demanded revision, number of headers; a tuple, for speed."""


class PlainHeads:
    """Reads heads that aiohttp's parser has parsed, and remembers them for a while.

    A client that keeps its connection sends the same head again and again. What was read from a head holds for the same
    bytes, since one parser read them. Heads hold keys: `forget` is called at least once a second.
    """

    __slots__ = ("_hosts", "_remembered")

    def __init__(self, *, hosts: bool) -> None:
        """Keep whether the `Host` header means nothing (no subdomain names a tenant)."""
        self._hosts = hosts
        self._remembered: dict[bytes, Plain] = {}

    def read(self, raw_headers: RawHeaders, whole: bytes = b"") -> Plain | None:
        """Return what a head says, or None when it is not plain.

        Args:
            raw_headers: As the parser gives them.
            whole: The bytes of the request from its first on, if all of them are known.
        """
        head = whole[: whole.find(b"\r\n\r\n")]
        plain = self._remembered.get(head)
        # SECURITY: behind the beginning of a head that came before, the same bytes mean another: one header more.
        if plain is not None and plain[4] == len(raw_headers):
            return plain
        plain = self._plain(raw_headers)
        if plain is not None and head and plain[1] is None and len(self._remembered) < MAX_REMEMBERED:
            self._remembered[head] = plain
        return plain

    def forget(self) -> None:
        """Forget every head."""
        self._remembered.clear()

    def _plain(self, raw_headers: RawHeaders) -> Plain | None:
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
        return token, identifier, named, int(min_revision), len(raw_headers)
