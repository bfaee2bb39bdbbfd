"""Actors as processes of their own, for tests that kill them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


class ActorProcess:
    """A running `revo run`, started and ready."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, str | int], log: Path) -> None:
        self._process = process
        self.instance = str(ready["instance"])
        self.pid = int(ready["pid"])
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self, timeout: float = 15.0) -> int:
        return await asyncio.wait_for(self._process.wait(), timeout)


@contextlib.asynccontextmanager
async def actor(
    target: str,
    url: str,
    log: Path,
    *,
    name: str | None = None,
    output: str = "text",
    tree: str | Path = ROOT,
    **env: str,
) -> AsyncIterator[ActorProcess]:
    """Start an actor and wait until it says that it is ready; it is killed at the end of the block.

    `tree` is the folder whose Revo it runs: `-m` puts the working directory before everything that is installed.
    """
    read, write = os.pipe()
    command = [sys.executable, "-m", "revo", "run", target, *(["--name", name] if name else []), "--output", output]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=tree,
            env={**os.environ, "REVO_NATS_URL": url, "REVO_READY_FD": str(write), **env},
            pass_fds=(write,),
            stdout=out,
            stderr=out,
        )
    os.close(write)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb"))
    try:
        line = await asyncio.wait_for(reader.readline(), 60)
        assert line, f"{target} ended before it was ready: {log.read_text()}"
        yield ActorProcess(process, json.loads(line), log)
    finally:
        # Also when it never was ready, or we were cancelled before: no process outlives its block.
        transport.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
