"""Whatever changes a tracked dictionary is counted."""

import pytest

from authz.tracked import Changes, Tracked

MUTATORS = {name for name in dir(dict) if name in {"__setitem__", "__delitem__", "__ior__"} or not name.startswith("_")}
READERS = {"copy", "fromkeys", "get", "items", "keys", "values"}


def test_every_way_to_change_a_dictionary_is_overridden():
    """None is inherited, also not one that a newer Python brings."""
    assert set(vars(Tracked)) >= MUTATORS - READERS


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.__setitem__("b", 2),
        lambda d: d.__delitem__("a"),
        lambda d: d.__ior__({"b": 2}),
        lambda d: d.clear(),
        lambda d: d.pop("a"),
        lambda d: d.pop("z", None),
        lambda d: d.popitem(),
        lambda d: d.setdefault("b", 2),
        lambda d: d.update(b=2),
    ],
)
def test_each_change_counts_and_is_made(change):
    """As with a plain dictionary, and one more."""
    changes = Changes()
    tracked, plain = Tracked(changes), {"a": 1}
    tracked["a"] = 1
    before = changes.count
    assert change(tracked) == change(plain)
    assert tracked == plain
    assert changes.count == before + 1
