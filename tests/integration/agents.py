"""Agents that tests run as processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from bus.pull import Puller
from revo import Agent, BusError, Prompt, Retry, TaskContext, prompt, rpc, task
from tests.eventually import in_time

log = logging.getLogger(__name__)


class Work(BaseModel):
    """A piece of work: `seconds` long, writing its id to `journal` when it begins."""

    id: int = 0
    seconds: float = 0.0
    journal: str = ""
    what: str = "sleep"


class Sum(BaseModel):
    a: int
    b: int


def note(work: Work, what: str) -> None:
    if work.journal:
        with Path(work.journal).open("a") as file:
            file.write(f"{what} {work.id} {os.getpid()} {time.time():.3f}\n")


class Toiler(Agent):
    """Does as it is told."""

    concurrency = 4

    @task("toil", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def toil(self, work: Work, context: TaskContext) -> int:
        note(work, "begin")
        if work.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if work.what == "log":
            log.warning("said in task %d", work.id)
        if work.what == "raise":
            raise ValueError("as told")
        if work.what == "retry" and context.attempt < 3:
            raise Retry(0.01)
        if work.what == "block":
            time.sleep(work.seconds)  # noqa: TID251  (the fault that the test is about)
        else:
            await asyncio.sleep(work.seconds)  # noqa: TID251  (the work itself)
        note(work, "end")
        return work.id

    @rpc("add")
    def add(self, numbers: Sum) -> int:
        """Plain `def`: runs in a thread."""
        return numbers.a + numbers.b


class Parcel(BaseModel):
    """What a porter carries, and what he does about it. While there is a file `broken` he fails."""

    data: bytes = b""
    size: int = 0
    seconds: float = 0.0
    journal: str = ""
    broken: str = ""


class Porter(Agent):
    """Returns what he was given, or so many bytes."""

    concurrency = 2

    @task("carry", ack_wait=1.0, backoff=0.05, time_limit=60.0, max_attempts=1)
    async def carry(self, parcel: Parcel) -> bytes:
        note(Work(id=len(parcel.data), journal=parcel.journal), "begin")
        await asyncio.sleep(parcel.seconds)  # noqa: TID251  (the work itself)
        if parcel.broken and Path(parcel.broken).exists():
            raise ValueError("as told")
        return bytes(parcel.size) if parcel.size else parcel.data


class Living(Toiler):
    """Notes when it starts and stops."""

    async def on_start(self) -> None:
        Path(os.environ["JOURNAL"]).write_text("start\n")

    async def on_stop(self) -> None:
        with Path(os.environ["JOURNAL"]).open("a") as file:
            file.write("stop\n")


class Stillborn(Toiler):
    """Cannot start."""

    async def on_start(self) -> None:
        raise ValueError("no model to load")


class Threaded(Agent):
    """Does its tasks in a thread."""

    @task("thread", ack_wait=1.0, time_limit=60.0)
    def thread(self, work: Work, context: TaskContext) -> str:
        note(work, "begin")
        stopped = context.stop.wait(work.seconds)
        note(work, "stopped" if stopped else "end")
        return "stopped" if stopped else "slept"


class Household(BaseModel):
    children: int = 0
    journal: str = ""


class Parent(Agent):
    """Submits tasks and waits for them, as agents do that delegate."""

    concurrency = 10
    submits = ("raise_child", "toil")

    @task("raise_family", time_limit=60.0)
    async def raise_family(self, household: Household) -> int:
        message = {"children": 0, "journal": household.journal}
        handles = [await self.mesh.submit("raise_child", message) for _ in range(household.children)]
        await self.mesh.submit("toil", {"id": 99, "seconds": 30.0, "journal": household.journal}, detached=True)
        return len([await handle.outcome() for handle in handles])

    @task("raise_child", time_limit=60.0)
    async def raise_child(self, household: Household) -> int:
        handle = await self.mesh.submit("toil", {"id": 1, "seconds": 30.0, "journal": household.journal})
        return int(await handle.result())


class Relay(Agent):
    """Has others do all of its work."""

    concurrency = 4
    submits = ("toil", "@toiler")
    asks = ("toiler.add",)
    broadcasts = ("where",)

    @task("relay")
    async def relay(self, work: Work) -> list[int]:
        done = await (await self.mesh.submit("toil", work)).result()
        named = await (await self.mesh.submit("@toiler", work)).result()
        added = await self.mesh.ask("toiler", "add", {"a": 1, "b": 2})
        gathered = await self.mesh.broadcast("where", {"n": 1}, timeout=3.0)
        return [done, named, added, len(gathered.values)]

    @task("stray")
    async def stray(self, work: Work) -> str:
        await self.mesh.submit("relay", work)  # which it has not declared
        return "submitted"


class Shelling(Agent):
    """Runs a program in a thread, and that program another."""

    @task("shell", time_limit=60.0)
    def shell(self, household: Household) -> int:
        script = f"sleep 60 & echo $$ $! >> {household.journal}; wait"
        return subprocess.run(["/bin/sh", "-c", script], check=False).returncode


class Faltering(Toiler):
    """Something that it does beside its tasks fails."""

    async def on_start(self) -> None:
        self.spawn(self._fall_over())

    async def _fall_over(self) -> None:
        await asyncio.sleep(0.2)  # noqa: TID251  (after it has said that it is ready)
        raise ValueError("it fell over")


class Listener(Agent):
    """Goes deaf by SIGUSR1: connected, its heart beating, and nothing from its queue arrives. SIGUSR2 heals it."""

    concurrency = 2

    async def on_start(self) -> None:
        loop, hear = asyncio.get_running_loop(), Puller._on_message
        loop.add_signal_handler(signal.SIGUSR1, setattr, Puller, "_on_message", lambda *_: None)
        loop.add_signal_handler(signal.SIGUSR2, setattr, Puller, "_on_message", hear)

    @task("listen", ack_wait=1.0, time_limit=60.0)
    async def listen(self, work: Work) -> str:
        if work.what == "block":
            time.sleep(work.seconds)  # noqa: TID251  (the fault that the test is about)
        if work.what == "raise":
            raise ValueError("as told")
        return self.mesh.telemetry.instance

    @rpc("hear")
    async def hear(self) -> str:
        """Which instance this is."""
        return self.mesh.telemetry.instance


class Host(Agent):
    """Answers prompts, and nothing else."""

    @prompt
    async def answer(self, prompt: Prompt) -> str:
        if prompt.text == "fail":
            raise ValueError("as told")
        return self.mesh.telemetry.instance


class Where(BaseModel):
    n: int = 0


class Pair(Agent):
    """Has two capabilities."""

    @task("where")
    async def where(self, question: Where) -> str:
        """Which instance this is."""
        return f"{self.mesh.telemetry.instance} {question.n}"

    @task("fail", max_attempts=1)
    async def fail(self, question: Where) -> int:
        """Raise, as told."""
        raise ValueError("as told")


class Loner(Agent):
    """Has one capability, so that its name alone says what is meant."""

    @task("wait", ack_wait=1.0, time_limit=60.0)
    async def wait(self, work: Work) -> str:
        """Say so, wait, and tell which instance this is."""
        sys.stderr.write("begin\n")
        await asyncio.sleep(work.seconds)  # noqa: TID251  (the work itself)
        return self.mesh.telemetry.instance


class Errand(BaseModel):
    """What a desk is asked: `seconds` of waiting at the most, and of `to`, if there is one, the same."""

    seconds: float = 0.0
    to: str = ""
    timeout: float = 30.0
    mark: str = ""
    """A file: while it is there, what fails does."""


class Desk(Agent):
    """Answers, and asks other desks."""

    concurrency = 4
    asks = ("desk.who", "desk.wait", "desk.fail", "back.wait", "back.fail")
    submits = ("note",)

    pace = 0.0  # seconds that it takes to say who it is

    async def on_start(self) -> None:
        self._go = asyncio.Event()

    @rpc("who")
    async def who(self) -> str:
        """Which instance this is."""
        if self.pace:
            await asyncio.sleep(self.pace)  # noqa: TID251  (the work itself)
        return self.mesh.telemetry.instance

    @rpc("slow")
    async def slow(self, errand: Errand) -> None:
        """Be slower from now on."""
        self.pace = errand.seconds

    @rpc("wait")
    async def wait(self, errand: Errand) -> str:
        """Wait until told to go on, here or at another desk."""
        if errand.to:
            try:
                message = {"seconds": errand.seconds}
                return str(await self.mesh.ask(errand.to, "wait", message, timeout=errand.timeout))
            except BusError as error:
                return f"{error.code}"
        with contextlib.suppress(TimeoutError):
            await in_time(self._go.wait(), errand.seconds)
        return self.mesh.telemetry.instance

    @rpc("go")
    async def go(self) -> None:
        """Have all who wait here go on."""
        self._go.set()
        self._go = asyncio.Event()

    @rpc("fail")
    async def fail(self, errand: Errand) -> str:
        """Fail while a file is there, here or at another desk."""
        if errand.to:
            return str(await self.mesh.ask(errand.to, "fail", {"mark": errand.mark}))
        if Path(errand.mark).exists():
            raise ConnectionRefusedError("as told")
        return self.mesh.telemetry.instance

    @task("note", topics=["news"])
    async def note(self, errand: Errand, context: TaskContext) -> list[float]:
        """When this ends at the latest, and what it submits."""
        if errand.to:
            child = await self.mesh.submit("note", {}, agent=errand.to, deadline=3600)
            found: list[float] = await child.result()
            return [context.deadline, *found]
        return [context.deadline]


class Changed(Desk):
    """A later version, that wants no news."""

    name = "desk"
    version = "0.2.0"

    @task("note")
    async def note(self, errand: Errand, context: TaskContext) -> list[float]:
        return [context.deadline]
