"""What is remembered without growing: the oldest entry gives way."""

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(held: OrderedDict[K, V], name: K, value: V, limit: int) -> None:
    """Keep a value as the newest of at most `limit`."""
    held[name] = value
    held.move_to_end(name)
    if len(held) > limit:
        held.popitem(last=False)
