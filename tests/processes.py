"""Actors as processes of their own, for tests that kill them."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.forking import Forks

ROOT = Path(__file__).parents[1]


PRELOADED = (
    "revo.__main__",
    "revo.cli.run",
    "uvloop",
    "actors.host",
    "actors.steward",
    "actors.registry",
    "bus.telemetry.export",
)


@functools.cache
def forks() -> Forks:
    """Where actors come from: an interpreter that has imported Revo takes a tenth of the time of a new one."""
    made = Forks(*PRELOADED, tree=ROOT)
    atexit.register(made.close)
    return made


class Fork:
    """A process that was forked, to who started it."""

    def __init__(self, pid: int, said: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._said = said
        self._transport = transport
        self._one_by_one = asyncio.Lock()

    @classmethod
    async def start(cls, arguments: list[str], log: Path, ready: int, *, tree: Path, env: dict[str, str]) -> Fork:
        """`revo` with these arguments, all of its output in a file."""
        read, write = os.pipe()
        with log.open("wb") as out:
            descriptors = [out.fileno(), out.fileno(), write, ready]
            forks().start("revo.__main__:main", arguments, descriptors, cwd=tree, env=env, path=[str(tree)])
        os.close(write)
        said = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), os.fdopen(read, "rb"))
        pid = int(await said.readuntil(b" "))
        return cls(pid, said, transport)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit status; negative: the signal that it died of."""
        async with self._one_by_one:
            if self.returncode is None:
                self.returncode = int(await self._said.read())
                self._transport.close()
        return self.returncode


class ActorProcess:
    """A running `revo run`, started and ready."""

    def __init__(self, process: Fork | asyncio.subprocess.Process, ready: dict[str, str | int], log: Path) -> None:
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
    """Start an actor and wait until it says that it is ready; it is killed at the end of the block. Those of our own
    tree are forks of a process that has imported Revo (`tests.forking`); each is a process of its own all the same.

    `tree` is the folder whose Revo it runs: `-m` puts the working directory before everything that is installed.
    """
    read, write = os.pipe()
    arguments = ["run", target, *(["--name", name] if name else []), "--output", output]
    whole = {**os.environ, "REVO_NATS_URL": url, "REVO_READY_FD": str(write), **env}
    process: Fork | asyncio.subprocess.Process
    if Path(tree) == ROOT and "REVO_TEST_NO_FORKS" not in whole and not any(one.startswith("PYTHON") for one in env):
        process = await Fork.start(arguments, log, write, tree=ROOT, env=whole)
    else:
        with log.open("wb") as out:
            command = [sys.executable, "-m", "revo", *arguments]
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tree, env=whole, pass_fds=(write,), stdout=out, stderr=out
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
