"""The steward: a system actor, any number of replicas, none with a state that the others lack.

It ends tasks whose deadline has passed, whether or not a worker of their capability lives, and those that the server
delivers no more. It cancels, redrives and drops for clients that may not touch streams. It writes the span of an
attempt whose process died, and tells of the death; it finds who can make room where resources run short. What it does
may be done again, by itself or by another, after a crash at any step.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from typing import Final

from pydantic import BaseModel, Field

from actors.actor import rpc
from actors.registry.client import RegistryClient
from actors.steward.estimating import Estimating
from actors.steward.fairness import Fair
from actors.steward.families import Families
from actors.steward.scheduling import Scheduling
from actors.steward.shedding import Shed, Shedder, Shortage
from actors.steward.storage import Storing
from actors.steward.telling import Telling
from bus import subjects, topology
from bus.advisories import Advisories
from bus.backlog import Backlog
from bus.early import Ender
from bus.errors import BusError, NotFoundError
from bus.fields import AddressOrEmpty, Token, TokenOrEmpty
from bus.heartbeat import Watch
from bus.messages import Beat, Cancelled, DeadLetter, Envelope, Redriven
from bus.obituary import Obituary, is_gone
from bus.rpc import CALLER
from bus.suspicion import others_die_alone

log = logging.getLogger(__name__)

PATIENCE: Final = 0.25
"""Seconds that a worker has to end an expired task by itself."""
TROUBLED: Final = 30.0
"""Seconds until a task that cannot be ended is tried again."""
AT_ONCE: Final = 32
"""Overdue tasks that are ended side by side."""
ANCHOR_EVERY: Final = 60.0
"""Seconds between two notes of how many tasks there were: from them an audit knows which results must still stand."""


class Name(BaseModel):
    """One task. Client and capability are needed only where several have the same id."""

    task_id: Token
    client: TokenOrEmpty = ""
    capability: AddressOrEmpty = ""
    sequence: int = Field(0, description="where it stands in TASKS, if that is known: spares looking for it")
    by: str = Field("somebody", max_length=200, description="who asks; stands in the result")


class Address(BaseModel):
    """A capability, or an agent as `@name`."""

    name: str


class Standing(BaseModel):
    """How it is run, as the fields of `bus.outcomes.Policy`, and by which agent's word."""

    policy: dict[str, float]
    agent: str


class Company(BaseModel):
    """Did others die, too? See `bus.suspicion`."""

    own: str
    within: float = Field(gt=0, le=3600)


