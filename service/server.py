"""The HTTP server around the application: deadlines for slow clients, problems where aiohttp would answer itself."""

import asyncio
from contextlib import suppress
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler

from service import problems
from service.answer_headers import CLOSED
from service.app import new_request_id
from service.http_settings import HttpSettings

SWEEP_SECONDS = 1.0
LINGERING_SECONDS = 2.0

AT_NEXT_SWEEP = float("-inf")
"""`incomplete_since` of what is late whenever one looks."""


class DeadlineHandler(RequestHandler):
    """aiohttp's connection, which also knows since when its peer keeps it waiting.

    aiohttp closes idle connections after the keep-alive time, whose default is an hour, and has no deadline for a head
    that trickles in, nor for an answer that is not taken. `incomplete_since` is the loop's time of the first byte of
    such a head (or of the connection), `unsent_since` of the answer's first byte that the peer does not take; 0.0 when
    there is none. `KasbahServer` closes what is late. `unfinished` is a body that has not come to its end; its request
    may be answered already.
    """

    __slots__ = ("incomplete_since", "unfinished", "unsent_since")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.incomplete_since = 0.0
        self.unsent_since = 0.0
        self.unfinished: StreamReader | None = None

    def pause_writing(self) -> None:
        """Start the clock of an answer that is not taken."""
        super().pause_writing()
        self.unsent_since = self._loop.time()

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self.unsent_since = 0.0

    @classmethod
    def bound_to(cls, app: web.Application) -> type["DeadlineHandler"]:
        """Return the class for connections to `app`, which has started."""
        del app
        return cls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: a connection that never sends anything is slow too."""
        super().connection_made(transport)
        self.incomplete_since = self._loop.time()

    def data_received(self, data: bytes) -> None:
        """Feed aiohttp's parser, and note whether a request is left half said."""
        before, of_a_body = self._request_count, self.unfinished is not None
        super().data_received(data)
        if self._messages:
            self.unfinished = self._messages[-1][1]
        if self.unfinished is not None and self.unfinished.is_eof():
            self.unfinished = None
        if self._request_count != before or self._request_in_progress or self._messages or of_a_body:
            self.incomplete_since = 0.0
        elif data and not self.incomplete_since:  # aiohttp feeds nothing to ask for what was left over
            self.incomplete_since = self._loop.time()

    def late(self) -> None:
        """End the connection of a peer that does not finish a head."""
        self.force_close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what never reached the application (a broken head, say) as a problem, and close."""
        if request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        if status >= 500 and exc is not None:  # noqa: PLR2004  # server's fault
            self.log_exception("request failed before the application", exc_info=exc)
        rendered = problems.render(problems.of_status(status))
        response = web.Response(
            status=rendered.status,
            body=rendered.body,
            content_type=problems.PROBLEM_JSON,
            headers={
                **rendered.headers,
                "X-Request-ID": new_request_id(),
                **CLOSED,
            },
        )
        response.force_close()
        return response


class KasbahServer(web.Server):
    """aiohttp's server with our connections and a sweeper for slow ones."""

    handler_class: type[DeadlineHandler] = DeadlineHandler

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return self.handler_class(self, loop=self._loop, **self._kwargs)

    def close_late(self, head_seconds: float, send_seconds: float) -> int:
        """End what is late: with a request's head, or with taking an answer; return how many connections were."""
        now = self._loop.time()
        closed = 0
        for connection, transport in list(self._connections.items()):
            handler = cast("DeadlineHandler", connection)
            if handler.unsent_since and now - handler.unsent_since > send_seconds:
                # Closing would wait for the rest to be sent.
                transport.abort()
                closed += 1
            elif handler.incomplete_since and now - handler.incomplete_since > head_seconds:
                handler.late()
                closed += 1
        return closed


class KasbahRunner(web.AppRunner):
    """Runs the application on a `KasbahServer`."""

    __slots__ = ("_handler_class", "_settings", "_sweeper")

    def __init__(
        self,
        app: web.Application,
        settings: HttpSettings,
        handler_class: type[DeadlineHandler] = DeadlineHandler,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=settings.keepalive_seconds,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,
            **kwargs,
        )
        self._settings = settings
        self._handler_class = handler_class
        self._sweeper: asyncio.Task[None] | None = None

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        server = KasbahServer(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,  # noqa: SLF001  # the version range of aiohttp is pinned
            **plain._kwargs,  # noqa: SLF001
        )
        server.handler_class = self._handler_class.bound_to(self.app)
        self._sweeper = asyncio.create_task(self._sweep(server), name="slow-connection-sweeper")
        return server

    async def _sweep(self, server: KasbahServer) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            server.close_late(self._settings.head_seconds, self._settings.send_seconds)

    async def cleanup(self) -> None:
        """Stop the sweeper, then everything else."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        await super().cleanup()
