"""Your own agent, as it would stand in a repository of your own."""

import asyncio

from pydantic import BaseModel

from revo import Agent, task


class Greet(BaseModel):
    name: str
    seconds: float = 0.0


class Greeter(Agent):
    """Greets, and takes its time where that is asked for."""

    concurrency = 4
    version = "1.0.0"

    @task("greet")
    async def greet(self, message: Greet) -> str:
        await asyncio.sleep(message.seconds)
        return f"Hello, {message.name}!"
