"""Did you mean: names one slip of the finger away, found by hashing, so that many names cost no more than few."""

from collections.abc import Iterable, Iterator

_MAX_LENGTH = 80
_MIN_ID_LENGTH = 4
"""Shorter names are a slip away from too many others."""


class Nearest:
    """Names that can be asked for by a misspelling: another case, one character more, less, other, or two swapped."""

    __slots__ = ("_variants",)

    def __init__(self, names: Iterable[str]) -> None:
        self._variants: dict[str, str] = {}
        for name in sorted(names):
            for variant in _variants(name):
                self._variants.setdefault(variant, name)

    def find(self, name: str) -> str | None:
        """Return a name that is almost `name`, other than itself."""
        for variant in _variants(name):
            found = self._variants.get(variant)
            if found is not None and found != name:
                return found
        return None


def _variants(name: str) -> Iterator[str]:
    folded = name.casefold()
    yield folded
    if len(folded.partition(":")[2]) >= _MIN_ID_LENGTH and len(folded) <= _MAX_LENGTH:
        for place in range(len(folded)):
            yield folded[:place] + folded[place + 1 :]
