"""An administration service on a fresh database for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from tests.support.administration import Service
from tests.support.people import PostOffice, post_office


@pytest.fixture
async def admin(own_database_url: str) -> AsyncIterator[Service]:
    """The application on a database of this test's own."""
    async with Service(own_database_url).serving() as running:
        yield running


@pytest.fixture
async def post(own_database_url: str) -> AsyncIterator[PostOffice]:
    """The application with two tenants and a mail server, on a database of this test's own."""
    async with post_office(own_database_url) as running:
        yield running
