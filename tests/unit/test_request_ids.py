"""Request ids are unique over processes."""

import os

import pytest

from service.app import new_request_id, request_id_of


def test_forked_workers_make_different_ids():
    """A worker forked after the import has a prefix of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_request_id().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert theirs
    assert theirs[:12] != new_request_id()[:12]


@pytest.mark.parametrize("given", ["a", "a b", "~" * 200, '00-4bf9-01;x="y"'])
def test_a_printable_id_is_the_callers(given):
    """One header of 1 to 200 printable ASCII characters."""
    assert request_id_of([given]) == given


@pytest.mark.parametrize(
    "given", [[], [""], ["a" * 201], ["a\tb"], ["é"], ["a\x7f"], ["a\r\nb"], ["a\n"], ["a", "a"], ["a", "b"]]
)
def test_any_other_id_is_replaced(given):
    """None of it comes back in a header or a log."""
    made = request_id_of(given)
    assert made.isalnum()
    assert made not in given
