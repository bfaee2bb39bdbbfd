"""One task in hand: what is known of it, and how it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from bus.alarms import Alarm
from bus.errors import BusError, DeadlineExceededError, TaskCancelledError
from bus.family import Family
from bus.messages import Attempts, Envelope, InHand, Result
from bus.outcomes import Happening, Policy
from bus.telemetry import Span
from bus.workbench import Workbench

Handler = Callable[[Envelope], Awaitable[object]]
"""Takes a task and returns its value (plain or pydantic). An interceptor takes a handler and returns one.

It raises `DecodeError` when the body is not the message it declares and `EncodeError` when what it would return is not
what it declares; whatever else it raises is its own error.
"""


NEW: Final = Attempts()
"""What is known of a task that has not been tried."""
NOTHING: Final = Span()


@dataclass(frozen=True, slots=True)
class Capability:
    """A kind of work that a worker does."""

    name: str
    handler: Handler
    policy: Policy
    saves: bool = False
    """Whether its handler keeps what it has so far, so that the next attempt goes on from there."""


@dataclass(slots=True, eq=False)
class Run:
    """One task in hand."""

    envelope: Envelope
    capability: Capability
    record: Attempts = NEW
    task: asyncio.Task[None] | None = None
    timer: Alarm | None = None
    """Goes off when it has waited too long for a slot."""
    alarm: Alarm | None = None
    """Goes off when its handler has run too long."""
    alone: asyncio.Future[None] | None = None
    stopped: Happening | None = None
    began_at: float = 0.0
    """When it was started, in unix seconds; `started_at` is when its handler was."""
    started_at: float = 0.0
    took: float | None = None
    """Seconds that its handler ran; None: it did not."""
    failed: bool = False
    """Whether that was the handler's failure, and not the caller's, as what does not decode is."""
    in_handler: bool = False
    concluding: bool = False
    """Whether what became of it is being carried out: from then on it is not stopped any more."""
    standing: Result | None = None
    """Its result, once one is known to be stored."""
    span: Span = NOTHING
    family: Family | None = None
    bench: Workbench | None = None
    way: int = 0
    """By which way its breaker let it start (`bus.breaker`); 0: by none, or what came of it has been told."""
    trial: bool = False
    """Whether it shows, in a half-open breaker, whether all is well again."""
    pause: float | None = None
    """Seconds until it comes again, when it is handed back; None: by its policy, or at once when nothing failed."""
    spare: str = ""
    """The id of a large value of it that no result names: another result stands, or none could be stored."""
    announced: bool = False
    """Whether a heartbeat has carried it."""

    @property
    def ran_alone(self) -> bool:
        """Whether it has been run with nothing else in the process, and counted as such."""
        return self.alone is not None and self.alone.done() and not self.alone.cancelled()

    def error_of(self, why: Happening) -> BusError | None:
        """The error that stands for a reason to stop it."""
        if why is Happening.CANCELLED:
            return TaskCancelledError(self.envelope.task_id, "somebody")
        if why is Happening.EXPIRED:
            return DeadlineExceededError(self.envelope.task_id, self.envelope.deadline)
        return None

    def as_in_hand(self) -> InHand:
        """What others are told of it."""
        state: Literal["held", "secluded", "running"] = "running"
        if self.task is None:
            state = "held"
        elif self.alone is not None and not self.alone.done():
            state = "secluded"
        envelope, (span_id, parent_id) = self.envelope, self.span.ids
        return InHand.model_construct(
            task_id=envelope.task_id,
            capability=envelope.capability,
            client=envelope.client,
            priority=envelope.priority,
            sequence=envelope.sequence,
            deliveries=envelope.deliveries,
            attempt=envelope.attempt,
            state=state,
            since=self.started_at or self.began_at,
            trace_id=self.span.trace_id,
            span_id=span_id,
            parent_id=parent_id,
        )

    def stop(self, why: Happening) -> None:
        """Cancel it; what it was cancelled for is its outcome. The first reason stands, and an end is not undone."""
        if self.stopped is None and not self.concluding and self.task is not None and not self.task.done():
            self.stopped = why
            self.task.cancel()

    @property
    def cancelling(self) -> bool:
        """Whether somebody has cancelled its task."""
        return self.task is not None and self.task.cancelling() > 0

    def uncancel(self) -> None:
        """It was stopped and is carried on to its end: its cancellation has done what it should."""
        while self.task is not None and self.task.uncancel() > 0:
            continue
