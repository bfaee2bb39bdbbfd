"""`revo bench tasks`: a durable, typed, traced task against the shortest durable loop in plain nats-py."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final

from actors.meshfile import REGISTRY
from bus import subjects
from bus.mesh import Mesh
from revo.bench.compare import Once, compare
from revo.bench.echo import ECHO, IN_FLIGHT, TEXT, Text
from revo.bench.plain import plain
from revo.bench.rig import Rig, machine, rig
from revo.cli.common import DONE, Output, console, print_json, run_async, table

DIFFERS: Final = f"the measured agent takes {IN_FLIGHT} tasks at once (an agent's own default is 1)"


_LABELS: Final = {
    "plain": "plain nats-py",
    "mesh": "mesh",
    "mesh_traced": "mesh, traced",
    "mesh_open": "mesh, no users",
    "mesh_isolated": "mesh, own accounts",
}


def tasks(count: int, rounds: int, *, system: bool, guards: bool, output: Output) -> int:
    """Measure and print; returns the exit status."""
    figures = run_async(_measure(count, rounds, system=system, guards=guards), "running tasks")
    if output is Output.JSON:
        print_json(figures)
    else:
        _show(figures)
    return DONE


async def _measure(count: int, rounds: int, *, system: bool, guards: bool) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        here = await _with_agent(stack, rig())
        differs = [DIFFERS]
        if system:
            await here.start(subjects.REGISTRY, REGISTRY)
        else:
            differs.append("no registry runs beside it (--system starts one)")
        reference = await stack.enter_async_context(plain(await here.unguarded()))
        ways: dict[str, Once] = {
            "plain": reference.task,
            "mesh": _task_of(await here.mesh()),
            "mesh_traced": _task_of(await here.mesh(sample=1.0)),
        }
        if guards:
            for name, other in (("open", rig(guarded=False)), ("isolated", rig(isolated=True))):
                ways[f"mesh_{name}"] = _task_of(await (await _with_agent(stack, other)).mesh())
        figures = {
            "in_flight": IN_FLIGHT,
            **await compare(ways, count, rounds, IN_FLIGHT),
            "alone": await compare(ways, max(100, count // 10), rounds, 1),
        }
    return {**figures, "bytes": len(TEXT), "rounds": rounds, "differs": differs, **machine()}


async def _with_agent(stack: AsyncExitStack, made: AbstractAsyncContextManager[Rig]) -> Rig:
    here = await stack.enter_async_context(made)
    await here.start("echo", ECHO)
    return here


def _task_of(mesh: Mesh) -> Once:
    message = Text(text=TEXT)

    async def one() -> None:
        handle = await mesh.submit("echo", message)
        Text.model_validate(await handle.result())

    return one


def _show(figures: dict[str, Any]) -> None:
    made = table("", "way", ">tasks/s", ">of plain", ">p50 ms", ">p99 ms", ">alone p50 ms", ">of plain")
    for name, label in _LABELS.items():
        if name not in figures:
            continue
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
