"""`revo bench start`: how soon an actor is ready, and what it holds when idle."""

from __future__ import annotations

import statistics
import time

from actors.process import ActorProcess
from revo.bench.echo import ECHO
from revo.bench.rig import end, resident_bytes, rig
from revo.cli.common import DONE, Output, console, print_json, run_async


def start(runs: int, *, output: Output) -> int:
    """Print how soon after its start an actor is ready, and what it holds when idle; returns the exit status."""
    figures = run_async(_measure(runs))
    ready = statistics.median(seconds for seconds, _ in figures)
    resident = statistics.median(size for _, size in figures)
    if output is Output.JSON:
        report = {"ready_s": round(ready, 4), "resident_bytes": int(resident), "runs": runs}
        print_json({**report, "ready_all_s": [round(seconds, 4) for seconds, _ in figures]})
    else:
        lows, highs = min(s for s, _ in figures), max(s for s, _ in figures)
        console().print(f"ready in {ready:.3f} s (median of {runs}, {lows:.3f} to {highs:.3f})")
        console().print(f"holds {resident / 1e6:.1f} MB when idle")
    return DONE


async def _measure(runs: int) -> list[tuple[float, int]]:
    figures = []
    async with rig() as here:
        credentials = await here.credentials_of("echo", ECHO)
        for _ in range(runs):
            process = ActorProcess("echo", ECHO, on_line=lambda _: None)
            began = time.perf_counter()
            await process.start(url=here.server.url, cwd=here.folder, credentials=credentials)
            ready = time.perf_counter() - began
            figures.append((ready, resident_bytes(process.pid)))
            await end(process)
    return figures
