"""`revo bench scale`, `priorities` and `backlog`: how queues that are full are worked off."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Coroutine
from typing import Any, Final

from bus import subjects, topology
from bus.connection import Connection
from bus.errors import BusError
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.pull import Puller, Source
from bus.wire import Message
from revo.bench.asks import submit_many
from revo.bench.echo import BURNER, ECHO, Burn
from revo.bench.plain import drained
from revo.bench.rig import machine, resident_bytes, rig, rounded
from revo.cli.common import DONE, Output, console, print_json, run_async

CHUNK: Final = 10_000
WANTED: Final = 256
"""Messages that are asked for: as many as a worker with 64 slots has in hand when tasks are short."""


class Arrivals:
    """When results came, by capability; counted off the wire, which costs the client next to nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._enough = asyncio.Event()
        self._wanted = 0

    async def open(self, mesh: Mesh) -> None:
        """Listen to the results of a client."""
        await mesh.connection.subscribe(subjects.done(mesh.client), self._on_result)

    def _on_result(self, _: Message) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) >= self._wanted:
            self._enough.set()

    async def until(self, count: int) -> None:
        """Return when so many have come."""
        self._wanted = count
        self._enough.clear()
        if len(self.times) < count:
            await self._enough.wait()

    def rate(self, first: int, last: int) -> float:
        """Results a second between two of them."""
        return (last - first) / (self.times[last - 1] - self.times[first])


def scale(count: int, *, output: Output) -> int:
    """Measure what a second worker process adds and print; returns the exit status."""
    figures = run_async(_scale(count), "burning CPU")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    line = f"one process {figures['one']:,.0f} tasks/s, two {figures['two']:,.0f}: {figures['ratio']:.2f}x"
    console().print(f"{line}, with 5 ms of CPU a task")
    return DONE


async def _scale(count: int) -> dict[str, Any]:
    async with rig() as here:
        mesh, arrivals = await here.mesh(), Arrivals()
        await arrivals.open(mesh)
        found: list[float] = []
        for _ in range(2):
            await here.start("burner", BURNER)
            before = len(arrivals.times)
            await mesh.submit_many("burn", (Burn(ms=5.0) for _ in range(count)))
            await arrivals.until(before + count)
            found.append(arrivals.rate(before + count // 10, before + count * 9 // 10))
    return rounded({"one": found[0], "two": found[1], "ratio": found[1] / found[0], **machine()})


def priorities(count: int, *, output: Output) -> int:
    """Measure five full queues against one and print; returns the exit status."""
    figures = run_async(_priorities(count), "working queues off")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    line = f"five queues taken and acked {figures['mesh']:,.0f} a second, {figures['ratio']:.2f} of one by fetch(64)"
    console().print(f"{line} ({figures['plain']:,.0f}); done by an agent, results stored: {figures['done']:,.0f}")
    return DONE


async def _priorities(count: int) -> dict[str, Any]:
    total = count // 5 * 5
    rounds = []
    for _ in range(3):
        async with rig() as here:
            theirs = await drained(await here.unguarded(), total)
            mesh, arrivals = await here.mesh(operator=True), Arrivals()
            await topology.ensure_capability(mesh.connection, "echo", Policy(), "bench")
            await _fill(mesh, total)
            ours = await _taken(mesh.connection, total)
            await arrivals.open(mesh)
            await _fill(mesh, total)
            await here.start("echo", ECHO)
            await arrivals.until(total)
            rounds.append((theirs, ours, arrivals.rate(total // 10, total * 9 // 10)))
    theirs, ours, done = (statistics.median(found) for found in zip(*rounds, strict=True))
    ratio = statistics.median(mine / plain for plain, mine, _ in rounds)
    return rounded({"plain": theirs, "mesh": ours, "ratio": ratio, "done": done, "tasks": total, **machine()})


async def _fill(mesh: Mesh, total: int) -> None:
    for priority in subjects.PRIORITIES:
        await submit_many(mesh, total // 5, capability="echo", priority=priority)


async def _taken(connection: Connection, count: int) -> float:
    """Take and ack all five queues as a worker does; returns messages a second."""
    taken, done = 0, asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.add(task := asyncio.get_running_loop().create_task(work))
        return task

    def on_task(message: Message) -> None:
        nonlocal taken
        connection.send(message.reply, b"+ACK", lazy=True)
        taken += 1
        if taken == count:
            done.set()
        puller.want(WANTED, ahead=True)

    def fail(error: BusError) -> None:
        raise error

    sources = [
        Source(f"echo.{priority}", subjects.consumer("echo", priority), rank)
        for rank, priority in enumerate(subjects.PRIORITIES)
    ]
    puller = Puller(
        connection,
        sources,
        on_task,
        spare=lambda _rank: WANTED // 8,
        spawn=spawn,
        fail=fail,
        on_quiet=lambda: None,
    )
    began = time.perf_counter()
    puller.want(WANTED, ahead=True)
    await done.wait()
    await connection.flush()
    took = time.perf_counter() - began
    await puller.stop()
    return count / took


def backlog(count: int, *, output: Output) -> int:
    """Measure a long queue and print; returns the exit status."""
    figures = run_async(_backlog(count), "filling a queue, then working it off")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    for name, what in (("submit", "submitted"), ("drain", "done")):
        rates = " ".join(f"{rate:,.0f}" for rate in figures[name])
        console().print(f"{what}, tasks/s for each {CHUNK:,}: {rates}")
    console().print(f"the worker grew by {figures['worker_growth_bytes'] / 1e6:.1f} MB")
    return DONE


async def _backlog(count: int) -> dict[str, Any]:
    chunks = max(2, count // CHUNK)
    async with rig() as here:
        mesh, arrivals = await here.mesh(), Arrivals()
        await arrivals.open(mesh)
        submitted = [CHUNK / await submit_many(mesh, CHUNK, capability="echo") for _ in range(chunks)]
        worker = await here.start("echo", ECHO)
        await arrivals.until(CHUNK // 10)
        before = resident_bytes(worker.pid)
        await arrivals.until(chunks * CHUNK)
        grown = resident_bytes(worker.pid) - before
        drained_at = [arrivals.rate(n * CHUNK, (n + 1) * CHUNK) for n in range(chunks)]
    return {
        "submit": [round(rate) for rate in submitted],
        "drain": [round(rate) for rate in drained_at],
        "worker_growth_bytes": grown,
        "tasks": chunks * CHUNK,
        **machine(),
    }
