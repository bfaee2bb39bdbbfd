"""Writes. What one is based on is its condition at the stream, so most need nothing to be read."""

from __future__ import annotations

from collections.abc import Sequence

from actors.memory import earlier, versions
from actors.memory.backend import Author, Write, Written
from actors.memory.clock import Clock
from actors.memory.deciding import Decider, Race, Whole, fenced_by
from actors.memory.model import Fence
from actors.memory.orders import Job, Order, check_together, order, plain_part
from actors.memory.sending import Sender
from actors.memory.usage import Usage
from bus.connection import Connection
from bus.errors import WrongSequenceError
from bus.messages import EXPECTED_SUBJECT_SEQUENCE, HEADROOM, MSG_ID
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

        def attributes() -> Attributes:
            return {"revo.memory.namespace": namespace, "revo.memory.key": first.key}

        traced: dict[str, str] = {}
        name = "memory/put_all" if len(orders) > 1 else "memory/delete" if first.delete else "memory/put"
        with self._telemetry.sending(name, traced, attributes, kind="client"):
            used = self._usage.cached(namespace) or await self._usage.of(namespace)
            how = used.how
            write_id = asked_as or new_task_id()
            headers = versions.headers_of(author, write_id, traced)
            job = Job(namespace, how, author, write_id, headers, bool(asked_as), ago)
            blind = first.base is None and how.strategy == "last_writer_wins" and not (first.delete or used.split)
            # The server drops what it has stored under the same id; under a lock that is lost by now it is not sent.
            known = blind and len(orders) == 1 and fence is None
            if ago and not known and (done := await earlier.find(self._sender, job, orders)) is not None:
                return done
            subject, base = orders[0].subject, first.base or 0
            looked = not blind and (fence is not None or first.delete or not self.whole.knows(subject, base))
            if len(orders) > 1 or looked:
                return await self._decider.carry_out(job, orders, fence)
            if fence is not None:
                return [await self._fenced(job, orders[0], fence)]
            if blind:
                return [Written(first.key, await self._sender.send_blindly(plain_part(job, orders[0], {}), write_id))]
            part = plain_part(job, orders[0], {EXPECTED_SUBJECT_SEQUENCE: f"{base}"})
            try:
                version = await self._sender.send((part,), write_id)
            except WrongSequenceError:
                return await self._decider.carry_out(job, orders, None)
            self.whole.saw(subject, version)
            return [Written(first.key, version)]

    async def _fenced(self, job: Job, one: Order, fence: Fence) -> Written:
        """Store it if its lock is still held, whatever stands there: a message can have that one condition."""
        key = one.write.key
        race = Race(self._connection, key)
        while True:
            condition = await fenced_by(self._connection, fence, job.namespace, [key])
            part = plain_part(job, one, {**condition, MSG_ID: job.id})
            try:
                return Written(key, await self._sender.send((part,), job.id))
            except WrongSequenceError:
                await race.lost()  # the table of locks has changed; whether ours is still held is looked at again
