"""Ends tasks that no worker ends, on somebody's word or because their time is up; submits dead ones anew.

Every step can be repeated after a crash, in the order of the design: the result is stored first, and the first one
stored is the result; then the task leaves the queue; then workers are told. Who may ask for what is not decided here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from bus import attempts, blobs, budgets, codec, endings, jetstream, subjects
from bus.backlog import Backlog
from bus.blobs import Place
from bus.connection import Connection
from bus.errors import (
    BusError,
    ConfigError,
    DeadlineExceededError,
    DecodeError,
    DeliveriesExhaustedError,
    InvalidSubjectError,
    NotFoundError,
    TaskCancelledError,
)
from bus.messages import (
    BLOB,
    BUDGET,
    CONTENT_TYPE,
    DEAD_LETTER,
    DEADLINE,
    EXPECTED_SUBJECT_SEQUENCE,
    FRESH,
    FROM,
    HEADROOM,
    MSG_ID,
    MSGPACK,
    PARENT,
    REDRIVE_OF,
    SUBMITTED,
    TASK_ID,
    Cancelled,
    DeadLetter,
    Envelope,
    Redriven,
    Result,
    Status,
)
from bus.tasks import envelope_of
from bus.telemetry import NOT_COUNTED, Metrics

log = logging.getLogger(__name__)

AT_ONCE: Final = 32
"""Children that are cancelled side by side."""
MAX_FAMILY: Final = 100_000
"""Descendants that one cancel reaches; a family that is larger is a runaway, and cancelled by its rest's deadlines."""


_NOWHERE: Final = "it neither waits nor runs, and it has no result"


