r"""The one JSON parser: strict where parsers differ, so that nothing can be smuggled between them.

msgspec is strict about syntax, NaN, UTF-8, surrogates and trailing data, but keeps the last of two equal keys. The
check for those costs a fraction of the parse: encode the parsed value again and count colons. Every member has exactly
one structural colon, and colons inside strings survive the round trip, so the counts are equal exactly when no member
was dropped. Only a colon written as `\u003a` would shift the count; those are counted too.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from service.choices import choices_at
from service.edge_errors import InvalidRequestError

MAX_DEPTH = 64
"""Levels of nesting, the top included."""

_T = TypeVar("_T")
_any_decoder = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_ESCAPED_COLON = re.compile(rb"(?<!\\)(?:\\\\)*\\u003[aA]")
_PATH_PART = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value ")
_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "datetime": "time"}
_TYPE_NAME = re.compile(f"((?:[Ee]xpected|got) )`({'|'.join(_JSON_TYPES)})`")
_REASON = re.compile(r"\AJSON is malformed: (.*)\Z")
_CONTAINERS = (dict, list)
_WHERE = re.compile(r" - at `(?:key in )?(\$[^`]*)`\Z")


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        InvalidRequestError: empty, malformed, not UTF-8, NaN or an infinite number, data after the value, a repeated
            member name at any depth (with its pointer), or more than 64 levels.
    """
    try:
        value = _any_decoder.decode(body)
        again = _encode(value)
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError) as error:
        raise _malformed(body, error) from None
    if colons(body) != again.count(b":"):
        raise duplicate_of(body)
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        check_depth(value)
    return value


def parse_typed(
    body: bytes,
    decoder: msgspec.json.Decoder[_T],
    encoder: msgspec.json.Encoder,
    free_values: Callable[[_T], Iterable[Any]] | None = None,
) -> _T:
    """Return the Struct that `decoder` makes of a JSON text, under the same rules as `parse_json`.

    The Struct must encode to exactly the members that were given (`omit_defaults`, or `UNSET` defaults). Members that
    it does not know make the counts differ; the text is then parsed again as a whole to tell them from repeated ones.

    Args:
        body: UTF-8 JSON.
        decoder: Of the Struct.
        encoder: msgspec's, with default settings.
        free_values: Yields the values that the Struct leaves unshaped, whose depth is then all there is to check;
            without it a body of many objects is parsed twice.

    Raises:
        InvalidRequestError: as `parse_json`, and for a value of the wrong type or a missing member, with its pointer.
    """
    try:
        value = decoder.decode(body)
        again = encoder.encode(value)
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError) as error:
        parse_json(body)  # what is no JSON at all, or repeats a member, is said first
        raise invalid_shape(error, decoder.type) from None
    if colons(body) != again.count(b":"):
        parse_json(body)
    elif body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        if free_values is None:
            parse_json(body)
        else:
            for free in free_values(value):
                check_depth(free, MAX_DEPTH - 4)
    return value


def colons(body: bytes) -> int:
    r"""Return how many colons a JSON text holds, those written as `\u003a` included."""
    count = body.count(b":")
    if b"\\u003" in body:
        count += sum(1 for _ in _ESCAPED_COLON.finditer(body))  # one by one: other threads run in between
    return count


def check_depth(value: Any, levels: int = MAX_DEPTH) -> None:
    """Refuse a value nested deeper than `levels`."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return
    raise InvalidRequestError(f"the body is nested deeper than {MAX_DEPTH} levels")


def invalid_shape(error: Exception, shape: Any = None) -> InvalidRequestError:
    """Return msgspec's complaint as a problem with a JSON pointer; `shape` tells what may stand there."""
    text = str(error)
    where = _WHERE.search(text)
    pointer = "" if where is None else pointer_of(where.group(1))
    missing = _MISSING_FIELD.search(text)
    if missing is not None:
        return InvalidRequestError(f"`{missing.group(1)}` is missing", f"{pointer}/{escape_token(missing.group(1))}")
    unknown = _UNKNOWN_FIELD.search(text)
    if unknown is not None:
        name = unknown.group(1)
        return InvalidRequestError(f"`{name}` is not known here", f"{pointer}/{escape_token(name)}")
    detail = text if where is None else text[: where.start()]
    choices = choices_at(shape, where.group(1)) if where is not None and _NO_CHOICE.match(text) is not None else ()
    if choices:
        named = [token for token in pointer.split("/") if token and not token.isdecimal()]
        return InvalidRequestError(f"`{named[-1] if named else 'it'}` is one of {', '.join(choices)}", pointer)
    detail = _TYPE_NAME.sub(lambda found: f"{found.group(1)}`{_JSON_TYPES[found.group(2)]}`", detail)
    return InvalidRequestError(detail[:1].lower() + detail[1:], pointer)


def pointer_of(path: str) -> str:
    """Return msgspec's `$.a[0].b` as the RFC 6901 pointer `/a/0/b`."""
    known, _, _ = path.partition("[...]")  # msgspec does not say which key it was
    return "".join("/" + escape_token(match.group(1) or match.group(2)) for match in _PATH_PART.finditer(known))


def escape_token(name: str) -> str:
    """Return a member name as one token of an RFC 6901 pointer."""
    return name.replace("~", "~0").replace("/", "~1")


class _Repeated:
    """Stands for an object that names a member twice."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _object_or_repeated(pairs: list[tuple[str, Any]]) -> Any:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return _Repeated(name)
        seen.add(name)
    return members


def duplicate_of(body: bytes) -> InvalidRequestError:
    """Return the problem of a body that names a member twice, with a pointer to the first such member."""
    detail = "a member name is repeated"
    try:
        value = json.loads(body, object_pairs_hook=_object_or_repeated)
    except (ValueError, RecursionError):
        return InvalidRequestError(detail)
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        pointer, node = waiting.pop()
        if isinstance(node, _Repeated):
            return InvalidRequestError(f"`{node.name}` is repeated", f"{pointer}/{escape_token(node.name)}")
        if isinstance(node, dict):
            waiting.extend((f"{pointer}/{escape_token(name)}", child) for name, child in node.items())
        elif isinstance(node, list):
            waiting.extend((f"{pointer}/{index}", child) for index, child in enumerate(node))
    return InvalidRequestError(detail)


def _malformed(body: bytes, error: Exception) -> InvalidRequestError:
    if not body.strip():
        return InvalidRequestError("the body is empty")
    if isinstance(error, RecursionError):
        return InvalidRequestError(f"the body is nested deeper than {MAX_DEPTH} levels")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequestError("the body is not UTF-8")
    if isinstance(error, msgspec.ValidationError | OverflowError):
        return InvalidRequestError("a number is out of range")
    return not_json(error)


def not_json(error: Exception) -> InvalidRequestError:
    """Return the problem of a body that is no JSON, with what msgspec says about where."""
    reason = _REASON.match(str(error))
    told = "it ends too early, or holds half of a surrogate pair" if reason is None else reason.group(1)
    return InvalidRequestError(f"the body is not JSON: {told}")
