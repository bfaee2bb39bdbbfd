"""`revo bench`: measurements of this machine."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from actors.process import ActorProcess
from bus.server import Server
from bus.settings import Settings
from revo.cli.common import DONE, Output, console, print_json, run_async

ECHO: Final = """\
from pydantic import BaseModel
from revo import Agent, task

class Text(BaseModel):
    text: str

class Echo(Agent):
    @task("echo")
    async def echo(self, message: Text) -> Text:
        return message
"""


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
    with tempfile.TemporaryDirectory(prefix="revo-bench-") as folder:
        place = Path(folder)
        (place / "echo_agent.py").write_text(ECHO, encoding="utf-8")
        async with Server(place / "nats", binary=Settings.from_env().nats_server) as server:
            for _ in range(runs):
                process = ActorProcess("echo", "echo_agent.py:Echo", on_line=lambda _: None)
                began = time.perf_counter()
                await process.start(url=server.url, cwd=place)
                ready = time.perf_counter() - began
                figures.append((ready, resident_bytes(process.pid)))
                process.terminate()
                await process.wait()
    return figures


def resident_bytes(pid: int) -> int:
    """The memory that a process holds, as `ps` tells it on Linux and macOS."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return int(said) * 1024
