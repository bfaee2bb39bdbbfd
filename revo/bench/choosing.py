"""`revo bench choosing`: a client that chooses among many instances, which renew their leases meanwhile."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

from actors.meshfile import REGISTRY
from actors.registry.messages import Registration
from actors.registry.registrar import Registrar
from bus import subjects, topology
from bus.choosing import STRATEGIES
from bus.connection import Connection, Message
from bus.view import View
from revo.bench.registry import CONNECTIONS, let_in
from revo.bench.rig import machine, percentile, rig, rounded
from revo.cli.common import DONE, Output, console, print_json, run_async

AGENT: Final = "worker"
AT_ONCE: Final = 100
"""Choices between two turns of the loop, in which renewals come in."""


def choosing(instances: int, choices: int, *, output: Output) -> int:
    """Measure and print; returns the exit status."""
    figures = run_async(_measure(instances, choices), "registering, then choosing")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    terminal = console()
    terminal.print(f"choosing one of {figures['known']} instances, microseconds; every sticky key is a new one")
    for name in STRATEGIES:
        found = figures["strategies"][name]
        terminal.print(f"{name:15} p50 {found['p50_us']:6.2f}   p99 {found['p99_us']:6.2f}")
    renewals = figures["renewals_per_s"]
    terminal.print(f"a renewal takes {figures['renewal_us']:.1f} us; {renewals:.0f} came in a second")
    return DONE


async def _measure(instances: int, choices: int) -> dict[str, Any]:
    async with rig() as here, AsyncExitStack() as stack:
        settings = here.settings.model_copy(update={"trace_sample": 0.0})
        await here.start(subjects.REGISTRY, REGISTRY)
        connections = [
            await stack.enter_async_context(
                await Connection.open(here.server.url, name=f"bench-{n}", settings=settings)
            )
            for n in range(CONNECTIONS)
        ]
        await topology.apply(connections[0])
        registrars = [Registrar(connections[n % CONNECTIONS], _registration(n), _say) for n in range(instances)]
        await let_in(registrars)
        keeping = [asyncio.create_task(registrar.keep()) for registrar in registrars]
        try:
            return await _choose(connections[0], instances, choices)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)


async def _choose(connection: Connection, instances: int, choices: int) -> dict[str, Any]:
    heard: list[Message] = []
    first = asyncio.Event()

    def hear(message: Message) -> None:
        heard.append(message)
        first.set()

    await connection.subscribe(subjects.lease_news(AGENT), hear)
    view = View(connection, AGENT)
    await view.open()
    began = time.perf_counter()
    found = {}
    for name in STRATEGIES:
        times = [one async for one in _times(view, name, choices)]
        found[name] = rounded({"p50_us": percentile(times, 50) * 1e3, "p99_us": percentile(times, 99) * 1e3})
    await first.wait()
    rate = len(heard) / (time.perf_counter() - began)
    renewal = _renewal(view, heard[-1])
    figures = {"instances": instances, "known": len(view.known), "renewals_per_s": rate, "renewal_us": renewal}
    return {**rounded(figures), "strategies": found, **machine()}


async def _times(view: View, strategy: str, choices: int) -> AsyncIterator[float]:
    """Seconds of each choice, and of what its ask changes."""
    dice = random.Random(1)  # noqa: S311
    for number in range(choices):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0.01)
        key, chance = f"key {number}", dice.random()
        began = time.perf_counter()
        one = view.choose("echo", strategy, key, now=time.monotonic(), chance=chance)
        assert one is not None
        yield time.perf_counter() - began
        asked = view.began(one)
        view.ended(one, asked, "echo", 0.001, good=True, now=time.monotonic())


def _renewal(view: View, message: Message) -> float:
    """Microseconds that the view takes for a renewal."""
    times = []
    for _ in range(200):
        began = time.perf_counter()
        view._on_news(message)  # noqa: SLF001  (what the connection calls)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _registration(number: int) -> Registration:
    return Registration(
        agent=AGENT, instance=f"{AGENT}-{number:05}", secret=f"secret of number {number}", host="bench", concurrency=8
    )


def _say() -> dict[str, Any]:
    """What an instance says of itself, each time something else."""
    health = {
        "cpu": random.random(),  # noqa: S311
        "memory": 50_000_000,
        "lag": 0.001,
        "error_rate": 0.01,
        "requests": {"echo": random.random() / 100},  # noqa: S311
    }
    return {"running": random.randrange(8), "waiting": 0, "health": health}  # noqa: S311
