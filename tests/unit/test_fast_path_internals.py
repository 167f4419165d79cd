"""The internals of aiohttp that the fast way leans on, as they were when it was written.

When this fails, read the new code of aiohttp, see whether `service/fast_path.py` still says the truth about it, and only
then write the new digests here.
"""

import hashlib
import inspect

from aiohttp import streams, web_protocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_parser import RawRequestMessage

KNOWN = {
    "data_received": "1ee57ebe052e6c80",
    "start": "2e565fd40c8e04fb",
    "_process_keepalive": "b472e0fb8445ce42",
}


def digest(function) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def test_request_handler_still_reads_as_it_did():
    """`data_received` asks the parser once; `start` waits in `_waiter` when idle; the keep-alive timer looks at its time."""
    assert {name: digest(getattr(web_protocol.RequestHandler, name)) for name in KNOWN} == KNOWN


def test_the_c_parser_is_in_use_and_gives_whole_messages():
    """One parser, aiohttp's compiled one, with the fields that the fast way reads."""
    assert "_http_parser" in HttpRequestParser.__module__
    fields = set(RawRequestMessage._fields) if hasattr(RawRequestMessage, "_fields") else set(dir(RawRequestMessage))
    assert {"method", "path", "raw_headers", "should_close", "compression", "chunked"} <= fields
    assert hasattr(HttpRequestParser, "message_consumed")


def test_stream_reader_keeps_chunks_in_a_deque():
    """The body is looked at without being read."""
    source = inspect.getsource(streams.StreamReader.__init__)
    assert "self._buffer: collections.deque[bytes] = collections.deque()" in source
