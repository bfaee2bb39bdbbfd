"""The agent that the storms fall on. Deadlines, attempts and backoff are the shipped ones."""

from __future__ import annotations

import asyncio
import os
import signal

from pydantic import BaseModel

from revo import Agent, task


class Job(BaseModel):
    id: int
    seconds: float = 0.05
    what: str = "work"
    journal: str = ""
    data: bytes = b""


class Chaotic(Agent):
    concurrency = 4

    @task("chaos")
    async def chaos(self, job: Job) -> int | bytes:
        if job.journal:  # one write, in one piece: several processes write at once
            file = os.open(job.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, f"{job.id}\n".encode())
            os.close(file)
        if job.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.what == "raise":
            raise ValueError("as told")
        await asyncio.sleep(job.seconds)  # noqa: TID251  (the work itself)
        return job.data or job.id
