"""The agent that the storms fall on. Deadlines, attempts and backoff are the shipped ones."""

from __future__ import annotations

import asyncio
import os
import signal

from pydantic import BaseModel

from revo import Agent, TaskContext, task


class Job(BaseModel):
    id: int
    seconds: float = 0.05
    what: str = "work"
    journal: str = ""
    data: bytes = b""
    saves: str = ""
    """Where it notes each step that it has saved, of work that has some."""


class Steps(BaseModel):
    done: int = 0


def write(path: str, line: str) -> None:
    """One write, in one piece: several processes write at once."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


class Chaotic(Agent):
    concurrency = 4

    @task("chaos", saves=Steps)
    async def chaos(self, job: Job, context: TaskContext) -> int | bytes:
        if job.journal:
            write(job.journal, f"{job.id}")
        if job.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.what == "raise":
            raise ValueError("as told")
        if job.what == "steps":
            so_far = context.saved or Steps()
            for step in range(so_far.done, 3):
                context.emit(step)
                await asyncio.sleep(job.seconds / 3)  # noqa: TID251  (the work itself)
                await context.save(Steps(done=step + 1))
                write(job.saves, f"{job.id} {step}")
            return job.id
        await asyncio.sleep(job.seconds)  # noqa: TID251  (the work itself)
        return job.data or job.id


class Brood(BaseModel):
    first: int
    children: int
    journal: str


class Brooding(Agent):
    """Has others do all of its work, some before it submits the rest."""

    concurrency = 4
    submits = ("chaos",)

    @task("brood", ack_wait=1.0)
    async def brood(self, brood: Brood, context: TaskContext) -> list[int]:
        ids = range(brood.first, brood.first + brood.children)
        messages = [{"id": number, "journal": brood.journal, "seconds": 0.2} for number in ids]
        half = len(messages) // 2
        done = await self.mesh.gather(*(await self.mesh.submit_many("chaos", messages[:half])))
        rest = [await self.mesh.submit("chaos", message) for message in messages[half:]]
        context.spend(tokens=1)
        return [*done, *(await self.mesh.gather(*rest))]
