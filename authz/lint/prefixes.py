"""Which of many prefixes a name starts with: by bisection, whatever their number and lengths."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Prefixes:
    """A fixed set of prefixes; each knows the longest and the shortest other one that it starts with itself."""

    __slots__ = ("_parents", "_roots", "_sorted")

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._sorted = sorted(set(prefixes))
        self._parents: list[int] = []
        self._roots: list[int] = []
        enclosing: list[int] = []
        for place, prefix in enumerate(self._sorted):
            while enclosing and not prefix.startswith(self._sorted[enclosing[-1]]):
                enclosing.pop()
            self._parents.append(enclosing[-1] if enclosing else -1)
            self._roots.append(enclosing[0] if enclosing else place)
            enclosing.append(place)

    def of(self, name: str) -> Iterator[str]:
        """Yield the prefixes that `name` starts with: the shortest, then the others from the longest on.

        Whatever sorts between a prefix of `name` and `name` starts with that prefix too: so all of them are among
        the predecessor of `name` and what it starts with.
        """
        place = bisect_right(self._sorted, name) - 1
        while place >= 0 and not name.startswith(self._sorted[place]):
            place = self._parents[place]
        if place < 0:
            return
        root = self._roots[place]
        yield self._sorted[root]
        while place != root:
            yield self._sorted[place]
            place = self._parents[place]
