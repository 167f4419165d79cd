"""Places for heavy requests: bounded in all and for each tenant; what they do to the rest of the process."""

import contextlib
import gc
from uuid import uuid4

import pytest

from service.edge_errors import OverloadedError
from service.http.admin import Work
from tenancy.ids import TenantId

ACME, BETA, GAMMA = TenantId(uuid4()), TenantId(uuid4()), TenantId(uuid4())


async def test_one_tenant_cannot_take_all_places():
    """Half of them at most; what is given back can be taken again."""
    work = Work(4)
    async with contextlib.AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(work.place(ACME))
        with pytest.raises(OverloadedError):
            await held.enter_async_context(work.place(ACME))
        for _ in range(2):
            await held.enter_async_context(work.place(BETA))
        with pytest.raises(OverloadedError):
            await held.enter_async_context(work.place(GAMMA))
    async with work.place(ACME), work.place(GAMMA):
        pass
    work.close()


async def test_the_collector_works_while_bodies_are_awaited():
    """It rests only while rows are held, however requests overlap."""
    work = Work(4)
    async with work.place(ACME):
        assert gc.isenabled()
        with work.many_rows():
            with work.many_rows():
                assert not gc.isenabled()
            assert not gc.isenabled()
        assert gc.isenabled()
    work.close()
