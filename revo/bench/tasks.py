"""`revo bench tasks`: a durable, typed, traced task against the shortest durable loop in plain nats-py."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from bus.mesh import Mesh
from revo.bench.echo import IN_FLIGHT, TEXT, Text
from revo.bench.plain import plain
from revo.bench.rig import Rig, machine, percentile, rig, rounded
from revo.cli.common import DONE, Output, console, print_json, run_async, table

ECHO: Final = "revo.bench.echo:Echo"
DIFFERS: Final = f"the measured agent takes {IN_FLIGHT} tasks at once (an agent's own default is 1)"

OneTask = Callable[[], Awaitable[object]]


def tasks(count: int, rounds: int, *, system: bool, output: Output) -> int:
    """Measure and print; returns the exit status."""
    figures = run_async(_measure(count, rounds, system=system), "running tasks")
    if output is Output.JSON:
        print_json(figures)
    else:
        _show(figures)
    return DONE


async def _measure(count: int, rounds: int, *, system: bool) -> dict[str, Any]:
    async with rig() as here, AsyncExitStack() as stack:
        differs = [DIFFERS]
        if system:
            await start_system(here)
        else:
            differs.append("no registry and no steward run beside it (--system starts them)")
        await here.start("echo", ECHO)
        reference = await stack.enter_async_context(plain(here.server.url))
        ways: dict[str, OneTask] = {
            "plain": reference.task,
            "mesh": _task_of(await here.mesh()),
            "mesh_traced": _task_of(await here.mesh(sample=1.0)),
        }
        figures = {
            "in_flight": IN_FLIGHT,
            **await compare(ways, count, rounds, IN_FLIGHT),
            "alone": await compare(ways, max(100, count // 10), rounds, 1),
        }
    return {**figures, "bytes": len(TEXT), "rounds": rounds, "differs": differs, **machine()}


async def start_system(here: Rig) -> None:
    """The actors that `revo up` starts beside everybody's own."""
    from actors.meshfile import MeshFile

    for name, entry in MeshFile.default().system.entries().items():
        await here.start(name, entry.target)


def _task_of(mesh: Mesh) -> OneTask:
    message = Text(text=TEXT)

    async def one() -> None:
        handle = await mesh.submit("echo", message)
        Text.model_validate(await handle.result())

    return one


async def compare(ways: dict[str, OneTask], count: int, rounds: int, in_flight: int) -> dict[str, Any]:
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


async def repeat(one: OneTask, count: int, in_flight: int) -> list[float]:
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


def _show(figures: dict[str, Any]) -> None:
    made = table("", "way", ">tasks/s", ">of plain", ">p50 ms", ">p99 ms", ">alone p50 ms", ">of plain")
    for name, label in (("plain", "plain nats-py"), ("mesh", "mesh"), ("mesh_traced", "mesh, traced")):
        alone = figures["alone"]
        suffix = name.removeprefix("mesh")
        made.add_row(
            label,
            f"{figures[name]:,.0f}",
            f"{figures[f'ratio{suffix}']:.2f}" if name != "plain" else "",
            f"{figures[f'{name}_p50_ms']:.2f}",
            f"{figures[f'{name}_p99_ms']:.2f}",
            f"{alone[f'{name}_p50_ms']:.2f}",
            f"{alone[f'{name}_p50_ms'] / alone['plain_p50_ms']:.2f}x" if name != "plain" else "",
        )
    terminal = console()
    terminal.print(made)
    terminal.print(f"{figures['in_flight']} in flight, then one at a time; {figures['bytes']:,} bytes")
    for line in figures["differs"]:
        terminal.print(f"differs from what is shipped: {line}", style="dim")