@dataclass(frozen=True, slots=True)
class Ender:
    """Ends tasks in the name of one process."""

    connection: Connection
    agent: str
    instance: str
    metrics: Metrics = NOT_COUNTED

    async def end(self, envelope: Envelope, status: Status, error: BusError) -> Result:
        """End a queued or running task as `status` unless it has a result, and return the one that stands.

        When this returns the task is in no queue, a failed one has its dead letter, and workers have been told.

        Raises:
            TransportError, QueueFullError: a step could not be done; all of them may be done again.
        """
        connection = self.connection
        record, _ = await attempts.read(connection, envelope)
        envelope.attempt = record.errors
        ours = endings.make_result(envelope, status, error, agent=self.agent, instance=self.instance)
        standing = await endings.store_result(connection, envelope, ours)
        if (standing.instance, standing.finished_at) == (ours.instance, ours.finished_at):
            self._count(envelope, ours)
        if standing.sequence != envelope.sequence:
            await endings.note_double(connection, envelope, standing)
        elif standing.status == "failed":
            await endings.bury(connection, envelope, standing)
        await jetstream.delete(connection, subjects.TASKS, envelope.sequence)
        order = {"sequence": envelope.sequence, "status": standing.status, "task": envelope.name}
        subject = subjects.control(subjects.EVERYONE, subjects.EVERYONE, "end")
        await connection.publish(subject, codec.encode(order), {CONTENT_TYPE: MSGPACK})
        # Last: it is not found in the queue again, so who could not do this would never tell the workers.
        if standing.status != "failed" and BLOB in envelope.headers:  # a failed one's stays with its dead letter
            await blobs.remove(connection, Place.of(envelope), blobs.id_in(envelope.headers))
        return standing

    def _count(self, envelope: Envelope, result: Result) -> None:
        self.metrics.ended(envelope.capability, envelope.priority, result.status)
        if result.status == "failed":
            self.metrics.died(envelope.capability, result.error.code if result.error else "")

    async def expire(self, envelope: Envelope) -> Result:
        """End a task whose deadline has passed."""
        return await self.end(envelope, "expired", DeadlineExceededError(envelope.task_id, envelope.deadline))

    async def give_up(self, sequence: int, deliveries: int) -> Result | None:
        """End a task that the server delivers no more; None when it is gone by now."""
        stored = await jetstream.at(self.connection, subjects.TASKS, sequence)
        if stored is None:
            return None
        envelope = envelope_of(stored, self.connection.settings.deadline, deliveries=deliveries)
        return await self.end(envelope, "failed", DeliveriesExhaustedError(envelope.task_id, deliveries))

    async def cancel(
        self, backlog: Backlog, task_id: str, *, client: str = "", capability: str = "", sequence: int = 0, by: str
    ) -> Cancelled:
        """Cancel a task, queued or running, and the children that its handler submitted.

        `sequence` spares looking for it; client and capability tell tasks of one id apart. `by` is who asked.

        Raises:
            NotFoundError: no such task waits or runs, and none has a result.
            ConfigError: the id stands for tasks of several clients or capabilities.
            TransportError: a step could not be done; cancelling again is safe.
        """
        await backlog.refresh()
        found = await self._find(backlog, task_id, client, capability, sequence)
        if found:
            results = [await self.end(task, "cancelled", TaskCancelledError(task_id, by)) for task in found]
            standing = results[0]
        else:
            standing = await self._ended(task_id, client, capability)
        children = 0
        if standing.status == "cancelled":
            children = await self._cancel_children(backlog, standing)
        return Cancelled(
            task_id=task_id,
            capability=standing.capability,
            client=standing.client,
            status=standing.status,
            cancelled=standing.status == "cancelled",
            children=children,
        )

    async def cancel_children(self, backlog: Backlog, task_id: str, *, client: str, capability: str) -> Cancelled:
        """Cancel what descends from a task that has been cancelled already.

        Raises:
            NotFoundError: there is no such task, or it has not been cancelled.
        """
        await backlog.refresh()
        standing = await self._ended(task_id, client, capability)
        if standing.status != "cancelled":
            raise NotFoundError(f"task {task_id}", _NOWHERE)  # who asks for another's task learns nothing of it
        children = await self._cancel_children(backlog, standing)
        return Cancelled(
            task_id=task_id,
            capability=standing.capability,
            client=standing.client,
            status=standing.status,
            cancelled=True,
            children=children,
        )

    async def _find(
        self, backlog: Backlog, task_id: str, client: str, capability: str, sequence: int
    ) -> Sequence[Envelope]:
        found: list[Envelope] = []
        if sequence:
            found = [envelope async for envelope in backlog.read([sequence])]
        if not any(envelope.task_id == task_id for envelope in found):
            found = await backlog.find(task_id)
        found = [
            envelope
            for envelope in found
            if envelope.task_id == task_id
            and client in ("", envelope.client)
            and capability in ("", envelope.capability)
        ]
        names = sorted({envelope.name for envelope in found})
        if len(names) > 1:
            raise ConfigError(f"task {task_id}", f"name client and capability, for it may be {' or '.join(names)}")
        return found

    async def _ended(self, task_id: str, client: str, capability: str) -> Result:
        result = await endings.stored_result(
            self.connection, subjects.result(client or "*", capability or "*", task_id)
        )
        if result is None:
            raise NotFoundError(f"task {task_id}", _NOWHERE)
        return result

    async def _cancel_children(self, backlog: Backlog, parent: Result) -> int:
        """Cancel all that descends from a cancelled task: the queued and the running, by their parents' names."""
        count, left = 0, [f"{parent.client}.{parent.capability}.{parent.task_id}"]
        seen = set(left)  # whoever writes headers can make a task its own grandparent
        while left and len(seen) < MAX_FAMILY:
            name = left.pop()
            children = await backlog.children(name)
            for start in range(0, len(children), AT_ONCE):
                some = children[start : start + AT_ONCE]
                ends = await asyncio.gather(*(self._cancel_child(one, name) for one in some), return_exceptions=True)
                for end in ends:
                    if isinstance(end, BaseException):
                        raise end
                    count += end
            for child in children:
                if child.name not in seen:
                    seen.add(child.name)
                    left.append(child.name)
        return count

    async def _cancel_child(self, child: Envelope, parent: str) -> bool:
        standing = await self.end(child, "cancelled", TaskCancelledError(child.task_id, f"its parent {parent}"))
        return standing.status == "cancelled"

    async def redrive(self, task_id: str, *, client: str = "", capability: str = "") -> Redriven:
        """Submit the task of a dead letter anew, under an id of its own that the letter determines.

        Raises:
            NotFoundError: there is no such dead letter.
            DecodeError: its large message cannot be read any more.
            QueueFullError, TransportError: it could not be submitted; doing it again is safe.
        """
        connection = self.connection
        stored = await self._letter(task_id, client, capability)
        client, capability, task_id = subjects.parse_name(stored.subject)
        letter = read_letter(stored)
        new_id = redriven_id(stored)
        priority = _priority(letter)
        subject = subjects.task(capability, priority, client)
        span = _seconds_given(stored.headers, letter, connection.settings.deadline)
        headers = {name: value for name, value in stored.headers.items() if name not in _NOT_HANDED_ON}
        headers |= {
            TASK_ID: new_id,
            REDRIVE_OF: task_id,
            MSG_ID: f"{client}.{capability}.{new_id}",
            DEADLINE: f"{time.time() + span:.3f}",
        }
        if BUDGET in headers:
            names = (f"{client}.{capability}.{one}" for one in (task_id, new_id))
            headers[BUDGET] = budgets.renewed(headers[BUDGET], stored.subject, *names)
        old, new = Place(client, capability, task_id), Place(client, capability, new_id)
        blob = blobs.named_in(stored.headers, stored.subject)
        if blob is not None:  # a message of its own: that of the dead letter goes with the letter
            await blobs.copy(connection, blob, old, new)
        kept = await jetstream.store(connection, subject, stored.body, headers, room=HEADROOM)
        if blob is not None and kept.duplicate:
            ended = await endings.stored_result(connection, subjects.result(*new))
            if ended is not None and ended.status != "failed":
                await blobs.remove(connection, new, blob.id)  # it was removed before, when it ended
        first = await self._note("redriven", client, capability, task_id, body={"task_id": new_id, "at": time.time()})
        return Redriven(
            task_id=new_id,
            redrive_of=task_id,
            capability=capability,
            client=client,
            sequence=kept.sequence,
            duplicate=kept.duplicate or not first,
        )

    async def drop(self, task_id: str, *, client: str = "", capability: str = "") -> DeadLetter:
        """Take a dead letter out of DEAD for good and return what it said. Its task's result stays.

        Raises:
            NotFoundError: there is no such dead letter.
        """
        stored = await self._letter(task_id, client, capability)
        await self._note("dropped", *subjects.parse_name(stored.subject), body={"at": time.time()})
        await jetstream.delete(self.connection, subjects.DEAD, stored.sequence)
        await blobs.remove(self.connection, Place(*subjects.parse_name(stored.subject)), blobs.id_in(stored.headers))
        return read_letter(stored)

    async def _letter(self, task_id: str, client: str, capability: str) -> jetstream.StoredMessage:
        """The dead letter of a task, also of one that has failed this instant: its client hears of that first."""
        try:
            return await find_letter(self.connection, task_id, client, capability)
        except NotFoundError:
            subject = subjects.result(client or "*", capability or "*", task_id)
            result = await endings.stored_result(self.connection, subject)
            if result is None or result.status != "failed":
                raise
            stored = await jetstream.at(self.connection, subjects.TASKS, result.sequence)
            if stored is not None:  # else it is buried by now, or was long ago
                await endings.bury(self.connection, envelope_of(stored, self.connection.settings.deadline), result)
            return await find_letter(self.connection, task_id, client, capability)

    async def anchor(self, backlog: Backlog) -> None:
        """Note how many tasks there were at this time: all later ones must have a result for as long as one is kept."""
        ttl = self.connection.settings.result_ttl
        body = codec.encode({"at": backlog.server_time, "last": backlog.last, "ttl": ttl})
        await jetstream.store(self.connection, subjects.note("anchor"), body, {CONTENT_TYPE: MSGPACK})

    async def _note(self, what: str, *names: str, body: object) -> bool:
        return await endings.note(self.connection, what, *names, body=body)


