"""`revo bench tasks`: a durable, typed, traced task against the shortest durable loop in plain nats-py."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

from actors.process import ActorProcess
from bus.mesh import Mesh
from revo.bench.compare import Once, compare
from revo.bench.echo import ECHO, IN_FLIGHT, TEXT, Text
from revo.bench.plain import plain
from revo.bench.rig import Rig, machine, rig
from revo.cli.common import DONE, Output, console, print_json, run_async, table

DIFFERS: Final = f"the measured agent takes {IN_FLIGHT} tasks at once (an agent's own default is 1)"


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
        ways: dict[str, Once] = {
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


async def start_system(here: Rig) -> list[ActorProcess]:
    """The actors that `revo up` starts beside everybody's own."""
    from actors.meshfile import MeshFile

    return [await here.start(name, entry.target) for name, entry in MeshFile.default().system.entries().items()]


def _task_of(mesh: Mesh) -> Once:
    message = Text(text=TEXT)

    async def one() -> None:
        handle = await mesh.submit("echo", message)
        Text.model_validate(await handle.result())

    return one


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