class Steward(Estimating, Families, Scheduling, Storing, Telling):
    """Ends what no worker ends: deadlines, cancels, tasks that are delivered no more; redrives dead letters."""

    name = subjects.STEWARD
    concurrency = 8

    async def on_start(self) -> None:
        """Look at the queue, the advisories and the heartbeats from now on."""
        connection, telemetry = self.mesh.connection, self.mesh.telemetry
        self._ender = Ender(connection, self.name, telemetry.instance, telemetry.metrics)
        self._backlog = Backlog(connection)
        self._shedder = Shedder(connection, RegistryClient(self.mesh), telemetry.instance)
        self._watch = Watch(connection)
        self._obituary = Obituary(connection, telemetry)
        self._fair = Fair(connection, self._backlog, self._watch, telemetry.metrics)
        self._stopping: dict[tuple[str, str], asyncio.Task[int]] = {}
        self.open_estimates()
        await self._watch.open()
        self._advisories = Advisories(connection, self._ender, spawn=self.spawn)
        await self._advisories.open()
        await self.open_schedules()
        self.spawn(self._look_at_the_queue())
        self.spawn(self._look_at_the_workers())
        self.open_storage(self._backlog)

    async def on_stop(self) -> None:
        """Take no more advisories; what is in hand comes again to another replica."""
        await self._advisories.close()
        await self.close_schedules()

    @rpc("cancel")
    async def cancel(self, task: Name) -> Cancelled:
        """Cancel a task, and its children. Says so when it comes too late.

        An agent may ask it of a task that is not its own when it has been cancelled already: that reaches the children
        which the agent has submitted since.
        """
        caller = CALLER.get()
        client, by = task.client or caller, caller or task.by
        if caller not in ("", client):
            return await self._ender.cancel_children(
                self._backlog, task.task_id, client=client, capability=task.capability
            )
        cancel = functools.partial(
            self._ender.cancel, self._backlog, task.task_id, client=client, capability=task.capability, by=by
        )
        try:
            return await cancel(sequence=task.sequence)
        except NotFoundError:
            await self.cancel_later(task.task_id, client=client, capability=task.capability, by=by)
        return await cancel()  # it may have fallen due meanwhile

    @rpc("redrive")
    async def redrive(self, task: Name) -> Redriven:
        """Submit a dead task anew. Asked again it is the same new task."""
        return await self._ender.redrive(task.task_id, client=_own(task), capability=task.capability)

    @rpc("others_die")
    async def others_die(self, question: Company) -> bool:
        """For a worker that must not read the records of others: is its task the only one that dies?"""
        return await others_die_alone(self.mesh.connection, question.own, question.within)

    @rpc("policy")
    async def policy(self, capability: Address) -> Standing:
        """For an agent, or a client, that may not look at consumers: how is a capability run?"""
        held, agent = await topology.standing_policy(self.mesh.connection, subjects.address(capability.name))
        return Standing(policy=dataclasses.asdict(held) if held else {}, agent=agent)

    @rpc("shed")
    async def shed(self, shortage: Shortage) -> Shed:
        """For an agent whose host's resources run short: have an idle instance leave it."""
        return await self._shedder.shed(shortage, CALLER.get())

    @rpc("drop")
    async def drop(self, task: Name) -> DeadLetter:
        """Take a dead letter out of DEAD for good."""
        return await self._ender.drop(task.task_id, client=_own(task), capability=task.capability)

    async def _look_at_the_queue(self) -> None:
        """End what is overdue. By the clock, for nothing announces that a time has passed: one request a look."""
        interval = self.mesh.connection.settings.steward_interval
        anchored_at, anchored = 0.0, -1
        while True:
            try:
                await self._backlog.refresh()
                while await self._expire_some():
                    continue
                await self._fair.look()
                now, last = self._backlog.server_time, self._backlog.last
                if last != anchored and now - anchored_at >= ANCHOR_EVERY:
                    await self._ender.anchor(self._backlog)
                    anchored_at, anchored = now, last
            except BusError as error:
                if not error.retryable:
                    raise
                log.warning("the queue could not be looked at: %s; trying again", error)
            await asyncio.sleep(interval)

    async def _expire_some(self) -> bool:
        overdue = await self._backlog.overdue(PATIENCE)
        some_were = bool(overdue)
        while overdue:
            some, overdue = overdue[:AT_ONCE], overdue[AT_ONCE:]
            ends = await asyncio.gather(*(self._expire(task) for task in some), return_exceptions=True)
            failures = [end for end in ends if isinstance(end, BaseException)]
            if failures:
                for task in overdue:
                    self._backlog.again(task)
                raise failures[0]
        return some_were

    async def _expire(self, task: Envelope) -> None:
        """End one overdue task. One that cannot be ended must not keep the steward from the others."""
        try:
            standing = await self._ender.expire(task)
        except BusError as error:
            self._backlog.again(task, after=0.0 if error.retryable else TROUBLED)
            if error.retryable:
                raise
            log.error("task %s is overdue and cannot be ended: %s", task.task_id, error)  # noqa: TRY400  (one line)
        else:
            log.info("task %s is overdue and ends as %s", task.task_id, standing.status)

    async def _look_at_the_workers(self) -> None:
        """Find out about those that are silent: whose process is gone is known at once, a hung one after its lease."""
        settings = self.mesh.connection.settings
        while True:
            await asyncio.sleep(settings.heartbeat / 2)
            silent = self._watch.silent(1.5 * settings.heartbeat)
            if silent and self.mesh.connection.is_connected:
                async with asyncio.TaskGroup() as group:
                    for beat in silent:
                        group.create_task(self._ask_after(beat))

    async def _ask_after(self, beat: Beat) -> None:
        lease = self.mesh.connection.settings.lease
        try:
            gone = await is_gone(self.mesh.connection, beat)
            hung = any(other.instance == beat.instance for other in self._watch.silent(lease))
            if gone is False:
                self._watch.heard(beat.instance)
            elif gone or hung:
                await (self._obituary.died(beat) if gone else self._obituary.hangs(beat, lease))
                self._watch.forget(beat.instance)  # who only hung is known again by its next heartbeat
        except BusError as error:
            if not error.retryable:
                raise
            log.warning("%s is silent, and could not be asked after: %s", beat.instance, error)


def _own(task: Name) -> str:
    """Whose task it is that is asked for: for who may ask for his own alone, there are no others.

    Raises:
        NotFoundError: it is somebody else's.
    """
    caller = CALLER.get()
    if caller not in ("", task.client) and task.client:
        raise NotFoundError(f"task {task.task_id}", f"client {caller} has none of this id")
    return task.client or caller
