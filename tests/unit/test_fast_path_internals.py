"""The internals of aiohttp that the fast way leans on, as they were when it was written.

When this fails, read the new code of aiohttp, see whether `service/fast_path.py` still says the truth about it, and only
then write the new digests here.
"""

import hashlib
import inspect
from typing import Any

import pytest
from aiohttp import base_protocol, streams, web, web_protocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

KNOWN = {
    web_protocol.RequestHandler: {
        "_handle_request": "a88a34ee65a2714c",
        "_process_keepalive": "b472e0fb8445ce42",
        "_resume_reading_if_drained": "27f2a6fbbb3a790e",
        "close": "84518f965e198ee3",
        "connection_lost": "df2fe6e95fd04c7c",
        "connection_made": "44d50b5763b2c7e4",
        "data_received": "1ee57ebe052e6c80",
        "finish_response": "b7eb53db8f4b30ca",
        "force_close": "38d0e1e798e4d3b7",
        "shutdown": "5eb4bd473db61e84",
        "start": "2e565fd40c8e04fb",
    },
    base_protocol.BaseProtocol: {
        "_pause_reading_for_buffer": "8a07d84ad8d45025",
        "_resume_reading_for_buffer": "61aa4b49c6e1a288",
        "pause_reading": "c35fb392028cd397",
        "pause_writing": "e727e6c57a46116e",
        "resume_reading": "21dee847a31af724",
        "resume_writing": "7db135e0841e0425",
    },
    streams.StreamReader: {
        "feed_data": "7548cdda3ea70bf8",
        "feed_eof": "01592f4473c176b3",
        "is_eof": "7642721fe2f71e63",
    },
}

ATTRIBUTES = {
    *("_close", "_force_close", "_keepalive_timeout", "_messages", "_next_keepalive_close_time", "_payload_parser"),
    *("_loop", "_parser", "_paused", "_reading_paused", "_request_count", "_request_in_progress", "_upgraded"),
    "transport",
}

REQUEST = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5"


def digest(function: Any) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


@pytest.mark.parametrize("owner", KNOWN, ids=lambda owner: owner.__name__)
def test_aiohttp_still_reads_as_it_did(owner):
    """What each of these does is what `service/fast_path.py` and `service/server.py` build upon.

    `data_received` asks the parser once, and is called with nothing when a reader or `start` has room again. `start` waits
    in `_waiter` when idle, takes requests from `_messages`, and reads a body to its end behind an answer.
    `finish_response` comes back when the answer is written, and hands the tail of an upgrade to the parser by itself.
    The keep-alive timer looks at its time. A payload counts what it was fed, and is at its end when the parser is.
    """
    assert {name: digest(getattr(owner, name)) for name in KNOWN[owner]} == KNOWN[owner]


def test_a_connection_has_the_attributes_that_are_read():
    """They are slots: one that is gone would be one that is never set."""
    slots = {*web_protocol.RequestHandler.__slots__, *base_protocol.BaseProtocol.__slots__}
    assert slots >= ATTRIBUTES
    assert isinstance(web.StreamResponse.keep_alive, property)
    assert "_payload" in inspect.getsource(web.BaseRequest.__init__)
    assert EMPTY_PAYLOAD.total_bytes == 0
    assert EMPTY_PAYLOAD.is_eof()


def test_the_c_parser_is_in_use_and_gives_whole_messages():
    """One parser, aiohttp's compiled one, with the fields that the fast way reads."""
    assert "_http_parser" in HttpRequestParser.__module__
    fields = set(RawRequestMessage._fields) if hasattr(RawRequestMessage, "_fields") else set(dir(RawRequestMessage))
    assert {"method", "path", "version", "raw_headers", "should_close", "compression", "upgrade", "chunked"} <= fields
    assert hasattr(HttpRequestParser, "message_consumed")


def test_stream_reader_keeps_chunks_in_a_deque():
    """The body is looked at without being read."""
    source = inspect.getsource(streams.StreamReader.__init__)
    assert "self._buffer: collections.deque[bytes] = collections.deque()" in source


async def parsed(*pieces: bytes) -> Any:
    """Return what a parser gives for the last of several pieces."""
    runner = web.ServerRunner(web.Server(lambda _: web.Response()))
    await runner.setup()
    assert runner.server is not None
    handler = runner.server()
    for piece in pieces:
        outcome = handler._parser.feed_data(piece)
    await runner.cleanup()
    return outcome


async def test_the_parser_gives_messages_whether_it_is_upgraded_and_a_tail():
    """A head is a message before its body is there; the payload counts the body."""
    ((message, payload),), upgraded, tail = await parsed(REQUEST + b"\r\n\r\nabc")
    assert (message.path, upgraded, tail) == ("/x", False, b"")
    assert (payload.total_bytes, payload.is_eof()) == (3, False)
    assert await parsed(REQUEST + b"\r\n\r\nabc", b"de") == ((), False, b"")
    for other in (b"Upgrade: other\r\nConnection: upgrade", b"A: b"):
        ((message, payload),), upgraded, tail = await parsed(REQUEST + b"\r\n" + other + b"\r\n\r\nabcde")
        assert (message.upgrade, upgraded, tail, payload.is_eof()) == (b"Upgrade" in other, False, b"", True)


@pytest.mark.parametrize(
    "end", [b"\n\n", b"\r\n\n", b"\n\r\n", b"\r\r\n", b"\r\r", b"\r\n \r\n\r\n", b"\r\n\x00\r\n\r\n", b"\n\r\n\r\n"]
)
async def test_a_head_ends_with_two_whole_line_ends_and_is_never_folded(end):
    """Otherwise a head would end elsewhere than where the fast way finds its end."""
    with pytest.raises(BadHttpMessage):
        await parsed(REQUEST + end + b"abcde\r\n\r\n")


async def test_the_greatest_length_makes_an_empty_payload_and_a_body():
    """The one case in which a payload at its end says nothing about where the parser stands."""
    head = REQUEST.replace(b": 5", b": 18446744073709551615") + b"\r\n\r\n"
    ((_, payload),), _, _ = await parsed(head)
    assert payload is EMPTY_PAYLOAD
    assert await parsed(head, REQUEST + b"\r\n\r\nabcde") == ((), False, b"")
