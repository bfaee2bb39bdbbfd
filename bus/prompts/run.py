"""One prompt in hand: what its span says, and what its caller is told when it ends before its handler does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from bus.errors import PromptRefusedError
from bus.prompts.prompt import LEFT, Stream
from bus.subjects import AGENTS, PromptAddress
from bus.telemetry import Attributes
from bus.wire import Message

DRAINED: Final = "drained"
LATE: Final = "late"


@dataclass(slots=True, eq=False)
class Run:
    """One prompt in hand."""

    message: Message
    stream: Stream
    stopped: asyncio.Future[str]
    """Done when it is to end before its handler does: with the reason."""
    task: asyncio.Task[None] | None = None
    waiting: bool = True
    size: int = 0
    """Bytes of it that count as waiting."""
    waited: float | None = None
    took: float | None = None

    def stop(self, why: str) -> None:
        """End it; the first reason counts."""
        if not self.stopped.done():
            self.stopped.set_result(why)

    def why(self, limit: float) -> PromptRefusedError:
        """What its caller is told once it is stopped; `limit` is the seconds that it might have taken."""
        stopped = self.stopped.result()
        if stopped == LEFT:
            return PromptRefusedError("the caller has left", 499)
        if stopped == LATE:
            return PromptRefusedError(f"it took longer than the limit of {limit:g} s", 500)
        return PromptRefusedError("the agent drains; ask another", 503)


def has_failed(failure: PromptRefusedError | None) -> bool:
    """Whether the agent failed: its caller did nothing wrong, and need not only come later."""
    return failure is not None and failure.number >= 500 and failure.number != 503


def attributes_of(message: Message, address: PromptAddress, instance: str) -> Attributes:
    """What the span of a prompt says from the start."""
    said: dict[str, Any] = {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.subject,
        "messaging.consumer.group.name": AGENTS,
        "messaging.message.body.size": len(message.data),
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": address.agent,
        "gen_ai.agent.id": instance,
        "gen_ai.conversation.id": address.session,
    }
    return said
