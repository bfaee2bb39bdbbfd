"""Agents whose handlers have others do the work, for tests that kill them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from revo import Agent, TaskContext, task


class Clan(BaseModel):
    """`children` tasks for the capability `does`, and what they do; `journal` is told when a run begins and waits."""

    children: int = 0
    journal: str = ""
    does: str = "echo"


class Elder(Agent):
    """Submits tasks, and waits for all of them."""

    concurrency = 10
    submits = ("echo", "toil", "lead", "spend")

    @task("lead", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def lead(self, clan: Clan, context: TaskContext) -> list[object]:
        _note(clan, f"begin {context.attempt}")
        messages = [{"n": n} for n in range(clan.children)]
        few = len(messages) // 2
        handles = [await self.mesh.submit(clan.does, message) for message in messages[:few]]
        handles += await self.mesh.submit_many(clan.does, messages[few:])
        _note(clan, "waits")
        return await self.mesh.gather(*handles)


def _note(clan: Clan, what: str) -> None:
    if clan.journal:
        with Path(clan.journal).open("a") as file:
            file.write(f"{what}\n")
