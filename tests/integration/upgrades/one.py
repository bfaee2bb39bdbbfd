"""Version 1 of an agent."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from revo import Agent, Retry, TaskContext, rpc, task


class Order(BaseModel):
    """`old` is gone in version 2, and has no default here."""

    id: int
    old: str
    note: str = ""


class Done(BaseModel):
    id: int
    by: str


def journal(what: str) -> None:
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what}\n".encode())  # one write, in one piece: several processes write at once
    os.close(file)


class Painter(Agent):
    version = "1.0.0"

    @task("paint", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def paint(self, order: Order, context: TaskContext) -> Done:
        journal(f"one begin {order.id}")
        if order.note == "retry" and context.attempt == 1:
            raise Retry(1.0)
        if order.note == "hold":
            gate = Path(os.environ["JOURNAL"]).with_name("gate")  # a pipe: to read it is to wait for who writes it
            await asyncio.to_thread(gate.read_bytes)
        await asyncio.sleep(0.05)  # noqa: TID251  (the work itself)
        journal(f"one end {order.id}")
        return Done(id=order.id, by=self.version)

    @rpc("price")
    async def price(self) -> str:
        await asyncio.sleep(0.01)  # noqa: TID251  (the work itself)
        return self.version
