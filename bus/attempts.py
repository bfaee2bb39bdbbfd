"""What is known of a task that did not end at its first try, in the bucket ATTEMPTS.

One record a task, changed by compare-and-swap, so that a crash at any step leaves a count that is right or one too low,
never one that blames an innocent task. Tasks that go well have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import DecodeError, WrongSequenceError
from bus.messages import CONTENT_TYPE, EXPECTED_SUBJECT_SEQUENCE, MSG_TTL, MSGPACK, Attempts, Envelope

_TRIES: Final = 10
_GRACE: Final = 600
"""Seconds that a record outlives its task's deadline."""


async def read(connection: Connection, envelope: Envelope) -> tuple[Attempts, int]:
    """The task's record and its revision; an empty one with revision 0 when there is none."""
    return await _read(connection, subjects.attempt(envelope.client, envelope.capability, envelope.task_id))


async def of(connection: Connection, client: str, capability: str, task_id: str) -> Attempts:
    """The record of a task by its name; an empty one when there is none."""
    record, _ = await _read(connection, subjects.attempt(client, capability, task_id))
    return record


async def _read(connection: Connection, subject: str) -> tuple[Attempts, int]:
    stored = await jetstream.last(connection, subjects.ATTEMPTS, subject)
    if stored is None:
        return Attempts(), 0
    if "Nats-Marker-Reason" in stored.headers or "KV-Operation" in stored.headers:
        return Attempts(), stored.sequence
    try:
        return codec.read(Attempts, stored.headers, stored.body, subject=subject), stored.sequence
    except DecodeError:
        return Attempts(), stored.sequence  # a newer version's record: counts start anew, nothing is lost


async def change(connection: Connection, envelope: Envelope, edit: Callable[[Attempts], Attempts]) -> Attempts:
    """Apply `edit` to the task's record and return what stands afterwards.

    `edit` may be called more than once, each time with what stands by then, which may be its own work: the answer to
    a store can get lost. So it must not count up from that alone.

    Raises:
        WrongSequenceError: when others changed it ten times in between.
        TransportError: when it could not be stored; whether it was is not known.
    """
    subject = subjects.attempt(envelope.client, envelope.capability, envelope.task_id)
    ttl = max(1, int(envelope.deadline - time.time()) + _GRACE)
    for remaining in reversed(range(_TRIES)):
        record, revision = await read(connection, envelope)
        edited = edit(record)
        headers = {EXPECTED_SUBJECT_SEQUENCE: str(revision), MSG_TTL: f"{ttl}s", CONTENT_TYPE: MSGPACK}
        try:
            await jetstream.store(connection, subject, codec.encode(edited.model_dump()), headers)
        except WrongSequenceError:
            # Somebody else changed it, or our own first try was stored and its answer lost.
            if not remaining:
                raise
        else:
            return edited
    raise AssertionError("unreachable")


def suspects(record: Attempts, envelope: Envelope) -> bool:
    """Whether a worker vanished with this task in hand since its handler last came to an end."""
    return record.suspect or envelope.deliveries - 1 > record.returned


def run_alone(record: Attempts, *, deaths: int) -> Attempts:
    """The record of a task that is about to run alone, after so many `deaths`: until it comes back, it is one more.

    What stands may be less than the deaths that were read before: its handler came to an end elsewhere since.
    """
    return record.model_copy(update={"suspect": True, "alone": min(record.alone, deaths) + 1})
