"""The agent that is measured: it gives back what it gets, through a model on the way in and on the way out."""

from __future__ import annotations

import time

from pydantic import BaseModel

from revo import Agent, rpc, task

ECHO = "revo.bench.echo:Echo"
BURNER = "revo.bench.echo:Burner"
IN_FLIGHT = 64
"""Tasks that are measured at once; the agent takes as many."""
TEXT = "x" * 1024
"""The message: 1 KiB."""


class Text(BaseModel):
    """1 KiB of text."""

    text: str


class Burn(BaseModel):
    """How many milliseconds of CPU to use."""

    ms: float


class Echo(Agent):
    """Gives back what it gets."""

    concurrency = IN_FLIGHT

    @task("echo")
    async def echo(self, message: Text) -> Text:
        """The task that is measured."""
        return message

    @rpc("echo")
    async def answer(self, message: Text) -> Text:
        """The request that is measured."""
        return message


class Burner(Agent):
    """Uses CPU."""

    concurrency = 4

    @task("burn")
    async def burn(self, message: Burn) -> int:
        """Use CPU; time that the process waits for a core does not count."""
        until = time.process_time() + message.ms / 1e3
        turns = 0
        while time.process_time() < until:
            turns += 1
        return turns
