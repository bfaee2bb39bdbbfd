"""Waiting for something that no event announces: the one place in the suite that sleeps."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

_INTERVAL = 0.02
PATIENCE = float(os.environ.get("REVO_TEST_PATIENCE", "30"))
"""Seconds, on a busy machine; a mutant is given less, for it must use them up."""


async def eventually(check: Callable[[], Any | Awaitable[Any]], timeout: float = PATIENCE) -> Any:
    """Return the first true value of `check()`, which may be async; fail when there is none in `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < until, f"not within {timeout:g} s: {inspect.getsource(check).strip()}"
        await asyncio.sleep(_INTERVAL)  # noqa: TID251  (nothing tells of it)


async def pause(seconds: float) -> None:
    """Let time pass, where what is under test is that it does."""
    await asyncio.sleep(seconds)  # noqa: TID251  (the time itself is meant)


async def in_time(awaited: Awaitable[T], timeout: float) -> T:
    """What is awaited, if it comes within `timeout` seconds. Unlike `asyncio.wait_for` of Python 3.11 it loses no
    cancellation that comes together with what is awaited (python/cpython#86296).

    Raises:
        TimeoutError: it did not come.
    """
    async with asyncio.timeout(timeout):
        return await awaited
