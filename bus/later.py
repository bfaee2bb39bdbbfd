"""Keeps schedules in LATER, in the name of a steward: nobody else writes there.

A schedule stands on one subject while it is active and on another while it is paused. Each change stores first what is
to be and then takes away what was, so that after a crash in between the schedule stands, and is active if it stands as
both. Who may change which is not decided here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from bus import endings, jetstream, reading, schedules, subjects, when
from bus.backlog import Backlog
from bus.connection import Connection
from bus.errors import (
    ConfigError,
    NotFoundError,
    PayloadTooLargeError,
    TaskCancelledError,
)
from bus.messages import (
    CAPABILITY,
    CONTENT_TYPE,
    HEADROOM,
    SCHEDULE,
    TIME_ZONE,
    TRACEPARENT,
    WHEN,
    WHERE,
    without_control_headers,
)
from bus.schedules import Making, Plan, Planned, ScheduleInfo
from bus.standing import Standing, never_queued, next_of, read_making

FULL: Final = 0.4
"""Of LATER, which would evict what is oldest: then no more are taken. Each may take twice its room once it is due."""
_LOOKED: Final = 1.0
"""Seconds for which it is taken for granted how full LATER is, but for what was added since, and how far the server's
clock is ahead of ours."""


class Later:
    """The schedules, to whoever may change all of them."""

    def __init__(self, connection: Connection, backlog: Backlog, *, agent: str, instance: str) -> None:
        self._connection = connection
        self._backlog = backlog
        self._agent = agent
        self._instance = instance
        self._used = 0
        self._room = 0
        self._looked_at = 0.0
        self._ahead = 0.0

    async def put(self, plan: Plan, address: str, client: str) -> Planned:
        """Keep a schedule for a client; one of the same id is replaced, also when it is paused or has fallen due.

        Raises:
            ConfigError: it makes no sense, or its id is in use for one of the other kind.
            PayloadTooLargeError: no task could be made of it.
            TransportError: it may be stored or not; doing it again is safe.
        """
        due = when.parse(plan.when, plan.zone)
        if plan.after is not None and not due.once:
            raise ConfigError(f"after {plan.after:g}", f"is of what is due once, and not of {plan.when}")
        subjects.task(address, plan.priority, client)
        if plan.work:
            subjects.token(plan.work, "capability")
        if not due.once and len(plan.schedule_id) > schedules.MAX_ID:
            reason = (
                f"an id of {len(plan.schedule_id)} characters; it may have {schedules.MAX_ID}, for each task adds to it"
            )
            raise ConfigError(f"schedule {plan.schedule_id}", reason)
        limit = self._connection.max_payload - HEADROOM - schedules.ROOM
        if len(plan.body) > limit:
            raise PayloadTooLargeError(subjects.schedule(client, plan.schedule_id), len(plan.body), limit)
        before = None if plan.fresh else await self._before(plan, due.once, address, client)
        if isinstance(before, Planned):
            return before
        if said := await self._check_room(len(plan.body)):
            return Planned(schedule_id=plan.schedule_id, full=said)
        now = time.time() + self._ahead
        if plan.after is not None:
            due = when.ahead(plan.after, now)
        making = Making(
            address=address,
            priority=plan.priority,
            seconds=plan.seconds,
            when=due.text,
            zone=due.zone,
            at=now,
        )
        headers = {SCHEDULE: making.model_dump_json(), CONTENT_TYPE: plan.content_type}
        headers |= {CAPABILITY: plan.work} if plan.work else {}
        headers |= {TRACEPARENT: plan.traceparent} if plan.traceparent else {}
        stored = await self._activate(client, plan.schedule_id, making, headers, plan.body)
        if before is not None:
            kinds = (kind for kind in before.messages if kind != "later")
            await self._take_away(client, plan.schedule_id, kinds, up_to=stored.sequence)
        replaced = before is not None and before.messages.keys() != {"occurred"}
        return Planned(schedule_id=plan.schedule_id, next_at=next_of(making, now, now), replaced=replaced)

    async def _before(self, plan: Plan, once: bool, address: str, client: str) -> Standing | Planned | None:  # noqa: FBT001
        """What stands there already, or the answer where nothing is to be stored."""
        standing = await self._standing(client, plan.schedule_id)
        info = standing.info(time.time())
        if info is not None and info.once != once:
            kind = "once" if info.once else "again and again"
            reason = f"there is one of this id that is due {kind}; take it away first, or choose another id"
            raise ConfigError(f"schedule {plan.schedule_id}", reason)
        if once:
            subject = subjects.result(client, address, plan.schedule_id)
            if await endings.stored_result(self._connection, subject) is not None:
                return Planned(schedule_id=plan.schedule_id, duplicate=True)
        return standing if standing.messages else None

    async def _check_room(self, size: int) -> str:
        """Why one of that size is not taken; empty: it is."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at > _LOOKED:
            info = await jetstream.call(self._connection, "STREAM.INFO", subjects.LATER)
            self._ahead = jetstream.unix_ns(info["ts"]) / 1e9 - time.time()
            self._used, limit = int(info["state"]["bytes"]), int(info["config"]["max_bytes"])
            self._room, self._looked_at = int(limit * FULL) if limit > 0 else 2**62, now
        self._used += size + schedules.ROOM // 4
        if self._used <= self._room:
            return ""
        return f"schedules take {FULL:.0%} of stream {subjects.LATER}, as many as it may hold without losing one"

    async def _activate(
        self, client: str, schedule_id: str, making: Making, headers: dict[str, str], body: bytes
    ) -> jetstream.Stored:
        ordered = {WHEN: making.when, WHERE: subjects.due(client, schedule_id)}
        ordered |= {TIME_ZONE: making.zone} if making.zone else {}
        subject = subjects.schedule(client, schedule_id)
        return await jetstream.store(self._connection, subject, body, {**headers, **ordered})

    async def remove(self, client: str, schedule_id: str, *, by: str) -> ScheduleInfo:
        """Take a schedule away and return how it stood. A task that was to be done once ends as cancelled, unless it
        has ended; what is in the queue already is not touched.

        Raises:
            NotFoundError: there is none. ConfigError: several clients have one of this id.
            TransportError, QueueFullError: a step could not be done; doing it again is safe.
        """
        standing = await self._one(client, schedule_id)
        info = standing.info(time.time())
        if info is None:
            raise _not_found(schedule_id)
        if info.once:
            await self._cancel(standing, info, by)
        await self._take_away(standing.client, schedule_id, standing.messages)
        return info

    async def cancel(self, task_id: str, *, client: str, capability: str, by: str) -> bool:
        """End a task that is not due yet as cancelled; False: there is none of this id.

        Raises:
            ConfigError: several clients have one of this id. TransportError, QueueFullError: as `remove`.
        """
        try:
            standing = await self._one(client, task_id)
        except NotFoundError:
            return False
        info = standing.info(time.time())
        if info is None or not info.once or capability not in ("", info.capability):
            return False
        await self._cancel(standing, info, by)
        await self._take_away(standing.client, task_id, standing.messages)
        return True

    async def _cancel(self, standing: Standing, info: ScheduleInfo, by: str) -> None:
        """Store its result first: should it fall due this instant, whoever gets it finds that it has ended."""
        envelope = never_queued(info, standing.messages.values(), info.schedule_id)
        error = TaskCancelledError(info.schedule_id, by)
        result = endings.make_result(envelope, "cancelled", error, agent=self._agent, instance=self._instance)
        await endings.store_result(self._connection, envelope, result)

    async def pause(self, client: str, schedule_id: str) -> ScheduleInfo:
        """Let it fall due no more until `resume`. What has fallen due already is done.

        Raises:
            NotFoundError, ConfigError, TransportError: as `remove`.
        """
        standing = await self._one(client, schedule_id)
        active = standing.messages.get("later")
        if active is not None:
            headers = without_control_headers(active.headers)
            subject = subjects.paused(standing.client, schedule_id)
            rests = await jetstream.store(self._connection, subject, active.body, headers)
            gone = not await self._take_away(standing.client, schedule_id, ("later",), up_to=active.sequence)
            if gone and await self._has_been_due(standing.client, schedule_id, active):
                await self._take_away(standing.client, schedule_id, ("paused",), up_to=rests.sequence)
        return await self._told(standing.client, schedule_id)

    async def resume(self, client: str, schedule_id: str) -> ScheduleInfo:
        """Let a paused one go on from now; what is due once is due at once if its time has passed.

        Raises:
            NotFoundError, ConfigError, TransportError: as `remove`.
        """
        standing = await self._one(client, schedule_id)
        rests = standing.messages.get("paused")
        if rests is not None:
            if "later" not in standing.messages and not await self._has_been_due(standing.client, schedule_id, rests):
                headers = without_control_headers(rests.headers)
                making = read_making(headers, rests.subject)
                await self._activate(standing.client, schedule_id, making, headers, rests.body)
            await self._take_away(standing.client, schedule_id, ("paused",), up_to=rests.sequence)
        return await self._told(standing.client, schedule_id)

    async def _has_been_due(self, client: str, schedule_id: str, stored: jetstream.StoredMessage) -> bool:
        """Whether what is due only once has been due, though it is, or was to be, paused: a pause takes several steps.

        Looked for on the way that it takes, so that it is not missed on it: what is nowhere has not been due.
        """
        making = read_making(stored.headers, stored.subject)
        if not making.due.once:
            return False
        if await jetstream.last(self._connection, subjects.LATER, subjects.due(client, schedule_id)) is not None:
            return True
        await self._backlog.refresh()
        queued = await self._backlog.find(schedule_id)
        if any((task.client, task.capability) == (client, making.address) for task in queued):
            return True
        result = subjects.result(client, making.address, schedule_id)
        return await endings.stored_result(self._connection, result) is not None

    async def _told(self, client: str, schedule_id: str) -> ScheduleInfo:
        info = (await self._standing(client, schedule_id)).info(time.time())
        if info is None:
            raise _not_found(schedule_id)
        return info

    async def again(self, standing: Standing) -> Standing:
        """How an active schedule stands now. Who moves what is due notes the occurrence, and settles it then: so what
        is due is looked for first, and what is found neither there nor noted has not been due.
        """
        now = Standing(standing.client, standing.schedule_id)
        for kind in ("due", "occurred", "later"):
            subject = f"revo.{kind}.{now.client}.{now.schedule_id}"
            stored = await jetstream.last(self._connection, subjects.LATER, subject)
            if stored is not None:
                now.messages[kind] = stored
        return now

    async def forget(self, standing: Standing) -> None:
        """Take away all that is left of a schedule, and nothing that is younger."""
        up_to = max(stored.sequence for stored in standing.messages.values())
        await self._take_away(standing.client, standing.schedule_id, standing.messages, up_to=up_to)

    async def _one(self, client: str, schedule_id: str) -> Standing:
        if not client:
            names = await reading.subjects_in(self._connection, subjects.LATER, f"revo.*.*.{schedule_id}")
            clients = sorted({subjects.parse_schedule(name)[0] for name in names if ".occurred." not in name})
            if len(clients) > 1:
                raise ConfigError(f"schedule {schedule_id}", f"name its client, for it may be {' or '.join(clients)}'s")
            if not clients:
                raise _not_found(schedule_id)
            client = clients[0]
        standing = await self._standing(client, schedule_id)
        if not standing.messages.keys() - {"occurred"}:
            raise _not_found(schedule_id)
        return standing

    async def _standing(self, client: str, schedule_id: str) -> Standing:
        wanted = {
            "later": subjects.schedule(client, schedule_id),
            "paused": subjects.paused(client, schedule_id),
            "due": subjects.due(client, schedule_id),
            "occurred": subjects.occurred(client, schedule_id),
        }
        found = await asyncio.gather(
            *(jetstream.last(self._connection, subjects.LATER, subject) for subject in wanted.values())
        )
        messages = {kind: stored for kind, stored in zip(wanted, found, strict=True) if stored is not None}
        return Standing(client, schedule_id, messages)

    async def _take_away(self, client: str, schedule_id: str, kinds: Iterable[str], *, up_to: int = 0) -> int:
        """Take away what stands of it, or with `up_to` what is no younger than that sequence; return how many."""
        purged = 0
        for kind in kinds:
            body: dict[str, Any] = {"filter": f"revo.{kind}.{client}.{schedule_id}"}
            if up_to:
                body["seq"] = up_to + 1
            said = await jetstream.call(self._connection, "STREAM.PURGE", subjects.LATER, body=body)
            purged += int(said["purged"])
        return purged


def _not_found(schedule_id: str) -> NotFoundError:
    return NotFoundError(f"schedule {schedule_id}", "there is none; `revo schedule ls` shows those that are kept")
