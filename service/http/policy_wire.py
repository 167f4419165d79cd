"""Rows of a policy as JSON, both ways, and the bodies that carry many of them.

The CLI uses the same shapes, so what `plan` sends is what the service reads.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec

from authz.request import InvalidNameError, Ref, parse_ref
from authz.rules import MAX_PRIORITY, Effect, EntityKind, Owner, RoleLink, Row, Rule, Source, StoredEntity
from service.edge_errors import InvalidRequestError
from service.json_body import check_depth, colons, duplicate_of, invalid_shape, not_json

MAX_LINE = 2**31 - 1
MAX_VALUES = 4_000_000
"""Commas of one body. 64 MiB of rows have fewer; 64 MiB of tiny values would be 32 million objects for a moment."""

MAX_ROW_BYTES = 512 * 1024
"""JSON of one row: eight times the attributes that can be stored, and read in one go."""

_SLICE = 1 << 20
_LINK_KIND = re.compile(r"g[0-9]*\Z")
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Condition = Annotated[str, msgspec.Meta(min_length=1, max_length=65536)]
_Priority = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)]
_Aware = Annotated[datetime, msgspec.Meta(tz=True)]


class SourceWire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a file-owned row stands: path relative to its tenant's directory, line from 1."""

    file: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    line: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINE)]


class RuleWire(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="rule"
):
    """A `p` row. `id`, `owner` and `base` are told, and ignored when they come back."""

    subject: _Text
    resource: _Text
    action: _Text
    effect: Effect = Effect.ALLOW
    condition: _Condition | None = None
    priority: _Priority | None = None
    source: SourceWire | None = None
    id: str | None = None
    owner: Owner | None = None
    base: bool | None = None


class LinkWire(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="link"
):
    """A `g` or `g2` row; `kind` says which. `id`, `owner` and `base` are told, and ignored when they come back."""

    member: _Text
    role: _Text
    kind: str = "g"
    expires_at: _Aware | None = None
    source: SourceWire | None = None
    id: str | None = None
    owner: Owner | None = None
    base: bool | None = None


class EntityWire(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="entity"
):
    """Stored attributes of one subject or resource. `id` and `owner` are told, and ignored when they come back."""

    kind: EntityKind
    ref: _Text
    properties: dict[str, Any]
    source: SourceWire | None = None
    id: str | None = None
    owner: Owner | None = None


RowWire = RuleWire | LinkWire | EntityWire

_Body = TypeVar("_Body", bound=msgspec.Struct)
_encoder = msgspec.json.Encoder()
_members_decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_row_decoder: msgspec.json.Decoder[RowWire] = msgspec.json.Decoder(RowWire)


def to_wire(row: Row) -> RowWire:
    """Return a row with everything that is known about it."""
    source = None if row.source is None else SourceWire(row.source.file, row.source.line)
    match row:
        case Rule():
            return RuleWire(
                row.subject,
                row.resource,
                row.action,
                row.effect,
                row.condition or None,
                row.priority,
                source,
                row.id,
                row.owner,
                row.base or None,
            )
        case RoleLink():
            return LinkWire(row.member, row.role, row.kind, row.expires_at, source, row.id, row.owner, row.base or None)
        case StoredEntity():
            return EntityWire(row.kind, row.ref, dict(row.properties), source, None, row.owner)


def sent_row(row: Row) -> RowWire:
    """Return what a client sends of a row: without id and owner, which the service knows itself."""
    return msgspec.structs.replace(to_wire(row), id=None, owner=None)


