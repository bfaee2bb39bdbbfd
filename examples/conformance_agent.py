import asyncio
import json
from typing import Any

from pydantic import BaseModel

from revo import Agent, TaskContext, task


class Told(BaseModel):
    do: str
    tell: str = ""
    value: Any = None
    seconds: float = 0.0
    size: int = 0


class AsToldError(Exception):
    code = "as_told"

    def __init__(self, text: str, *, retryable: bool) -> None:
        super().__init__(text)
        self.retryable = retryable


class Conformer(Agent):
    """Does as `revo conformance` tells it (`docs/conformance.md`)."""

    concurrency = 4

    @task("conform", ack_wait=1.0, backoff=0.1)
    async def conform(self, told: Told, context: TaskContext) -> Any:
        await self.tell(told, "begin")
        try:
            await asyncio.sleep(told.seconds)
        except asyncio.CancelledError:
            await self.tell(told, "stopped")
            raise
        await self.tell(told, "end")
        if told.do == "fail" or (told.do == "fail-once" and context.attempt == 1):
            raise AsToldError("as told", retryable=True)
        if told.do == "fail-for-good":
            raise AsToldError("as told, and for good", retryable=False)
        return "x" * told.size if told.do == "large" else told.value

    async def tell(self, told: Told, event: str) -> None:
        if told.tell:
            await self.mesh.connection.publish(told.tell, json.dumps({"event": event}).encode())
