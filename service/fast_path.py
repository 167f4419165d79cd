"""The fast way through aiohttp for warm decisions: parse, decide and answer inside `data_received`.

One plain, complete `POST /access/v1/evaluation` or `/evaluations` on an idle connection is answered without a request
object, a task or a future. aiohttp's own parser has read it, as it reads everything, so there is no second parser to
smuggle past. Whatever is not plain (a header out of the ordinary, a fault of any kind, a name that must be looked up)
is handed, already parsed, to the ordinary way, which alone produces refusals and errors.

This leans on internals of aiohttp's `RequestHandler`; `tests/unit/test_fast_path_internals.py` fails when they change,
and the setting `KASBAH_FAST_PATH=off` turns it off.
"""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

from service.fast_answers import FastPath
from service.keys import CALLERS, DECISION_LOG, DRAINING, HTTP_SETTINGS, METRICS, NODE, SAMPLER
from service.server import DeadlineHandler

PREFIX = b"POST /access/v1/evaluation"


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
    """aiohttp's connection with the fast way in front."""

    __slots__ = ()

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
        )
        return type(cls.__name__, (cls,), {"fast_path": path, "draining": app[DRAINING], "__slots__": ()})

    def data_received(self, data: bytes) -> None:
        """Answer one plain, complete decision request on an idle connection; hand on everything else."""
        waiter = self._waiter
        if (
            not data.startswith(PREFIX)
            or waiter is None
            or waiter.done()
            or self._messages
            or self._payload_parser is not None
            or self._upgraded
            or self._force_close
            or self._close
            or self.draining.is_set()  # the ordinary way says that this connection ends
            or self._paused  # the peer does not read: the ordinary way waits until it does
        ):
            super().data_received(data)
            return
        parser: Any = self._parser
        outcome: Any
        try:
            outcome = parser.feed_data(data)
        except HttpProcessingError as error:
            outcome = error
        else:
            answer = self._answer(outcome, b"" if self.incomplete_since else data)
            if answer is not None:
                parser.message_consumed()
                self._request_count += 1
                self.incomplete_since = 0.0
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                self.transport.write(answer)  # type: ignore[union-attr]  # it has just given us data
                return
        self._parser = _Replay(parser, outcome)  # type: ignore[assignment]
        try:
            super().data_received(data)
        finally:
            self._parser = parser

    def _answer(self, outcome: Any, whole: bytes) -> bytes | None:
        messages, upgraded, tail = outcome
        if len(messages) != 1 or upgraded or tail:
            return None
        message, payload = messages[0]
        # INVARIANT: the body is only looked at, so that the ordinary way can still read it.
        if (
            payload is EMPTY_PAYLOAD
            or message.method != "POST"
            or not payload.is_eof()
            or message.should_close
            or message.chunked
            or message.compression
        ):
            return None
        chunks = payload._buffer  # noqa: SLF001  # see the module's docstring
        if len(chunks) != 1 or self._reading_paused:
            return None
        return self.fast_path.answer(message, chunks[0], whole)
