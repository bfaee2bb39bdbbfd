"""Waiting for something that no event announces: the one place in the suite that sleeps."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

_INTERVAL = 0.02


async def eventually(check: Callable[[], Any | Awaitable[Any]], timeout: float = 30.0) -> Any:
    """Return the first true value of `check()`, which may be async; fail when there is none in `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < until, f"not within {timeout:g} s: {inspect.getsource(check).strip()}"
        await asyncio.sleep(_INTERVAL)  # noqa: TID251  (the one exemption)
