"""Request ids are unique over processes."""

import os

from service.app import new_request_id


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
