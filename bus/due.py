"""Makes tasks of what has fallen due: takes it out of LATER and puts it into TASKS.

All stewards share one consumer. The task is stored first, under an id that the message alone determines, and the
message settled then: killed in between, it is done again, and the second task is dropped by its `Nats-Msg-Id` or,
later, ended by the first one's result. A full queue of one client holds up nobody else's: what is refused comes again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus import codec, endings, events, jetstream, standing, subjects
from bus.connection import Connection
from bus.errors import BusError, DeadlineExceededError, DecodeError, InvalidSubjectError, NotFoundError, ServerError
from bus.later import Later
from bus.messages import (
    CAPABILITY,
    CONTENT_TYPE,
    DEADLINE,
    HEADROOM,
    MSG_ID,
    MSGPACK,
    SCHEDULED,
    TASK_ID,
    TRACEPARENT,
    VERSION,
    WIRE_VERSION,
    Status,
    without_control_headers,
)
from bus.outcomes import Settle
from bus.pull import Puller, Source
from bus.schedules import Making, ScheduleInfo
from bus.standing import Standing
from bus.telemetry import NOT_COUNTED, Metrics
from bus.topology import server_time
from bus.wire import Message

log = logging.getLogger(__name__)

AT_ONCE: Final = 200
"""What has fallen due and is moved side by side."""
PAUSE: Final = 0.25
PAUSE_MAX: Final = 10.0
"""Seconds until what could not be moved comes again, at first and at the longest."""
MISSED: Final = 2.0
"""Seconds after its time from which an occurrence is taken for missed: the server, when it starts, tells by itself of
those that it knows of within a quarter of a second."""
_NS: Final = 1_000_000_000
_KEPT: Final = (CONTENT_TYPE, CAPABILITY, TRACEPARENT, "tracestate")


class Due:
    """One member of the stewards that move what has fallen due."""

    def __init__(
        self,
        connection: Connection,
        agent: str,
        instance: str,
        metrics: Metrics = NOT_COUNTED,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`spawn` runs a coroutine; should it fail, the process ends."""
        self._connection = connection
        self._agent = agent
        self._instance = instance
        self._metrics = metrics
        self._spawn = spawn
        self._in_hand = 0
        self._moved = 0
        source = Source("due", subjects.STEWARD, 0, subjects.LATER)
        self._puller = Puller(connection, [source], self._on_message, spawn=spawn, fail=self._fail, on_quiet=_nothing)
        metrics.watch("revo_schedule_tasks", "Tasks made of what fell due.", lambda: float(self._moved), grows=True)

    async def open(self) -> None:
        """Make the consumer that all stewards share and pull from it."""
        config = {
            "durable_name": subjects.STEWARD,
            "description": "what has fallen due",
            "filter_subject": subjects.DUE_SUBJECTS,
            "ack_policy": "explicit",
            "ack_wait": int(self._connection.settings.ack_wait * _NS),
            "max_deliver": -1,
            "max_ack_pending": -1,  # what waits for room in the queue must not hold up the rest
            "num_replicas": self._connection.settings.replicas,
        }
        body = {"stream_name": subjects.LATER, "config": config, "action": "create"}
        names = (subjects.LATER, subjects.STEWARD, subjects.DUE_SUBJECTS)
        try:
            await jetstream.call(self._connection, "CONSUMER.INFO", subjects.LATER, subjects.STEWARD)
        except NotFoundError:
            try:
                await jetstream.call(self._connection, "CONSUMER.CREATE", *names, body=body)
            except ServerError as error:
                if error.api_code not in jetstream.CONSUMER_EXISTS:
                    raise  # otherwise another steward made it between our two calls
        self._puller.want(AT_ONCE)

    async def close(self) -> None:
        """Pull no more; what is in hand comes again to another steward."""
        await self._puller.stop()

    def _on_message(self, message: Message) -> None:
        self._in_hand += 1
        self._spawn(self._take(message))

    async def _take(self, message: Message) -> None:
        ack = subjects.parse_ack(message.reply)
        try:
            await self._move(message, ack)
            settle: bytes = Settle.ACK.value
        except (DecodeError, InvalidSubjectError) as error:
            log.warning("what fell due on %s is no task of ours and is put aside: %s", message.subject, error)
            settle = Settle.TERM.value
        except BusError as error:
            pause = min(PAUSE_MAX, PAUSE * 2.0 ** min(ack.deliveries - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311
            said = log.warning if ack.deliveries == 3 else log.debug
            said("what fell due on %s is not moved yet: %s", message.subject, error)
            settle = b"%s %s" % (Settle.NAK.value, json.dumps({"delay": int(pause * 1e9)}).encode())
        finally:
            self._in_hand -= 1
        self._puller.want(max(1, AT_ONCE - self._in_hand))
        if self._connection.is_connected:  # else it comes again
            await self._connection.publish(message.reply, settle)

    async def _move(self, message: Message, ack: subjects.AckToken) -> None:
        client, schedule_id = subjects.parse_schedule(message.subject)
        making = standing.read_making(message.headers, message.subject)
        once = making.due.once
        task_id = schedule_id if once else f"{schedule_id}-{ack.sequence}"
        subjects.token(task_id, "task id")
        due_at = ack.stored_at_ns / 1e9
        stored = jetstream.StoredMessage(message.subject, ack.sequence, message.headers, message.data, ack.stored_at_ns)
        if due_at + making.seconds <= time.time():
            error = DeadlineExceededError(task_id, due_at + making.seconds)
            await self._end(client, making, stored, task_id, "expired", error)
        else:
            try:
                await self._submit(client, making, stored, task_id, scheduled="" if once else schedule_id)
            except BusError as error:
                if error.retryable:
                    raise
                await self._end(client, making, stored, task_id, "failed", error)
        if not once:
            body = codec.encode({"sequence": ack.sequence, "at": due_at})
            headers = {CONTENT_TYPE: MSGPACK}
            await jetstream.store(self._connection, subjects.occurred(client, schedule_id), body, headers)

    async def _submit(
        self, client: str, making: Making, stored: jetstream.StoredMessage, task_id: str, *, scheduled: str
    ) -> None:
        headers: dict[str, str] = {name: stored.headers[name] for name in _KEPT if name in stored.headers}
        headers |= {
            MSG_ID: f"{client}.{making.address}.{task_id}",
            TASK_ID: task_id,
            DEADLINE: f"{stored.stored_at + making.seconds:.3f}",
            VERSION: WIRE_VERSION,
        }
        if scheduled:
            headers[SCHEDULED] = scheduled
        subject = subjects.task(making.address, making.priority, client)
        await jetstream.store(self._connection, subject, stored.body, headers, room=HEADROOM)
        self._moved += 1

    async def _end(  # noqa: PLR0917  (what fell due, and how it ends)
        self,
        client: str,
        making: Making,
        stored: jetstream.StoredMessage,
        task_id: str,
        status: Status,
        error: BusError,
    ) -> None:
        """Store the result of what never came into the queue."""
        _, schedule_id = subjects.parse_schedule(stored.subject)
        info = ScheduleInfo(
            schedule_id=schedule_id,
            client=client,
            capability=making.address,
            when=making.when,
            priority=making.priority,
            deadline=making.seconds,
        )
        envelope = standing.never_queued(info, [stored], task_id, due_at=stored.stored_at)
        result = endings.make_result(envelope, status, error, agent=self._agent, instance=self._instance)
        await endings.store_result(self._connection, envelope, result)
        self._metrics.ended(making.address, making.priority, status)
        log.warning("task %s, which a schedule made, ends as %s before it was queued: %s", task_id, status, error)
        about = {"client": client, "task_id": task_id, "error": f"{error}"[:500]}
        once = f"{client}.{making.address}.{task_id}.{status}"
        await events.tell(self._connection, events.SCHEDULE, schedule_id, status, by=self._instance, once=once, **about)

    # --- what a killed server forgets ---------------------------------------------------------------------

    async def catch_up(self, kept: Later) -> int:
        """Have fallen due, once, what was missed while no server ran, and return how many; and take away what
        is left of schedules that are gone.

        A server that was stopped in order tells of it by itself; one that was killed knows only that a schedule
        recurs, and takes the next time (nats-server 2.15).

        Raises:
            TransportError: the server does not answer; doing it again is safe.
        """
        now = await server_time(self._connection, subjects.LATER)
        missed = 0
        for held in await standing.everything(self._connection, recurring=True):
            active = held.messages.get("later")
            if not held.messages.keys() - {"occurred"}:
                await kept.forget(held)
            if active is None or "due" in held.messages:
                continue
            expected = _expected(held, active)
            if expected is not None and expected < now - MISSED:
                missed += await self._fall_due(await kept.again(held), now)
        return missed

    async def _fall_due(self, held: Standing, now: float) -> bool:
        """Have a schedule fall due if that was missed, as it stands now: to read them all takes a while, in which
        others move what fell due.
        """
        stored = held.messages.get("later")
        if stored is None or "due" in held.messages:
            return False
        expected = _expected(held, stored)
        if expected is None or expected >= now - MISSED:
            return False
        headers = without_control_headers(stored.headers)
        headers[MSG_ID] = f"missed.{held.client}.{held.schedule_id}.{expected:.0f}"  # once for all stewards
        subject = subjects.due(held.client, held.schedule_id)
        await jetstream.store(self._connection, subject, stored.body, headers)
        log.warning("schedule %s was due while no server ran, and is due now", held.schedule_id)
        return True

    def _fail(self, error: BusError) -> None:
        self._spawn(_raise(error))


def _expected(held: Standing, active: jetstream.StoredMessage) -> float | None:
    """When a recurring schedule must have been due after what is known of it; None: it is none."""
    try:
        making = standing.read_making(active.headers, active.subject)
    except DecodeError:
        return None
    if making.due.once:
        return None  # of these the server knows
    occurred = standing.read_occurrence(held.messages.get("occurred"), held.schedule_id)
    base = max(active.stored_at, occurred.at if occurred else 0.0)
    return making.due.after(base, base=base)


async def _raise(error: BusError) -> None:
    raise error


def _nothing() -> None:
    """Nobody waits for the pulls to be quiet."""
