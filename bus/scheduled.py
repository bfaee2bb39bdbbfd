"""Submits tasks that are to be done later, once or again and again, and is the face of their schedules."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bus import codec, schedules, subjects
from bus.errors import ConfigError, NotFoundError
from bus.handle import Client, Handle
from bus.messages import MAX_DEADLINE, TRACEPARENT
from bus.schedules import Plan, Planned, ScheduleInfo
from bus.submitting import Submitter
from bus.telemetry import Attributes
from bus.when import When


@dataclass(frozen=True, slots=True, kw_only=True)
class What:
    """A task that is to be done later, as `bus.mesh.Mesh.submit` is told of it."""

    capability: str
    message: BaseModel | dict[str, Any]
    agent: str | None
    priority: str
    deadline: float | None
    task_id: str | None
    schedule_id: str | None
    idempotency_key: str | None
    by_content: bool


class Schedule:
    """Something that is due again and again. Each time it makes a task with an id and a result of its own."""

    def __init__(self, client: Client, schedule_id: str, capability: str) -> None:
        self._client = client
        self.id = schedule_id
        self.capability = capability
        """Or `@<agent>`, as in the subject of its tasks."""
        self.next_at: float | None = None
        """Unix seconds: when it was to be due next, when it was last heard of; None: it is paused."""
        self.replaced = False
        """Whether there was one of this id, which this one took the place of."""
        self.warning = ""
        """What who made it should know, such as that no agent has the capability yet."""

    async def info(self) -> ScheduleInfo:
        """How it stands.

        Raises:
            NotFoundError: it was taken away.
            NoStewardError, TransportError: nobody says.
        """
        client = self._client
        listing = await schedules.find(
            client.connection, client.telemetry, client=client.name, schedule_id=subjects.token(self.id, "schedule id")
        )
        if not listing.schedules:
            raise NotFoundError(f"schedule {self.id}", f"client {client.name} has none of this id")
        return self._heard(listing.schedules[0])

    async def last(self) -> Handle | None:
        """The task that it made last; None: none so far.

        Raises:
            NotFoundError, NoStewardError, TransportError: see `info`.
        """
        info = await self.info()
        return None if info.last is None else Handle(self._client, info.capability, info.last.task_id)

    async def cancel(self) -> ScheduleInfo:
        """Take it away, and return how it stood. Tasks that it made already are done all the same.

        Raises:
            NotFoundError: it is gone.
            NoStewardError, TransportError: it may be gone or not; doing it again is safe.
        """
        return await self._turn("unschedule")

    async def pause(self) -> ScheduleInfo:
        """Let it be due no more until `resume`.

        Raises:
            NotFoundError, NoStewardError, TransportError: see `cancel`.
        """
        return await self._turn("pause_schedule")

    async def resume(self) -> ScheduleInfo:
        """Let it be due again, from now on. What it would have done meanwhile is not made up for.

        Raises:
            NotFoundError, NoStewardError, TransportError: see `cancel`.
        """
        return await self._turn("resume_schedule")

    async def _turn(self, method: str) -> ScheduleInfo:
        client = self._client
        by = f"client {client.name}"
        return self._heard(
            await schedules.turn(client.connection, client.telemetry, method, self.id, client=client.name, by=by)
        )

    def _heard(self, info: ScheduleInfo) -> ScheduleInfo:
        self.capability, self.next_at = info.capability, info.next_at
        return info


class Scheduler:
    """Has the stewards keep the schedules of one client."""

    def __init__(self, client: Client, submitter: Submitter) -> None:
        self._client = client
        self._submitter = submitter

    async def once(self, when: When, what: What) -> Handle:
        """Have a task submitted when it is due; see `bus.mesh.Mesh.submit`."""
        if not self._client.arrivals.listening:
            await self._client.arrivals.listen()
        chosen = self._chosen_id(what)
        address, plan = self._plan(when, what, chosen)
        handle = Handle(self._client, address, plan.schedule_id, new=chosen is None)
        handle.duplicate = (await self._send(address, plan)).duplicate
        handle.warning = await self._submitter.warning(address)
        return handle

    async def again(self, when: When, what: What) -> Schedule:
        """Have tasks submitted whenever they are due; see `bus.mesh.Mesh.submit`."""
        chosen = self._chosen_id(what)
        if chosen is not None and len(chosen) > schedules.MAX_ID:
            reason = f"is {len(chosen)} characters long; it may have {schedules.MAX_ID}, for each task adds a number"
            raise ConfigError(f"schedule {chosen}", reason)
        address, plan = self._plan(when, what, chosen)
        schedule = self.of(plan.schedule_id, address)
        planned = await self._send(address, plan)
        schedule.next_at, schedule.replaced = planned.next_at, planned.replaced
        schedule.warning = await self._submitter.warning(address)
        return schedule

    def of(self, schedule_id: str, capability: str = "") -> Schedule:
        """The schedule of an id, whether there is one or not."""
        return Schedule(self._client, subjects.token(schedule_id, "schedule id"), capability)

    async def all(self) -> list[ScheduleInfo]:
        """Those of this client, the next one first."""
        client = self._client
        return await schedules.find_all(client.connection, client.telemetry, client=client.name)

    def _chosen_id(self, what: What) -> str | None:
        if what.schedule_id is not None and what.task_id is not None and what.schedule_id != what.task_id:
            raise ConfigError("submit", "give one of task_id and schedule_id, for each names the schedule")
        if what.schedule_id is not None:
            subjects.token(what.schedule_id, "schedule id")
        task_id = what.task_id if what.schedule_id is None else what.schedule_id
        return self._submitter.chosen_id(what.message, task_id, what.idempotency_key, by_content=what.by_content)

    def _plan(self, when: When, what: What, chosen: str | None) -> tuple[str, Plan]:
        """Where its tasks are sent, and what a steward is told."""
        work = "" if what.agent is None else subjects.token(what.capability, "capability")
        address = what.capability if what.agent is None else subjects.agent_address(what.agent)
        subject = subjects.task(address, what.priority, self._client.name)
        default = self._client.connection.settings.deadline
        seconds = default if what.deadline is None else what.deadline
        if not (isinstance(seconds, int | float) and math.isfinite(seconds) and 0 < seconds <= MAX_DEADLINE):
            raise ConfigError("deadline", f"{seconds!r} is not a number of seconds above zero, and up to 30 days")
        message = what.message.model_dump() if isinstance(what.message, BaseModel) else what.message
        return address, Plan(
            schedule_id=chosen or secrets.token_hex(16),
            client=self._client.name,
            when=when.text,
            after=when.span,
            zone=when.zone,
            body=codec.encode(message, subject=subject),
            priority=what.priority,
            seconds=seconds,
            work=work,
            fresh=chosen is None,
        )

    async def _send(self, address: str, plan: Plan) -> Planned:
        """Ask a steward. What is due once stays in the trace of whoever submits it."""
        client, headers = self._client, dict[str, str]()

        def attributes() -> Attributes:
            return {
                "messaging.system": "nats",
                "messaging.operation.name": "schedule",
                "messaging.operation.type": "send",
                "messaging.destination.name": subjects.schedule(client.name, plan.schedule_id),
                "messaging.message.id": plan.schedule_id,
                "messaging.message.body.size": len(plan.body),
            }

        with client.telemetry.sending(f"schedule {address}", headers, attributes):
            if plan.when.startswith("@at "):
                plan.traceparent = headers.get(TRACEPARENT, "")
            return await schedules.plan(client.connection, client.telemetry, address, plan)
