"""Writes. What one is based on is its condition at the stream, so most need nothing to be read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from actors.memory import earlier, versions
from actors.memory.backend import Author, Write, Written
from actors.memory.clock import Clock
from actors.memory.deciding import Decider, Race, Whole, fenced_by
from actors.memory.errors import OutcomeUnknownError
from actors.memory.model import Fence
from actors.memory.orders import Job, Order, check_together, order, plain_part
from actors.memory.sending import Sender
from actors.memory.usage import Usage, Used
from bus.connection import Connection
from bus.errors import BusError, QueueFullError, TransportError, WrongSequenceError
from bus.messages import EXPECTED_SUBJECT_SEQUENCE, HEADROOM
from bus.tasks import new_task_id
from bus.telemetry import Attributes, Telemetry


class Writer:
    """Carries out writes in all namespaces."""

    def __init__(self, connection: Connection, telemetry: Telemetry, usage: Usage, clock: Clock) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._usage = usage
        self._sender = Sender(connection)
        self._max_payload = connection.max_payload - HEADROOM  # so that it can be written again with more to say of it
        self.whole = Whole()
        """Which versions were seen to have no conflict set: what is based on one of them may be stored as it is."""
        self._decider = Decider(connection, clock, self._sender, self.whole, self._max_payload)

    async def write(
        self,
        namespace: str,
        writes: Sequence[Write],
        author: Author,
        fence: Fence | None = None,
        *,
        asked_as: str = "",
        ago: float = 0.0,
    ) -> list[Written]:
        """As `Store.write`."""
        orders = [order(namespace, write, self._max_payload) for write in writes]
        if len(orders) != 1:
            check_together(orders)
        first = orders[0].write
        asked = time.monotonic() - ago if ago else 0.0

        def attributes() -> Attributes:
            return {"revo.memory.namespace": namespace, "revo.memory.key": first.key}

        traced: dict[str, str] = {}
        name = "memory/put_all" if len(orders) > 1 else "memory/delete" if first.delete else "memory/put"
        with self._telemetry.sending(name, traced, attributes, kind="client"):
            used = self._usage.cached(namespace) or await self._usage.of(namespace)
            how = used.how
            write_id = asked_as or new_task_id()
            headers = versions.headers_of(author, write_id, traced)
            job = Job(namespace, how, author, write_id, headers, bool(asked_as), asked)
            doing = self._once_more if ago else self._carry_out
            return await doing(job, orders, fence, used)

    async def _once_more(self, job: Job, orders: Sequence[Order], fence: Fence | None, used: Used) -> list[Written]:
        """What became of writes that another coordinator was asked for, and may still be at work on. If they are
        refused here they come to nothing there, too: by then what stands there might be something that allows them.
        """
        refused: BusError | None = None
        done: list[Written] = []
        try:
            done = await self._carry_out(job, orders, fence, used)
        except BusError as error:
            if isinstance(error, TransportError) and not isinstance(error, QueueFullError):
                raise
            refused = error
        if refused is None and done[0].outcome != "absent":
            return done
        with contextlib.suppress(QueueFullError):  # nor is there room for it elsewhere
            if not await self._sender.forgo(job):
                done = await earlier.find(self._sender, job, orders) or done
        if refused is not None and not done:
            raise refused
        return done

    async def _carry_out(self, job: Job, orders: Sequence[Order], fence: Fence | None, used: Used) -> list[Written]:
        one = orders[0]
        first, together = one.write, len(orders) > 1
        blind = first.base is None and job.how.strategy == "last_writer_wins" and not (first.delete or used.split)
        # The server says by its id whether it is stored; under a lock that is lost by now it is not sent to be asked.
        known = blind and not together and fence is None
        if job.asked and (done := await self._earlier(job, orders, known=known)) is not None:
            return done
        looked = not blind and (fence is not None or first.delete or not self.whole.knows(one.subject, first.base or 0))
        if together or looked:
            return await self._decider.carry_out(job, orders, fence)
        if fence is not None:
            return [await self._fenced(job, one, fence)]
        if blind:
            return [Written(first.key, await self._sender.send_blindly(plain_part(job, one, {}), job))]
        part = plain_part(job, one, {EXPECTED_SUBJECT_SEQUENCE: f"{first.base or 0}"})
        try:
            version = await self._sender.send((part,), job)
        except WrongSequenceError:
            return await self._decider.carry_out(job, orders, None)
        self.whole.saw(one.subject, version)
        return [Written(first.key, version)]

    async def _earlier(self, job: Job, orders: Sequence[Order], *, known: bool) -> list[Written] | None:
        try:
            return await earlier.find(self._sender, job, orders)
        except OutcomeUnknownError:
            # A server that was started since has forgotten the ids of what it keeps no longer.
            if known and self._connection.since < job.asked - earlier.SLACK:
                return None
            raise

    async def _fenced(self, job: Job, one: Order, fence: Fence) -> Written:
        """Store it if its lock is still held, whatever stands there: a message can have that one condition."""
        key = one.write.key
        race = Race(self._connection, key)
        while True:
            condition = await fenced_by(self._connection, fence, job.namespace, [key])
            part = plain_part(job, one, condition)
            try:
                return Written(key, await self._sender.send((part,), job, decisive=False))
            except WrongSequenceError:
                await race.lost()  # the table of locks has changed; whether ours is still held is looked at again
