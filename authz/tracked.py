"""Dictionaries that count their changes, so that what was derived from them is known to hold still."""

from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Changes:
    """How often something changed; may be shared by several dictionaries."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tracked(dict[K, V]):
    """A dictionary that adds to `changes` with whatever is done to it, also with what turns out to change nothing."""

    __slots__ = ("changes",)

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.changes = changes

    def __setitem__(self, key: K, value: V) -> None:
        self.changes.count += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        self.changes.count += 1
        super().__delitem__(key)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # `dict` overloads it
        self.changes.count += 1
        return super().__ior__(other)

    def clear(self) -> None:
        """Remove everything."""
        self.changes.count += 1
        super().clear()

    def pop(self, *arguments: Any) -> Any:
        """Remove one."""
        self.changes.count += 1
        return super().pop(*arguments)

    def popitem(self) -> tuple[K, V]:
        """Remove the last."""
        self.changes.count += 1
        return super().popitem()

    def setdefault(self, *arguments: Any) -> Any:
        """Add one if it is not there."""
        self.changes.count += 1
        return super().setdefault(*arguments)

    def update(self, *arguments: Any, **more: Any) -> None:
        """Add many."""
        self.changes.count += 1
        super().update(*arguments, **more)
