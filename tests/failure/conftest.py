"""A whole installation for the tests of a module, mended between them."""

from collections.abc import Iterator

import pytest

from tests.support.installation import Installation, Tenant, running_installation


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Two nodes on a PostgreSQL and a Valkey of this module's own."""
    with running_installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


@pytest.fixture
def installation(running: Installation) -> Iterator[Installation]:
    """The module's installation, whole before and after the test: nodes are not restarted, they heal."""
    yield running
    running.mend()


@pytest.fixture
def tenant(installation: Installation) -> Tenant:
    """A tenant of this test alone, held by both nodes."""
    made = installation.new_tenant()
    installation.warm(made)
    return made