_NOT_HANDED_ON: Final = frozenset(
    {
        *(DEAD_LETTER, TASK_ID, DEADLINE, FRESH, PARENT, EXPECTED_SUBJECT_SEQUENCE),
        *(SUBMITTED, FROM),
    }
)


async def find_letter(connection: Connection, task_id: str, client: str, capability: str) -> jetstream.StoredMessage:
    """The dead letter of a task; client and capability may be empty.

    Raises:
        NotFoundError: there is none.
    """
    subject = subjects.dead(client or "*", capability or "*", subjects.token(task_id, "task id"))
    stored = await jetstream.last(connection, subjects.DEAD, subject)
    if stored is None:
        raise NotFoundError(f"dead letter of {task_id}", "there is none; `revo dead ls` shows those that are kept")
    return stored


def read_letter(stored: jetstream.StoredMessage) -> DeadLetter:
    """What a stored dead letter says of its task.

    Raises:
        DecodeError: its header is not one that we wrote.
    """
    try:
        return DeadLetter.model_validate(json.loads(stored.headers.get(DEAD_LETTER, "")))
    except (ValueError, ValidationError) as error:
        raise DecodeError(stored.subject, f"header {DEAD_LETTER}: {error}") from error


def redriven_id(stored: jetstream.StoredMessage) -> str:
    """The id of the task that a redrive of this dead letter makes, now and every time."""
    text = f"{stored.subject} {stored.sequence} {stored.stored_at_ns}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _priority(letter: DeadLetter) -> str:
    try:
        return subjects.priority(subjects.parse_task(letter.subject).priority)
    except InvalidSubjectError:
        return "normal"


def _seconds_given(headers: dict[str, str], letter: DeadLetter, default: float) -> float:
    """As much time as the task had from its submit to its deadline."""
    try:
        given = float(headers[DEADLINE]) - letter.submitted_at
    except (KeyError, ValueError):
        return default
    return given if given > 0 else default
