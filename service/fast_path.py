"""The fast way through aiohttp for warm decisions: parse, decide and answer inside `data_received`.

One plain, complete `POST /access/v1/evaluation` or `/evaluations` on a connection at rest is answered without a request
object, a task or a future. Whatever is not plain (a header out of the ordinary, a fault of any kind, a name that must
be looked up) is handed to the ordinary way, which alone produces refusals and errors.

There is no second parser to smuggle past. aiohttp's own parser reads every head; what it made of a head that was known
to stand at the beginning of a message, and of a caller who is known, is remembered by the head's exact bytes, for a
second, and the same bytes at such a place are not parsed again.

This leans on internals of aiohttp's `RequestHandler`; `tests/unit/test_fast_path_internals.py` fails when they change,
and the setting `KASBAH_FAST_PATH=off` turns it off.
"""

import asyncio
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from service.answer_headers import closed_under
from service.fast_answers import PATHS, FastPath
from service.keys import CALLERS, DECISION_LOG, DRAINING, HTTP_SETTINGS, METRICS, NODE, SAMPLER
from service.server import AT_NEXT_SWEEP, DeadlineHandler

HEAD_END = b"\r\n\r\n"

LOST = -1
"""`owed` when it is not known where in a message the parser stands."""


class _Replay:
    """Stands in for the parser for one call: gives what it has already made of the bytes."""

    __slots__ = ("_outcome", "_parser")

    def __init__(self, parser: Any, outcome: Any) -> None:
        self._parser = parser
        self._outcome = outcome

    def feed_data(self, _data: bytes) -> Any:
        if isinstance(self._outcome, HttpProcessingError):
            raise self._outcome
        return self._outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class FastHandler(DeadlineHandler):
    """aiohttp's connection with the fast way in front.

    `at_rest` says that no earlier request is under way. aiohttp's own sign of it, a waiting `start`, comes a turn of
    the loop after the answer: a quick client's next request is then there already, and would go the ordinary way, and
    so would all that follow. A new connection is in the same position.

    `owed` is how many bytes of a body the parser still waits for: with 0 it stands at the beginning of a message.
    `held` is a known head with the beginning of its body, which the parser has not seen; many clients send the two
    apart. It is handed on within a second, as the ordinary way has the deadline for bodies.
    """

    __slots__ = ("at_rest", "held", "owed")

    fast_path: FastPath
    draining: asyncio.Event

    @classmethod
    def bound_to(cls, app: web.Application) -> type[DeadlineHandler]:
        """Return the class for connections to `app`: it answers from that application's parts."""
        path = FastPath(
            app[NODE],
            app[CALLERS],
            metrics=app[METRICS],
            log=app[DECISION_LOG],
            sampler=app[SAMPLER],
            base_domain=app[HTTP_SETTINGS].base_domain,
            closed=closed_under(app[HTTP_SETTINGS].public_url),
        )
        app[METRICS].add_source(lambda: {"fast_answers": path.answered})
        return type(cls.__name__, (cls,), {"fast_path": path, "draining": app[DRAINING], "__slots__": ()})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin at rest."""
        super().connection_made(transport)
        self.at_rest = True
        self.owed = 0
        self.held = b""

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Come to rest when the answer is written, the request was read to its end and the connection stays."""
        sent, broken = await super().finish_response(request, resp, start_time)
        # SECURITY: with a request in the queue, or bytes of this one's body to come, what arrives is no new request.
        self.at_rest = not (broken or self._messages) and bool(sent.keep_alive) and request._payload.is_eof()  # noqa: SLF001
        return sent, broken

    def data_received(self, data: bytes) -> None:
        """Answer one plain, complete decision request on a connection at rest; hand on everything else."""
        held = self.held
        if held:
            self.held = b""
        if (
            not self.at_rest
            or self._force_close
            or self._close
            or self._paused  # the peer does not read: the ordinary way waits until it does
            or self._reading_paused
            or self._upgraded
            or self._payload_parser is not None
            or self.draining.is_set()  # the ordinary way says that this connection ends
        ):
            self._hand_on(held, data)
            return
        if self.owed:
            self._hand_on(held, data, fast=True)
            return
        whole = held + data if held else data
        path = self.fast_path
        end = whole.find(HEAD_END) + 4
        request_id: str | None = None
        head = path.heads.known.get(whole[:end])
        if head is None:
            found = path.heads.without_varying(whole[:end])
            if found is None:
                self._hand_on(held, data, fast=True)
                return
            head, request_id = found
        missing = head.length - len(whole) + end
        if missing > 0:
            self.held = whole
            self.incomplete_since = AT_NEXT_SWEEP
            return
        answer = None if missing else path.answer(head, request_id, whole[end:])
        if answer is None:
            self._hand_on(held, data)
        else:
            self._answered(answer)

    def late(self) -> None:
        """Let the ordinary way judge a body that does not come; close what has not even a head."""
        if self.held:
            data, self.held = self.held, b""
            self.incomplete_since = 0.0
            self._parse(data)
        else:
            super().late()

    def _process_keepalive(self) -> None:
        """Close a connection at rest, which one with a request that is held is not."""
        if self.held:
            self.late()
        super()._process_keepalive()

    def _hand_on(self, held: bytes, data: bytes, *, fast: bool = False) -> None:
        """Parse what was held as if it had not been, then what came now."""
        if held:
            # Not in one piece: the parser forgets a request when there is a fault behind it in the same piece.
            self._parse(held, fast=fast)
            fast = False
        self._parse(data, fast=fast)

    def _answered(self, answer: bytes) -> None:
        self._request_count += 1
        self.incomplete_since = 0.0
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self.transport.write(answer)  # type: ignore[union-attr]  # it has just given us data

    def _parse(self, data: bytes, *, fast: bool = False) -> None:
        """Feed the parser, answer a plain request if that is `fast`, and hand on everything else as it was parsed."""
        if self._force_close or self._close or self._upgraded or self._payload_parser is not None:
            super().data_received(data)
            return
        parser: Any = self._parser
        outcome: Any
        try:
            outcome = parser.feed_data(data)
        except HttpProcessingError as error:
            outcome = error
            self.owed = LOST
        else:
            began, self.owed = self.owed, _owed_after(self.owed, data, outcome)
            if fast and self._answered_as_parsed(outcome, data if began == 0 else b""):
                parser.message_consumed()
                return
        self._parser = _Replay(parser, outcome)  # type: ignore[assignment]
        try:
            super().data_received(data)
        finally:
            self._parser = parser
        if self._messages:
            self.at_rest = False

    def _answered_as_parsed(self, outcome: Any, whole: bytes) -> bool:
        """Answer what the parser has read if it is one plain, complete request.

        Args:
            outcome: What the parser gave.
            whole: The bytes it was given, if they began a message.
        """
        messages, upgraded, tail = outcome
        if len(messages) != 1 or upgraded or tail:
            return False
        message: RawRequestMessage
        message, payload = messages[0]
        # INVARIANT: the body is only looked at, so that the ordinary way can still read it.
        if (
            payload is EMPTY_PAYLOAD
            or message.method != "POST"
            or message.path not in PATHS
            or message.version != HttpVersion11  # an older one is to be told that its connection stays
            or message.should_close
            or message.chunked
            or message.compression
        ):
            return False
        path = self.fast_path
        plain = path.heads.read(message.path, message.raw_headers)
        if plain is None:
            return False
        request_id = plain.request_id
        if whole and self.owed != LOST:
            end = whole.find(HEAD_END) + 4
            head = whole[:end]
            # Known callers alone: what others send costs no memory.
            if path.heads.is_repeated(head) and path.knows(plain):
                path.heads.learn(plain, head, len(whole) - end + self.owed)
        chunks = payload._buffer  # noqa: SLF001  # see the module's docstring
        if not payload.is_eof() or len(chunks) != 1 or self._reading_paused:
            return False
        answer = path.answer(plain, request_id, chunks[0])
        if answer is None:
            return False
        self._answered(answer)
        return True


def _owed_after(owed: int, data: bytes, outcome: Any) -> int:
    """Return how many bytes of a body the parser waits for after `data`, or `LOST`.

    Only what is certain counts: a message that begins with `data`, whose head is in it as a whole, and whose body has a
    stated length that agrees with what the parser has put into the payload; or more of such a body.
    """
    messages, upgraded, tail = outcome
    if upgraded or tail or owed == LOST:
        return LOST
    if owed or not data:  # aiohttp feeds nothing to ask whether the parser holds more messages
        return owed - len(data) if not messages and len(data) <= owed else LOST
    if len(messages) != 1:
        return LOST
    message, payload = messages[0]
    lengths = [value for name, value in message.raw_headers if name.lower() == b"content-length"]
    if message.chunked or message.upgrade or len(lengths) > 1 or not all(map(bytes.isdigit, lengths)):
        return LOST
    body = len(data) - data.find(HEAD_END) - 4
    left = sum(map(int, lengths)) - body
    # SECURITY: aiohttp makes an empty payload of the greatest length that there is; its parser waits for a body.
    return left if payload.total_bytes == body and payload.is_eof() == (left == 0) else LOST
