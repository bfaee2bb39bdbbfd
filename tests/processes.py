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

from bus.child import Child
from bus.lifeline import Lifeline
from revo.cli.forks import PRELOADED
from tests.eventually import in_time
from tests.forking import Forks

ROOT = Path(__file__).parents[1]


COMMANDS = sorted(f"revo.cli.{path.stem}" for path in (ROOT / "revo" / "cli").glob("[a-z]*.py"))


@functools.cache
def forks() -> Forks:
    """Where actors and commands come from: a fork takes a tenth of the time of a new interpreter."""
    made = Forks("revo.__main__", "bus.telemetry.export", *COMMANDS, *PRELOADED, tree=ROOT)
    atexit.register(made.close)
    return made


class ActorProcess:
    """A running `revo run`, started and ready."""

    def __init__(self, process: Child, ready: dict[str, str | int], log: Path) -> None:
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
        return await in_time(self._process.wait(), timeout)


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
    whole = {**os.environ, "REVO_NATS_URL": url, **env}
    with log.open("wb") as out:
        if (
            Path(tree) == ROOT
            and "REVO_TEST_NO_FORKS" not in whole
            and not any(one.startswith("PYTHON") for one in env)
        ):
            lifeline = Lifeline()
            handed = {"REVO_READY_FD": write, "REVO_LIFELINE_FD": lifeline.fd}
            forked = forks().fork(arguments, env=whole, cwd=ROOT, stdout=out.fileno(), handed=handed)
            process = Child(forked, lifeline, group=False)
        else:
            whole["REVO_READY_FD"] = str(write)
            process = await Child.start(
                [sys.executable, "-m", "revo", *arguments],
                cwd=Path(tree),
                env=whole,
                pass_fds=(write,),
                stdout=out.fileno(),
                stderr=out.fileno(),
            )
    os.close(write)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb"))
    try:
        line = await in_time(reader.readline(), 60)
        assert line, f"{target} ended before it was ready: {log.read_text()}"
        yield ActorProcess(process, json.loads(line), log)
    finally:
        # Also when it never was ready, or we were cancelled before: no process outlives its block.
        transport.close()
        await process.finish()
