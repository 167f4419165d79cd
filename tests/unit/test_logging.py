"""Logs are JSON, one event a line, whatever a name holds."""

import io
import json
import logging

import pytest
import structlog

from service.logging import configure_logging, render_line

HOSTILE = [
    "line\nbreak",
    "carriage\rreturn",
    'both\r\n{"event":"forged"}',
    "escape \x1b[2J\x1b]0;title\x07",
    "c1 \x9b31m \x85",
    "separators \u2028 \u2029",
    "right to left \u202e\u2066",
    "delete \x7f null \x00",
    "lone \udcff surrogate",
    "emoji 😀",
]


@pytest.fixture
def lines():
    """What is logged from here on; the configuration of before comes back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("INFO", stream)
    yield lambda: stream.getvalue().split("\n")
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_pycasbin_prints_no_policy(lines):
    """Neither a whole policy nor a denied request, though its loggers would."""
    for name in ("casbin", "casbin.policy", "casbin.enforcer", "casbin.role"):
        logging.getLogger(name).info("p, user:alice, record:secret, read")
        logging.getLogger(name).warning("Request: user:alice, record:secret, read ---> False")
    assert lines() == [""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_on_one_line_of_printable_ascii(lines, name):
    """As a value, as a key, in an exception, and from the standard library's loggers."""
    structlog.get_logger().info("test.event", name=name, nested={name: [name]})
    try:
        int(f"not a number: {name}")
    except ValueError:
        structlog.get_logger().exception("test.failed")
    logging.getLogger("library").warning("said %s", name)
    written = lines()
    assert written.pop() == ""
    assert len(written) == 3
    for line in written:
        assert line.isascii()
        assert line.isprintable()
    events = [json.loads(line) for line in written]
    assert events[0]["name"] == name
    assert "ValueError" in events[1]["exception"]
    assert events[2]["event"] == f"said {name}"


def test_an_event_carries_time_level_and_what_was_bound(lines):
    """Request, tenant and caller are bound once."""
    structlog.contextvars.bind_contextvars(request_id="r1", tenant="t1")
    structlog.get_logger().warning("area.what.happened", count=1)
    event = json.loads(lines()[0])
    assert (
        event.items()
        >= {"event": "area.what.happened", "level": "warning", "request_id": "r1", "tenant": "t1", "count": 1}.items()
    )
    assert event["timestamp"].endswith("Z")


def test_below_the_level_nothing_is_written(lines):
    """Debug lines cost nothing in production."""
    structlog.get_logger().debug("test.event")
    logging.getLogger("aiohttp.access").info("access")
    assert lines() == [""]


def test_what_is_no_json_is_shown_by_its_form():
    """An event is never lost for its values."""
    assert "object" in render_line(None, "", {"event": "x", "value": object()})
