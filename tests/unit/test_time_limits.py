"""What one request may wait for altogether."""

import asyncio
from typing import Any

import pytest

from authz.errors import StorageUnavailableError
from service.time_limits import answered_in_time, on_the_callers_time


async def waits(request: Any, seconds: float, *each: float, body: float = 0.0) -> None:
    """Wait several times within one limit."""
    async with answered_in_time(request, seconds):
        with on_the_callers_time(request):
            await asyncio.sleep(body)
        for one in each:
            await asyncio.sleep(one)


async def test_several_waits_together_are_bounded():
    """Each is short enough alone; the sum is not, and what waits is cancelled."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(StorageUnavailableError):
        await waits({}, 0.15, *[0.06] * 10)
    assert asyncio.get_running_loop().time() - began < 0.3


async def test_a_slow_body_is_on_the_callers_time():
    """It neither uses the limit up nor lifts it."""
    await waits({}, 0.1, 0.01, body=0.2)
    with pytest.raises(StorageUnavailableError):
        await waits({}, 0.1, 0.2, body=0.01)


async def test_without_a_limit_nothing_is_bounded():
    """Writes are not broken off."""
    request: Any = {}
    async with answered_in_time(request, None):
        with on_the_callers_time(request):
            await asyncio.sleep(0.01)
    with on_the_callers_time({}):  # type: ignore[arg-type]
        await asyncio.sleep(0)


async def test_other_timeouts_pass_through():
    """Only our own limit means that storage was too slow."""
    request: Any = {}
    with pytest.raises(TimeoutError):
        async with answered_in_time(request, 5):
            raise TimeoutError
    with pytest.raises(asyncio.CancelledError):
        async with answered_in_time(request, 5):
            raise asyncio.CancelledError
