"""What may stand where a body has a value that is none of a closed list: msgspec says where, and not what."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.([^.\[\]`]+)|\[(?:\d+|\.\.\.)\]")


def choices_at(shape: Any, path: str) -> tuple[str, ...]:
    """Return the texts that may stand somewhere in a body; nothing where there is no closed list of them.

    Args:
        shape: The type that the body was to have.
        path: Where, as msgspec writes it: `$.options.kind`.
    """
    here: list[inspect.Type] = [*_each(inspect.type_info(shape))]
    for step in _STEP.finditer(path):
        here = [found for one in here for below in _below(one, step.group(1)) for found in _each(below)]
    return tuple(dict.fromkeys(value for one in here for value in _values(one) if isinstance(value, str)))


def _each(one: inspect.Type) -> Iterator[inspect.Type]:
    match one:
        case inspect.UnionType(types=types):
            for each in types:
                yield from _each(each)
        case inspect.Metadata(type=inner):
            yield from _each(inner)
        case _:
            yield one


def _below(one: inspect.Type, member: str | None) -> Iterable[inspect.Type]:
    """Return what stands in a member, or in the items where no member is named."""
    match one:
        case inspect.StructType(fields=fields) if member is not None:
            tag = [inspect.LiteralType((one.tag,))] if member == one.tag_field else []
            return [*tag, *(field.type for field in fields if field.encode_name == member)]
        case inspect.DictType(value_type=values):
            return [values]
        case inspect.ListType(item_type=items) | inspect.VarTupleType(item_type=items) if member is None:
            return [items]
        case _:
            return []


def _values(one: inspect.Type) -> Iterable[Any]:
    match one:
        case inspect.EnumType(cls=kind):
            return [each.value for each in kind]
        case inspect.LiteralType(values=values):
            return values
        case _:
            return []
