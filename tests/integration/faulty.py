"""Actors that fail in every way there is, for `test_faults`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from revo import Actor, Agent, TaskContext, rpc, task

MORE_THAN_FIT = 25
"""Requests; the test lets 20 wait in a mailbox."""


class Fault(BaseModel):
    """What is to go wrong, until the file `healed` is there; `port` is where nobody is to be reached."""

    what: str = ""
    healed: str = ""
    port: int = 0


class OutOfPaperError(Exception):
    """What an agent says of its work, expected and no use trying."""

    retryable = False


class Faulty(Agent):
    """Does what it can to fail."""

    concurrency = 4
    asks = ("nobody.hear", "slow.work")

    @task("fail", ack_wait=1.0, time_limit=0.3, backoff=0.05, max_attempts=2)
    async def fail(self, fault: Fault, context: TaskContext) -> str:
        if context.attempt > 1 or (fault.healed and Path(fault.healed).exists()):
            return "went well"
        if fault.what == "crash":
            await asyncio.sleep(0.1)  # noqa: TID251  (until a heartbeat has told of the task)
            Path(fault.healed).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.what == "timeout":
            await asyncio.Event().wait()
        if fault.what == "resource":
            run_out_of_files()
        if fault.what == "task":
            raise OutOfPaperError("the tray is empty")
        if fault.what == "overload":
            await asyncio.gather(*(self.ref("slow").ask("work") for _ in range(MORE_THAN_FIT)))
        if fault.what == "network":
            reader, writer = await asyncio.open_connection("127.0.0.1", fault.port)
            writer.write(b"hello")
            await reader.read()
        if fault.what == "unknown":
            raise SystemExit(3)
        return "nothing is wrong"

    @task("reach", ack_wait=1.0, backoff=0.05, max_attempts=20)
    async def reach(self, fault: Fault, context: TaskContext) -> int:
        if not Path(fault.healed).exists():
            await self.ref("nobody").ask("hear")
        return context.attempt


def run_out_of_files() -> None:
    """Open files until the system says that these are too many."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[IO[bytes]] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while True:
            opened.append(Path(os.devnull).open("rb"))  # noqa: SIM115  (they are to stay open)
    finally:
        for file in opened:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Slow(Actor):
    """Answers nobody, and its mailbox is soon full."""

    @rpc("work")
    async def work(self) -> None:
        await asyncio.Event().wait()


class Idler(Agent):
    """Has nothing to do."""

    @task("idle")
    async def idle(self, fault: Fault) -> str:
        return fault.what
