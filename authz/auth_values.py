"""A sign-in as somebody writes it: in a golden case, or in what a caller asserts of a subject."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from authz.auth_conditions import MEMBERS
from authz.request import ACR_VALUES, Auth

MAX_AMR = 16
_AMR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z", re.ASCII)


class InvalidAuthError(ValueError):
    """What is written is no sign-in; `member` names the part, empty for the whole."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.member = member


def read_auth(value: Any, parse_time: Callable[[str], datetime], *, asserted: bool = False) -> Auth:
    """Return the sign-in that `{acr, amr, time}` writes; what is left out is not known.

    Args:
        value: As JSON or YAML gave it.
        parse_time: Reads an RFC 3339 time, raises ValueError.
        asserted: Whether a caller says so, and not Kasbah itself.

    Raises:
        InvalidAuthError: another member, or a value that is none of its kind.
    """
    if not isinstance(value, Mapping):
        raise InvalidAuthError("not an object of `acr`, `amr` and `time`")
    for name in value:
        if name not in MEMBERS:
            raise InvalidAuthError(f"`{name}` is unknown here: there is `acr`, `amr` and `time`")
    return Auth(_acr(value.get("acr")), _amr(value.get("amr")), _time(value.get("time"), parse_time), asserted)


def _acr(value: Any) -> str | None:
    if value is not None and value not in ACR_VALUES:
        raise InvalidAuthError(f"one of {', '.join(ACR_VALUES)}", "acr")
    return value if value is None else str(value)


def _amr(value: Any) -> tuple[str, ...] | None:
    """Read names of methods (RFC 8176 section 2); more than the registered ones, for services with their own."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_AMR:
        raise InvalidAuthError(f"a list of at most {MAX_AMR} names", "amr")
    if not all(isinstance(name, str) and _AMR.match(name) for name in value):
        raise InvalidAuthError("names of methods, such as `pwd`, `otp`, `hwk`, `mfa`", "amr")
    return tuple(value)


def _time(value: Any, parse_time: Callable[[str], datetime]) -> datetime | None:
    if value is None:
        return None
    try:
        return parse_time(value if isinstance(value, str) else str(value))
    except ValueError as error:
        raise InvalidAuthError(str(error), "time") from None
