"""What a steward says of when a task will start (`bus.estimates`)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel

from actors.actor import Actor, rpc
from bus import jetstream, subjects
from bus.backlog import Backlog
from bus.errors import NotFoundError
from bus.estimates import Estimate, estimate
from bus.fields import Address, TokenOrEmpty
from bus.heartbeat import Watch
from bus.messages import Beat, Envelope
from bus.rpc import CALLER

LOOKED: Final = 0.25
"""Seconds for which a look at the consumers of a capability is good enough: it is an estimate."""


class Question(BaseModel):
    """A task of some id, or with an empty one a task that would be submitted now."""

    capability: Address
    priority: Annotated[str, AfterValidator(subjects.priority)] = "normal"
    task_id: TokenOrEmpty = ""
    client: TokenOrEmpty = ""


@dataclass(frozen=True, slots=True)
class _Standing:
    """The queues of a capability, by priority."""

    at: float
    waiting: dict[str, int]
    in_lane: dict[str, int]
    in_hand: int
    delivered: dict[str, int]
    paused: bool


class Estimating(Actor):
    """The steward's part in it."""

    _backlog: Backlog
    _watch: Watch
    _looks: dict[str, _Standing]

    def open_estimates(self) -> None:
        """Nobody has asked yet."""
        self._looks = {}

    @rpc("estimate")
    async def estimate(self, question: Question) -> Estimate:
        """When does a task start? By what waits before it, and how long such tasks have taken lately."""
        client = CALLER.get() or question.client
        task = await self._task(question, client) if question.task_id else None
        capability = task.capability if task is not None else question.capability
        priority = task.priority if task is not None else question.priority
        standing = await self._stand(capability)
        beats = self._watch.doing(capability)
        slots = sum(beat.concurrency for beat in beats)
        took = _took(beats, capability)
        if standing.paused:
            return Estimate(starts_in=None, ahead=0, slots=slots, took=took, why=f"{capability} is paused")
        if task is not None and not subjects.in_lane(task.subject) and task.sequence <= standing.delivered[priority]:
            return Estimate(starts_in=0.0, ahead=0, slots=slots, took=took, why="it is with a worker, or was before")
        urgent = subjects.PRIORITIES[: subjects.PRIORITIES.index(priority)]
        ahead = sum(standing.waiting[one] + standing.in_lane[one] for one in urgent)
        ahead += self._ahead(task, standing, capability, priority, client)
        return estimate(
            ahead=ahead,
            waiting=standing.waiting[priority] + standing.in_lane[priority],
            slots=slots,
            busy=min(slots, standing.in_hand),
            took=took,
        )

    async def _task(self, question: Question, client: str) -> Envelope:
        await self._backlog.refresh()
        found = await self._backlog.find(question.task_id)
        for task in found:
            if task.capability == question.capability and client in ("", task.client):
                return task
        raise NotFoundError(f"task {question.task_id}", "it neither waits nor runs")

    def _ahead(self, task: Envelope | None, standing: _Standing, capability: str, priority: str, client: str) -> int:
        """How many of the same priority come before it. Queue and lane are served in turn, and who has few tasks is in
        the lane, after those that are there, as soon as he would wait for more in the queue.
        """
        queue, lane = standing.waiting[priority], standing.in_lane[priority]
        if task is not None:
            address = subjects.TaskAddress(capability, priority, task.client)
            before, before_in_lane = self._backlog.before(address, standing.delivered[priority], task.sequence)
            if subjects.in_lane(task.subject):
                return min(lane, before_in_lane) + min(queue, before_in_lane)
            queue = min(queue, before)
        share = self.mesh.connection.settings.fair_share
        own = self._backlog.lines.get(subjects.TaskAddress(capability, priority, client).subject()) if client else None
        few = own is None or len(own.sequences) <= share
        if few and standing.waiting[priority] > 2 * share and self._watch.serves_lanes(capability):
            return min(queue, share) + lane
        return queue + min(queue, lane)

    async def _stand(self, capability: str) -> _Standing:
        looks, now = self._looks, time.monotonic()
        for name in [name for name, look in looks.items() if now - look.at > LOOKED]:
            del looks[name]
        if capability in looks:
            return looks[capability]
        names = [subjects.consumer(capability, priority) for priority in subjects.PRIORITIES]
        names += [subjects.lane_consumer(capability, priority) for priority in subjects.PRIORITIES]
        infos = await asyncio.gather(*(self._consumer(name) for name in names))
        queues = dict(zip(subjects.PRIORITIES, infos, strict=False))
        lanes = dict(zip(subjects.PRIORITIES, infos[len(queues) :], strict=True))
        if not any(queues.values()):
            raise NotFoundError(f"capability {capability}", "no agent ever had it")
        looks[capability] = found = _Standing(
            at=now,
            waiting={one: info.get("num_pending", 0) for one, info in queues.items()},
            in_lane={one: info.get("num_pending", 0) for one, info in lanes.items()},
            in_hand=sum(info.get("num_ack_pending", 0) for info in infos),
            paused=any(info.get("paused") for info in infos),
            delivered={one: info.get("delivered", {}).get("stream_seq", 0) for one, info in queues.items()},
        )
        return found

    async def _consumer(self, name: str) -> dict[str, Any]:
        try:
            return await jetstream.call(self.mesh.connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            return {}


def _took(beats: list[Beat], capability: str) -> float | None:
    """How long such tasks occupy a slot: the mean of those who do them, by their slots; of an agent's own tasks, of all
    that it does.
    """
    known = [
        (beat.concurrency, seconds)
        for beat in beats
        for name, seconds in beat.took.items()
        if capability in (name, f"@{beat.agent}")
    ]
    slots = sum(concurrency for concurrency, _ in known)
    return sum(concurrency * seconds for concurrency, seconds in known) / slots if slots else None
