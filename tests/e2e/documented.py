"""The agent that does what the programs in the documents ask for."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict

from revo import Agent, task


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


class Documented(Agent):
    """Names its task, and what it was given."""

    concurrency = 8

    @task("report")
    async def report(self, about: Anything) -> str:
        return f"report {about.model_dump()}"

    @task("sweep")
    async def sweep(self, about: Anything) -> None:
        """Nothing is there to be swept."""

    @task("summarize")
    async def summarize(self, about: Anything) -> str:
        return f"summary {about.model_dump()}"

    @task("transcribe")
    async def transcribe(self, about: Anything) -> int:
        audio: Any = about.model_dump()["audio"]
        return len(audio)

    @task("code_review")
    async def review(self, about: Anything) -> dict[str, Any]:
        await asyncio.sleep(20)  # noqa: TID251  (nobody waits for it; it is there to be estimated)
        return about.model_dump()
