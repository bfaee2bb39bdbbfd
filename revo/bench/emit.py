"""`revo bench emit`: how soon what a handler shows is seen, and how much of it can be shown."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any, Final

from pydantic import BaseModel

from actors.actor import Agent, TaskContext, task
from bus.following import Chunk
from bus.handle import Handle
from bus.mesh import Mesh
from revo.bench.plain import heard
from revo.bench.rig import machine, percentile, rig, rounded
from revo.cli.common import DONE, Output, console, print_json, run_async

PAUSE: Final = 0.002
"""Seconds between two chunks, about what a model takes for a token."""


class Talk(BaseModel):
    """So many chunks, with so many seconds between two."""

    chunks: int
    pause: float = PAUSE


class Talker(Agent):
    """Shows what time it is: the clock that all processes of a host share."""

    @task("talk", time_limit=600.0)
    async def talk(self, message: Talk, context: TaskContext) -> None:
        """Show so many chunks, with pauses or as fast as they are stored."""
        for _ in range(message.chunks):
            said = context.emit(time.monotonic())
            await (asyncio.sleep(message.pause) if message.pause else said)


class Shouter(Agent):
    """Shows all that it has without waiting."""

    @task("shout", time_limit=600.0)
    async def shout(self, message: Talk, context: TaskContext) -> None:
        """Show so many chunks, some hundred on their way at once."""
        for number in range(message.chunks):
            said = context.emit(number)
            if number % 200 == 0:
                await said


def emit(count: int, rounds: int, *, output: Output) -> int:
    """Measure and print; returns the exit status."""
    figures = run_async(_measure(count, rounds), "listening")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    terminal = console()
    for name in ("mesh", "plain"):
        p50, p99 = figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"]
        terminal.print(f"{name:6} emit to seen  p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")
    terminal.print(f"as fast as it goes: {figures['chunks_per_s']:,.0f} chunks a second, stored and seen")
    terminal.print("plain: publish and subscribe of nats-py, which stores nothing")
    return DONE


async def _measure(count: int, rounds: int) -> dict[str, Any]:
    mesh_times: list[float] = []
    plain_times: list[float] = []
    rates = []
    async with rig() as here:
        await here.start("talker", "revo.bench.emit:Talker")
        await here.start("shouter", "revo.bench.emit:Shouter")
        mesh, plain_url = await here.mesh(), await here.unguarded()
        for _ in range(rounds):
            mesh_times += await _times(await mesh.submit("talk", Talk(chunks=count)))
            plain_times += await heard(plain_url, count, PAUSE)
            rates.append(await _rate(mesh, 5 * count))
    figures = {
        f"{name}_p{percent}_ms": percentile(times, percent)
        for name, times in (("mesh", mesh_times), ("plain", plain_times))
        for percent in (50, 99)
    }
    return rounded({**figures, "chunks_per_s": max(rates), "chunks": count, "rounds": rounds, **machine()})


async def _times(handle: Handle) -> list[float]:
    """Seconds from each emit until it is seen."""
    async with aclosing(handle.follow()) as said:
        return [time.monotonic() - item.value async for item in said if isinstance(item, Chunk)]


async def _rate(mesh: Mesh, count: int) -> float:
    began = time.perf_counter()
    handle = await mesh.submit("shout", Talk(chunks=count))
    async with aclosing(handle.follow()) as said:
        seen = len([item async for item in said if isinstance(item, Chunk)])
    assert seen == count
    return count / (time.perf_counter() - began)
