"""What a steward does about schedules: keeps them for clients, and makes tasks of what falls due."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from actors.actor import Actor, rpc
from bus import events, standing, subjects
from bus.backlog import Backlog
from bus.due import MISSED, Due
from bus.errors import BusError, ConfigError, NotFoundError, PermissionDeniedError
from bus.later import Later
from bus.rpc import CALLER, SCOPE
from bus.schedules import Listing, Plan, Planned, ScheduleInfo, Which, Whose

log = logging.getLogger(__name__)

TRIED_AGAIN: Final = 1.0
"""Seconds until a look at what was missed is tried again."""


class Scheduling(Actor):
    """The part of a steward that keeps schedules. Everybody changes his own; who is nobody in particular, anybody's."""

    _backlog: Backlog

    async def open_schedules(self) -> None:
        """Move what falls due from now on, and what was missed."""
        connection, telemetry = self.mesh.connection, self.mesh.telemetry
        self._later = Later(connection, self._backlog, agent=self.name, instance=telemetry.instance)
        self._due = Due(connection, self.name, telemetry.instance, telemetry.metrics, spawn=self.spawn)
        try:
            await self._due.open()
        except (NotFoundError, PermissionDeniedError) as error:
            cure = "`revo topology apply` makes the stream, `revo keys` grants it; start the steward again then"
            log.warning("no schedules are kept, for %s; %s", error, cure)
            return
        self._catching_up = asyncio.Event()
        self._catching_up.set()
        connection.on_reconnect(self._connected_again)
        self.spawn(self._catch_up())

    async def close_schedules(self) -> None:
        """Move no more; what is in hand comes again to another replica."""
        self.mesh.connection.forget(self._connected_again)
        await self._due.close()

    @rpc("schedule", scoped=True)
    async def schedule(self, plan: Plan) -> Planned:
        """Keep a schedule for whoever asks. The scope is where its tasks are sent: permissions decide who may."""
        client = _whose(plan.client, f"schedule {plan.schedule_id}")
        if not client:
            raise ConfigError(f"schedule {plan.schedule_id}", "names no client")
        planned = await self._later.put(plan, SCOPE.get(), client)
        if not (planned.full or planned.duplicate or plan.when.startswith("@at ")):
            what = "replaced" if planned.replaced else "added"
            by = _who(f"client {client}")
            await self._tell(plan.schedule_id, what, by, client=client, when=plan.when, capability=SCOPE.get())
        return planned

    @rpc("schedules")
    async def schedules(self, whose: Whose) -> Listing:
        """The schedules of a client, or everybody's."""
        client = _whose(whose.client, f"schedules of {whose.client}")
        if whose.after is not None:
            return await standing.page(self.mesh.connection, client, whose.after)
        return await standing.listing(self.mesh.connection, client, whose.schedule_id)

    @rpc("unschedule")
    async def unschedule(self, which: Which) -> ScheduleInfo:
        """Take a schedule away; a task that was to be done once ends as cancelled."""
        client = _whose(which.client, f"schedule {which.schedule_id}")
        info = await self._later.remove(client, which.schedule_id, by=CALLER.get() or which.by)
        await self._tell_of(info, "removed", which)
        return info

    @rpc("pause_schedule")
    async def pause_schedule(self, which: Which) -> ScheduleInfo:
        """Let a schedule fall due no more for now."""
        info = await self._later.pause(_whose(which.client, f"schedule {which.schedule_id}"), which.schedule_id)
        await self._tell_of(info, "paused", which)
        return info

    @rpc("resume_schedule")
    async def resume_schedule(self, which: Which) -> ScheduleInfo:
        """Let a paused schedule go on."""
        info = await self._later.resume(_whose(which.client, f"schedule {which.schedule_id}"), which.schedule_id)
        await self._tell_of(info, "resumed", which)
        return info

    async def cancel_later(self, task_id: str, *, client: str, capability: str, by: str) -> bool:
        """Cancel a task that is not due yet; False: there is none of this id."""
        return await self._later.cancel(task_id, client=client, capability=capability, by=by)

    async def _tell_of(self, info: ScheduleInfo, what: str, which: Which) -> None:
        await self._tell(info.schedule_id, what, _who(which.by), client=info.client, capability=info.capability)

    async def _tell(self, schedule_id: str, what: str, by: str, **about: str) -> None:
        await events.tell(self.mesh.connection, events.SCHEDULE, schedule_id, what, by=by, **about)

    async def _connected_again(self) -> None:
        self._catching_up.set()

    async def _catch_up(self) -> None:
        """Look for what was missed when the steward starts, and when the server may have been away."""
        while True:
            await self._catching_up.wait()
            self._catching_up.clear()
            await asyncio.sleep(MISSED)  # a server that knows of it itself tells by then
            try:
                await self._due.catch_up(self._later)
            except BusError as error:
                if not error.retryable:
                    raise
                log.warning("cannot tell yet which schedules were missed: %s; trying again", error)
                await asyncio.sleep(TRIED_AGAIN)
                self._catching_up.set()


def _who(said: str) -> str:
    """Who asks: by the subject, where permissions hold that, and else by his own word."""
    caller = CALLER.get()
    return f"client {caller}" if caller else said


def _whose(client: str, what: str) -> str:
    """Whose schedule it is: for who may ask for his own alone, there are no others.

    Raises:
        NotFoundError: it is somebody else's.
    """
    caller = CALLER.get()
    if caller and client not in ("", caller):
        raise NotFoundError(what, f"client {caller} sees its own alone, and has none such")
    return caller or (client and subjects.token(client, "client"))
