"""Several ways to do one thing, in turns, so that what the machine does meanwhile meets all of them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from revo.bench.rig import percentile, rounded

Once = Callable[[], Awaitable[object]]


async def compare(ways: dict[str, Once], count: int, rounds: int, in_flight: int) -> dict[str, Any]:
    """Rates, ratios and quantiles of several ways to do one thing, so many times a round, in turns.

    What the first way does is what the others are compared with. A ratio is of one round, for the machine is not as
    fast in the next; the median of them counts.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for one in ways.values():
        await repeat(one, max(in_flight * 2, count // 5), in_flight)  # nobody's first tasks count
    for _ in range(rounds):
        for name, one in ways.items():
            began = time.perf_counter()
            times[name] += await repeat(one, count, in_flight)
            rates[name].append(count / (time.perf_counter() - began))
    first, *others = ways
    figures: dict[str, Any] = {name: statistics.median(found) for name, found in rates.items()}
    for name in others:
        suffix = name.removeprefix("mesh")
        ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[first], strict=True)]
        figures[f"ratio{suffix}"] = statistics.median(ratios)
    for name in ways:
        figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = percentile(times[name], 50), percentile(times[name], 99)
    return rounded(figures)


async def repeat(one: Once, count: int, in_flight: int) -> list[float]:
    """Do one thing so many times, so many of them at once; returns the seconds that each took."""
    times: list[float] = []
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            began = time.perf_counter()
            await one()
            times.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(lane())
    return times
