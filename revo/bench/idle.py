"""`revo bench idle`: what a mesh costs that has nothing to do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from actors.meshfile import CODE_ANALYST, REGISTRY, SECURITY_GUARDIAN
from bus import subjects
from revo.bench.rig import cpu_seconds, machine, resident_bytes, rig, rounded
from revo.cli.common import DONE, Output, console, print_json, run_async


def idle(seconds: float, *, output: Output) -> int:
    """Measure and print; returns the exit status."""
    figures = run_async(_measure(seconds), "doing nothing")
    if output is Output.JSON:
        print_json(figures)
        return DONE
    held = f"{figures['resident_bytes'] / 1e6:.0f} MB"
    line = f"{figures['processes']} processes take {figures['cores']:.2%} of a core and {held}"
    console().print(f"{line}; the server {figures['server_cores']:.2%}")
    return DONE


async def _measure(seconds: float) -> dict[str, Any]:
    async with rig() as here:
        started = [*here.system, await here.start(subjects.REGISTRY, REGISTRY)]
        for number in range(2):
            started.append(await here.start(f"code-analyst-{number}", CODE_ANALYST))
            started.append(await here.start(f"security-guardian-{number}", SECURITY_GUARDIAN))
        await asyncio.sleep(2.0)  # what a start leaves to be done is no part of being idle
        pids, server = [process.pid for process in started], here.server.pid
        assert server is not None
        used, of_server, began = sum(map(cpu_seconds, pids)), cpu_seconds(server), time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        figures = {
            "processes": len(pids),
            "cores": (sum(map(cpu_seconds, pids)) - used) / took,
            "server_cores": (cpu_seconds(server) - of_server) / took,
            "resident_bytes": sum(map(resident_bytes, pids)),
            "seconds": seconds,
        }
    return rounded({**figures, **machine()})
