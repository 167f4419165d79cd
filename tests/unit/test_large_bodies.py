"""Bodies of administration that are large on purpose: refused before they hold the interpreter, and others with it."""

from time import thread_time

import msgspec
import pytest

from authz.rules import Owner, Rule, StoredEntity
from service.edge_errors import InvalidRequestError
from service.http.admin_policy import PlanBody
from service.http.policy_wire import read_rows, read_struct

_decoder = msgspec.json.Decoder(PlanBody)


@pytest.mark.parametrize("value", [b"1", b"{}", b'""'])
def test_millions_of_tiny_rows_are_refused_before_they_are_decoded(value):
    """Each would be an object: 64 MiB of them take gigabytes, and seconds in one call that nothing can interrupt."""
    body = b'{"rows":[' + (value + b",") * 5_000_000 + value + b"]}"
    started = thread_time()
    with pytest.raises(InvalidRequestError, match="values"):
        read_struct(body, _decoder)
    assert thread_time() - started < 0.5


def test_one_enormous_row_is_refused_before_it_is_decoded():
    """Attributes have a bound when stored; reading far more than that must not begin."""
    row = b'{"type":"entity","kind":"subject","ref":"user:a","properties":{"a":[' + b"1," * 1_500_000 + b"1]}}"
    body = read_struct(b'{"rows":[' + row + b"]}", _decoder)
    started = thread_time()
    with pytest.raises(InvalidRequestError, match="bytes") as refused:
        read_rows(body.rows, "/rows", owner=Owner.FILES, base=False, allowed=(StoredEntity,))
    assert thread_time() - started < 0.05
    assert refused.value.pointer == "/rows/0"


def test_a_hundred_thousand_rows_are_read():
    """What real policies need is far below the bounds."""
    row = b'{"type":"rule","subject":"role:a","resource":"record:/reports/*","action":"read"}'
    body = read_struct(b'{"rows":[' + b",".join([row] * 100_000) + b"]}", _decoder)
    rows = read_rows(body.rows, "/rows", owner=Owner.API, base=False, allowed=(Rule,))
    assert len(rows) == 100_000