def from_wire(wire: RowWire, *, owner: Owner, base: bool) -> Row:
    """Return the domain row; names are checked by the use cases.

    Raises:
        InvalidNameError: a link kind that is not `g`, `g2`, …, or an entity that is no `type:id`.
    """
    source = None if wire.source is None or owner is Owner.API else Source(wire.source.file, wire.source.line)
    match wire:
        case RuleWire():
            return Rule(
                subject=wire.subject,
                resource=wire.resource,
                action=wire.action,
                effect=wire.effect,
                condition=wire.condition,
                priority=wire.priority,
                base=base,
                owner=owner,
                source=source,
            )
        case LinkWire():
            if _LINK_KIND.match(wire.kind) is None:
                raise InvalidNameError(f"`{wire.kind}` is no kind of link: `g`, `g2`, …")
            expires_at = None if wire.expires_at is None else wire.expires_at.astimezone(UTC)
            return RoleLink(
                Ref(wire.member), Ref(wire.role), wire.kind, expires_at, base=base, owner=owner, source=source
            )
        case EntityWire():
            if base:
                raise InvalidNameError("the base has no entities of its own")
            return StoredEntity(wire.kind, parse_ref(wire.ref).ref, wire.properties, owner=owner, source=source)


def read_struct(body: bytes, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """Return a closed Struct; unknown and repeated members are refused.

    Members of type `msgspec.Raw` pass through unread: read them with `read_rows`.

    Raises:
        InvalidRequestError: not JSON of that shape, with a pointer to what is wrong.
    """
    _check_values(body)
    try:
        value = decoder.decode(body)
        members = _members_decoder.decode(body)
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError) as error:
        raise _refused(body, error, decoder.type) from None
    if colons(body) != colons(_encoder.encode(members)):
        raise duplicate_of(body)
    return value


def read_rows(
    raws: Sequence[msgspec.Raw], pointer: str, *, owner: Owner, base: bool, allowed: Iterable[type[Row]]
) -> list[Row]:
    """Return the rows of a body, read one by one, so that a large body never holds the interpreter for long.

    Args:
        raws: JSON of each row.
        pointer: Where the list stands in the body, for faults.
        owner: Who will own the rows.
        base: Whether they are rows of the base.
        allowed: Kinds of rows that may stand here.

    Raises:
        InvalidRequestError: a row of another shape or kind, or a repeated member, with a pointer.
    """
    kinds = tuple(allowed)
    rows: list[Row] = []
    for place, raw in enumerate(raws):
        text = bytes(raw)
        here = f"{pointer}/{place}"
        if len(text) > MAX_ROW_BYTES:
            raise InvalidRequestError(f"a row takes more than {MAX_ROW_BYTES} bytes", here)
        try:
            wire = _row_decoder.decode(text)
            row = from_wire(wire, owner=owner, base=base)
        except InvalidNameError as error:
            raise InvalidRequestError(str(error), here) from None
        except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError) as error:
            fault = invalid_shape(error, RowWire)
            raise InvalidRequestError(fault.detail, here + (fault.pointer or "")) from None
        if not isinstance(row, kinds):
            raise InvalidRequestError("a row of this type does not belong here", f"{here}/type")
        if isinstance(row, StoredEntity):
            check_depth(row.properties)
        if not _is_unrepeated(text, wire):
            fault = duplicate_of(text)
            raise InvalidRequestError(fault.detail, here + (fault.pointer or ""))
        rows.append(row)
    return rows


def _check_values(body: bytes) -> None:
    """SECURITY: decoding holds the interpreter, and every decision with it; so what is decoded at once is bounded."""
    values = 0
    for start in range(0, len(body), _SLICE):
        values += body.count(b",", start, start + _SLICE)
        if values > MAX_VALUES:
            raise InvalidRequestError(f"the body has more than {MAX_VALUES} values")


def _is_unrepeated(text: bytes, wire: RowWire) -> bool:
    """Whether no member of the row, at any depth, is named twice."""
    count = colons(text)
    # A time may gain colons when it is written again (`-0800`), which would make up for those of a dropped member.
    is_written_alike = not (isinstance(wire, LinkWire) and wire.expires_at is not None)
    if is_written_alike and _encoder.encode(wire).count(b":") == count:
        return True
    return _encoder.encode(msgspec.json.decode(text)).count(b":") == count  # a member only repeats its default


def _refused(body: bytes, error: Exception, shape: Any) -> InvalidRequestError:
    if not body.strip():
        return InvalidRequestError("the body is empty")
    if isinstance(error, msgspec.ValidationError):
        return invalid_shape(error, shape)
    if isinstance(error, RecursionError):
        return InvalidRequestError("the body is nested too deeply")
    return not_json(error)
