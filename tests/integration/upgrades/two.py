"""Version 2 of the agent in `one.py`: its message has lost a field and gained one with a default, its result one."""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel

from revo import Agent, rpc, task


class Order(BaseModel):
    id: int
    new: str = "blue"


class Done(BaseModel):
    id: int
    by: str
    shade: str


def journal(what: str) -> None:
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what}\n".encode())
    os.close(file)


class Painter(Agent):
    version = "2.0.0"

    @task("paint", ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def paint(self, order: Order) -> Done:
        journal(f"two begin {order.id}")
        await asyncio.sleep(0.05)  # noqa: TID251  (the work itself)
        journal(f"two end {order.id}")
        return Done(id=order.id, by=self.version, shade=order.new)

    @rpc("price")
    async def price(self) -> str:
        await asyncio.sleep(0.01)  # noqa: TID251  (the work itself)
        return self.version
