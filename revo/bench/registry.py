"""`revo bench registry`: one registry process, many instances, and a stream of questions."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Final

from actors.meshfile import REGISTRY
from actors.registry.client import RegistryClient
from actors.registry.messages import CapabilityInfo, Registration
from actors.registry.registrar import Registrar
from bus import rpc, subjects, topology
from bus.connection import Connection
from bus.mesh import Mesh
from bus.telemetry import Telemetry
from revo.bench.rig import cpu_seconds, percentile, resident_bytes, rig, rounded
from revo.cli.common import DONE, FAILED, Output, console, print_json, run_async

CONNECTIONS: Final = 8
"""The instances share so many connections: a machine that simulates 1,000 processes has no need of 1,000 sockets."""
REPLICAS: Final = 20
"""Instances that have the same capability."""
AT_ONCE: Final = 64
_SCHEMA: Final = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "depth": {"type": "integer", "minimum": 0}},
    "required": ["path"],
}


@dataclass
class Figures:
    """What was measured. Times are seconds unless their name says otherwise; CPU is in cores."""

    instances: int
    registered_s: float = 0.0
    alive: int = 0
    """How many lived at the end, by the registry's word."""
    asked: int = 0
    rate: float = 0.0
    incomplete: int = 0
    """Answers in which somebody was missing: whose lease had run out, for want of processor time to renew it."""
    find_p50_ms: float = 0.0
    find_p99_ms: float = 0.0
    find_max_ms: float = 0.0
    cpu_idle: float = 0.0
    """Of the registry while the instances only renew their leases."""
    cpu_asked: float = 0.0
    resident_bytes: int = 0


def registry(instances: int, *, rate: float, seconds: float, output: Output) -> int:
    """Measure and print; returns the exit status: 1 when an instance was lost."""
    figures = run_async(_measure(instances, rate, seconds), "registering, then asking")
    if output is Output.JSON:
        print_json(rounded(asdict(figures)))
    else:
        terminal = console()
        terminal.print(f"{figures.instances} instances registered in {figures.registered_s:.2f} s")
        terminal.print(f"{figures.alive} of them alive at the end; somebody missing in {figures.incomplete} answers")
        terminal.print(f"the registry takes {figures.cpu_idle:.1%} of a core while they renew their leases,")
        asked = f"{figures.cpu_asked:.1%} while it is asked {figures.rate:.0f} times a second"
        terminal.print(f"{asked}, and holds {figures.resident_bytes / 1e6:.1f} MB")
        took = f"p50 {figures.find_p50_ms:.2f} ms, p99 {figures.find_p99_ms:.2f} ms, max {figures.find_max_ms:.2f} ms"
        terminal.print(f"find: {took}")
    return DONE if figures.alive == figures.instances else FAILED


async def _measure(instances: int, rate: float, seconds: float) -> Figures:
    figures = Figures(instances)
    async with rig() as here, AsyncExitStack() as stack:
        settings = here.settings.model_copy(update={"trace_sample": 0.0})
        process = await here.start(subjects.REGISTRY, REGISTRY)
        connections = [
            await stack.enter_async_context(
                await Connection.open(here.server.url, name=f"bench-{n}", settings=settings)
            )
            for n in range(CONNECTIONS)
        ]
        await topology.apply(connections[0])
        registrars = [Registrar(connections[n % CONNECTIONS], _registration(n), dict) for n in range(instances)]
        began = time.perf_counter()
        await let_in(registrars)
        figures.registered_s = time.perf_counter() - began
        keeping = [asyncio.create_task(registrar.keep()) for registrar in registrars]
        try:
            await _watch(figures, process.pid, connections[0], rate, seconds)
            mesh = Mesh(connections[0], Telemetry(service="bench", instance="bench", sample=0.0), client="bench")
            figures.alive = sum(one.kind != "system" for one in await RegistryClient(mesh).instances())
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
        figures.resident_bytes = resident_bytes(process.pid)
    return figures


async def let_in(registrars: list[Registrar]) -> None:
    """Register many instances, some of them at once."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(registrar: Registrar) -> None:
        async with slots:
            await registrar.start()
            await registrar.enter("ready")

    async with asyncio.TaskGroup() as group:
        for registrar in registrars:
            group.create_task(one(registrar))


async def _watch(figures: Figures, pid: int, connection: Connection, rate: float, seconds: float) -> None:
    quiet = max(4.0, seconds / 2)
    used, began = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(quiet)
    figures.cpu_idle = (cpu_seconds(pid) - used) / (time.perf_counter() - began)
    used, began = cpu_seconds(pid), time.perf_counter()
    times, figures.incomplete = await _ask(connection, figures.instances, rate, seconds)
    took = time.perf_counter() - began
    figures.cpu_asked = (cpu_seconds(pid) - used) / took
    figures.asked, figures.rate = len(times), len(times) / took
    figures.find_p50_ms, figures.find_p99_ms = percentile(times, 50), percentile(times, 99)
    figures.find_max_ms = max(times) * 1e3


async def _ask(connection: Connection, instances: int, rate: float, seconds: float) -> tuple[list[float], int]:
    """Ask at a fixed rate, whether or not the answers keep pace; a time counts from when it was to be asked. The times,
    and how many of the answers were not complete.
    """
    telemetry = Telemetry(service="bench", instance="bench", sample=0.0)
    capabilities = max(1, instances // REPLICAS)
    chance = random.Random(1)  # noqa: S311
    times: list[float] = []
    complete = 0

    async def one(due: float) -> None:
        nonlocal complete
        question = {"capability": f"work-{chance.randrange(capabilities)}"}
        page = await rpc.call(connection, telemetry, subjects.REGISTRY, "find", question)
        times.append(time.perf_counter() - due)
        complete += len(page["instances"]) == min(REPLICAS, instances)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            group.create_task(one(due))
    return times, len(times) - complete


def _registration(number: int) -> Registration:
    name = f"work-{number // REPLICAS}"
    return Registration(
        agent=f"worker-{number // REPLICAS}",
        instance=f"worker-{number // REPLICAS}-{number:05}",
        secret=f"secret of number {number}",
        host="bench",
        capabilities=[CapabilityInfo(name=name, message=_SCHEMA, result={"type": "string"})],
    )
