"""Structured logs: one JSON object a line on standard error, whatever a name in it contains.

Events are `area.what.happened`; request, tenant and key ids are bound once per request. Never tokens, codes, secrets
or bodies.
"""

import json
import logging
import sys
from functools import partial
from typing import Any, TextIO

import structlog

QUIET_LOGGERS = ("aiohttp.access", "casbin")
"""SECURITY: PyCasbin prints whole policies and every denied request."""


def configure_logging(level: str = "INFO", stream: TextIO | None = None, process: str | None = None) -> None:
    """Send structlog's and the standard library's records to `stream` as JSON lines.

    Args:
        level: Name of the lowest level that is written.
        stream: Standard error when None.
        process: What this process is called in each of its records.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if process is not None:
        shared.append(partial(_name_process, process))
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            render_line,
        ],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )


def _name_process(
    process: str, _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event["process"] = process
    return event


def render_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    """Return one event as one line of printable ASCII.

    SECURITY: every control character and everything beyond ASCII is escaped, so that a name can neither start a new
    line nor move a terminal's cursor or reverse its text.
    """
    return json.dumps(event, default=repr, ensure_ascii=True).replace("\x7f", "\\u007f")
