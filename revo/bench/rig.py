"""What all measurements share: a server and processes of their own, what these use, and figures of many times."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from actors.process import ActorProcess
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings


class Rig:
    """A server, and whatever is started in it; all of it ends with the block of `rig()`."""

    def __init__(self, stack: AsyncExitStack, folder: Path, server: Server) -> None:
        self._stack = stack
        self.folder = folder
        self.server = server
        self.settings = Settings.from_env().model_copy(update={"nats_url": server.url})

    async def start(self, name: str, target: str, **settings: Any) -> ActorProcess:
        """An actor in a process of its own, ready."""
        process = ActorProcess(name, target, on_line=lambda _: None)
        await process.start(url=self.server.url, cwd=self.folder, settings=settings)
        self._stack.push_async_callback(end, process)
        return process

    async def mesh(self, *, sample: float = 0.0, client: str = "bench") -> Mesh:
        """A client of the mesh that records the share `sample` of its traces."""
        settings = self.settings.model_copy(update={"trace_sample": sample})
        connecting = Mesh.connect(client=client, settings=settings, service="bench")
        return await self._stack.enter_async_context(connecting)


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """A server with nothing in it."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="revo-bench-")))
        server = await stack.enter_async_context(Server(folder / "nats", binary=Settings.from_env().nats_server))
        yield Rig(stack, folder, server)


async def end(process: ActorProcess) -> None:
    """Let an actor drain, and wait for its end."""
    process.terminate()
    await process.wait()


def percentile(times: Sequence[float], percent: int) -> float:
    """A percentile of some times, in milliseconds; 0 without any."""
    if len(times) < 2:
        return sum(times) * 1e3
    return statistics.quantiles(times, n=100)[percent - 1] * 1e3


def machine() -> dict[str, Any]:
    """What was measured on, so that figures of different machines are not compared."""
    return {"system": platform.system(), "cpus": os.cpu_count(), "python": platform.python_version()}


def resident_bytes(pid: int) -> int:
    """The memory that a process holds, as `ps` tells it on Linux and macOS."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return int(said) * 1024


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used, by /proc where there is one, else by `ps`, which counts whole seconds."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    said = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    total = 0.0
    for part in said.strip().replace("-", ":").split(":"):
        total = total * 60 + float(part)
    return total


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as JSON should show them."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
