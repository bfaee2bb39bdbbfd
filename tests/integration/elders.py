"""Agents whose handlers have others do the work, for tests that kill them."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from pydantic import BaseModel

from revo import Agent, BusError, Handle, TaskContext, task


class Clan(BaseModel):
    """`children` tasks for the capability `does`, and what they do; `journal` is told when a run begins and waits."""

    children: int = 0
    journal: str = ""
    does: str = "echo"
    says: dict[str, object] = {}


class Elder(Agent):
    """Submits tasks, and waits for all of them."""

    concurrency = 10
    submits = ("echo", "toil", "lead", "spend")

    @task("lead", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def lead(self, clan: Clan, context: TaskContext) -> list[object]:
        _note(clan, f"begin {context.attempt}")
        messages = [{"n": n, "id": n, **clan.says} for n in range(clan.children)]
        few = len(messages) // 2
        handles: list[Handle | BusError] = [await self.mesh.submit(clan.does, message) for message in messages[:few]]
        handles += await self.mesh.submit_many(clan.does, messages[few:])
        _note(clan, "waits")
        return await self.mesh.gather(*handles)


def _note(clan: Clan, what: str) -> None:
    if clan.journal:
        with Path(clan.journal).open("a") as file:
            file.write(f"{what}\n")


class Errand(BaseModel):
    """Spend so much, then do so many errands more like `then`, and wait `seconds`. With `named` each has an id of its
    own choice.
    """

    tokens: int = 0
    money: float = 0.0
    thread: bool = False
    errands: int = 0
    then: dict[str, object] = {}
    seconds: float = 0.0
    journal: str = ""
    named: bool = False


class Spender(Agent):
    """Spends, and has others spend."""

    concurrency = 20
    submits = ("errand",)

    @task("errand", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def errand(self, errand: Errand, context: TaskContext) -> dict[str, object]:
        context.spend(tokens=errand.tokens, money=errand.money)
        handles: list[Handle | BusError] = []
        if errand.named:
            ids = [f"{context.task_id}-{n}" for n in range(errand.errands)]
            handles += [await self.mesh.submit("errand", errand.then, task_id=one) for one in ids]
        else:
            handles += await self.mesh.submit_many("errand", [errand.then] * errand.errands)
        if errand.journal:
            with Path(errand.journal).open("a") as file:
                file.write("submitted\n")
        if errand.seconds:
            await asyncio.sleep(errand.seconds)  # noqa: TID251  (the work itself)
        await self.mesh.gather(*handles)
        left = await context.budget()
        return {} if left is None else dataclasses.asdict(left)

    @task("thread_errand", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    def thread_errand(self, errand: Errand, context: TaskContext) -> str:
        try:
            context.spend(tokens=errand.tokens)
        except BusError as error:
            return str(error)
        return "spent"


class Got(BaseModel):
    got: list[object] = []


class Stepper(Agent):
    """Submits the same again and again, and keeps what it gets. Its first run waits with the last one for ever."""

    submits = ("echo",)

    @task("step", saves=Got, ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def step(self, clan: Clan, context: TaskContext) -> list[object]:
        first = [await self.mesh.submit("echo", {"step": n % 2}) for n in range(3)]
        await self.mesh.gather(*first)
        got = context.saved.got if context.saved is not None else []
        while len(got) < clan.children:
            child = await self.mesh.submit("echo", {"step": 0})
            if len(got) == clan.children - 1 and not Path(clan.journal).exists():
                _note(clan, "waits")
                await asyncio.Event().wait()
            got = [*got, await child.result()]
            await context.save(Got(got=got))
        return got
