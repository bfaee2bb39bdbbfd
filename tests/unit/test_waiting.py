"""What the suite waits with."""

from __future__ import annotations

import asyncio

import pytest

from tests.eventually import in_time


async def test_whoever_is_cancelled_as_what_he_waits_for_comes_is_cancelled() -> None:
    came = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(in_time(came, 10))
    await asyncio.wait({waiting}, timeout=0)
    came.set_result("it")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
