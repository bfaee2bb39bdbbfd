"""`revo bench ask` and `revo bench submit`: what needs no worker, against nats-py's own calls."""

from __future__ import annotations

import statistics
import time
from contextlib import AsyncExitStack
from typing import Any

from bus.errors import BusError
from bus.mesh import Mesh
from revo.bench.compare import compare
from revo.bench.echo import ECHO, IN_FLIGHT, TEXT, Text
from revo.bench.plain import plain
from revo.bench.rig import machine, rig, rounded
from revo.cli.common import DONE, Output, console, print_json, run_async


def ask(count: int, rounds: int, *, output: Output) -> int:
    """Measure typed request and reply and print; returns the exit status."""
    figures = run_async(_asks(count, rounds), "asking")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    line = f"ask: {figures['mesh']:,.0f} a second, {figures['ratio']:.2f} of plain ({figures['plain']:,.0f})"
    console().print(f"{line}; p50 {figures['mesh_p50_ms']:.2f} ms, p99 {figures['mesh_p99_ms']:.2f} ms")
    console().print(f"{IN_FLIGHT} in flight, {len(TEXT):,} bytes, validated by its model on both sides")
    return DONE


async def _asks(count: int, rounds: int) -> dict[str, Any]:
    async with rig() as here, AsyncExitStack() as stack:
        await here.start("echo", ECHO)
        reference = await stack.enter_async_context(plain(await here.unguarded()))
        mesh = await here.mesh()
        message = Text(text=TEXT)

        async def one() -> None:
            Text.model_validate(await mesh.ask("echo", "echo", message))

        figures = await compare({"plain": reference.ask, "mesh": one}, count, rounds, IN_FLIGHT)
    return {"in_flight": IN_FLIGHT, **figures, "rounds": rounds, **machine()}


def submit(count: int, rounds: int, *, output: Output) -> int:
    """Measure how fast tasks are stored and print; returns the exit status."""
    figures = run_async(_submits(count, rounds), "submitting")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    line = f"submit_many: {figures['mesh']:,.0f} a second, {figures['ratio']:.2f} of plain publish_async"
    console().print(f"{line} ({figures['plain']:,.0f})")
    return DONE


async def _submits(count: int, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"plain": [], "mesh": []}
    async with rig() as here, AsyncExitStack() as stack:
        reference = await stack.enter_async_context(plain(await here.unguarded()))
        mesh = await here.mesh()
        for _ in range(rounds + 1):
            rates["plain"].append(count / await reference.publish_async(count))
            rates["mesh"].append(count / await submit_many(mesh, count))
    ratios = [ours / theirs for ours, theirs in zip(rates["mesh"][1:], rates["plain"][1:], strict=True)]
    figures = {name: statistics.median(found[1:]) for name, found in rates.items()}  # nobody's first round counts
    return rounded({**figures, "ratio": statistics.median(ratios), "rounds": rounds, **machine()})


async def submit_many(mesh: Mesh, count: int, *, capability: str = "stored", priority: str = "normal") -> float:
    """Store so many tasks; returns the seconds that it took.

    Raises:
        BusError: the first of those that was not stored.
    """
    message = Text(text=TEXT)
    began = time.perf_counter()
    for end in await mesh.submit_many(capability, (message for _ in range(count)), priority=priority):
        if isinstance(end, BusError):
            raise end
    return time.perf_counter() - began
