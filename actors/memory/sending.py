"""Stores the messages of one write once, also where an answer is lost and they are sent again.

Each carries the write's id, by which the server knows it again, and most a condition that its being stored makes wrong.
One server looks at the condition first, so what was stored the first time is refused the second time: then we look
whether the version is ours. In a cluster the id counts first, also that of a message which is still being agreed on.
Where there is no such condition, and another server answers than the one that may have stored it, which may have
forgotten the id, we look before it is sent again.

Where several coordinators were asked for the same, the first of them to store something under its id has the last word,
be it the write or that it was refused (`Sender.forgo`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing

from actors.memory import versions
from actors.memory.clock import Patience, once, retried
from actors.memory.errors import OutcomeUnknownError
from actors.memory.orders import Job
from actors.memory.versions import STREAM
from bus import batch, jetstream, reading, subjects
from bus.batch import Part
from bus.connection import Connection
from bus.errors import BusError, QueueFullError, ServerError, TransportError, WrongSequenceError
from bus.messages import EXPECTED_SUBJECT_SEQUENCE, MSG_ID

_SLACK = 2.0
"""Seconds by which the server's clock may have jumped since we began."""


class Sender:
    """Stores what writes become."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, parts: Sequence[Part], job: Job, of: int = 0, *, decisive: bool = True) -> int:
        """Store one message, or several, all or none; return the sequence of the one with number `of`. `decisive`: its
        being stored makes its condition wrong.

        Raises:
            WrongSequenceError: a condition does not hold; nothing was stored.
            QueueFullError, PayloadTooLargeError: nothing was stored.
            OutcomeUnknownError: so many have written since that what was stored is no longer kept, if it was; or it
                was forgone.
            TransportError: whether it was stored is not known.
        """
        connection = self._connection
        parts = [parts[0]._replace(headers={**parts[0].headers, MSG_ID: job.id}), *parts[1:]]
        began = job.asked or time.monotonic()
        lost: TransportError | None = None
        patience: Patience | None = None
        while True:
            server = connection.server_id
            try:
                stored = await self._store(parts, of)
            except BusError as error:
                if isinstance(error, TransportError) and not isinstance(error, QueueFullError):
                    lost = error
                elif lost is None:
                    raise
                else:
                    found = await self._find(parts[of].subject, job.id, began, lost)
                    if found:
                        return found
                    if isinstance(error, WrongSequenceError):
                        raise
                    raise lost from error  # what was sent first may still be on its way
            else:
                return await self._version(stored, parts[of].subject, job)
            patience = patience or Patience(connection, connection.settings.publish_timeout)
            await patience.wait(lost)
            if not decisive and connection.server_id != server:
                found = await self._find(parts[of].subject, job.id, began, lost)
                if found:
                    return found

    async def _store(self, parts: Sequence[Part], of: int) -> jetstream.Stored:
        """One try."""
        if len(parts) == 1:
            return await jetstream.finish(self._connection, jetstream.begin(self._connection, *parts[0]), patience=0)
        try:
            last = await batch.store_all(self._connection, parts, resend=False)
        except ServerError as error:
            if error.api_code == batch.KNOWN_ID:
                return jetstream.Stored(STREAM, 0, duplicate=True)
            raise
        return jetstream.Stored(STREAM, last - (len(parts) - 1 - of), duplicate=False)

    async def send_blindly(self, part: Part, job: Job) -> int:
        """Store one message whatever stands there, and return its sequence: the server knows it again by its id.

        Raises:
            QueueFullError, PayloadTooLargeError: it was not stored.
            OutcomeUnknownError: as `send`.
            TransportError: whether it was stored is not known.
        """
        headers = {name: value for name, value in part.headers.items() if name != EXPECTED_SUBJECT_SEQUENCE}
        return await self.send((part._replace(headers=headers),), job, decisive=False)

    async def forgo(self, job: Job) -> bool:
        """Have nothing come any more of a write that another coordinator may be about to carry out, for it is refused
        here; False: it was carried out, or forgone, before.

        Raises:
            QueueFullError: the bucket is full.
            TransportError: no answer.
        """
        subject = subjects.entry(subjects.MEMORY_BUCKET, subjects.guard(job.namespace))
        return not (await jetstream.store(self._connection, subject, b"", {MSG_ID: job.id})).duplicate

    async def _version(self, stored: jetstream.Stored, subject: str, job: Job) -> int:
        """The version that a write made, by the answer of the stream, which may have known its id already."""
        if stored.duplicate and (job.shared or not stored.sequence):
            return await self._known(subject, job)
        return stored.sequence

    async def _known(self, subject: str, job: Job) -> int:
        """The version on `subject` that a write made whose id the stream knew.

        Raises:
            OutcomeUnknownError: it is no longer kept, or the write was forgone.
        """
        kept, _, _ = await self.kept(subject)
        for stored in reversed(kept):
            if stored.headers.get(versions.WRITE) == job.id:
                return stored.sequence
        raise OutcomeUnknownError(versions.key_of(subject))

    async def _find(self, subject: str, write_id: str, began: float, lost: TransportError) -> int:
        """The version on `subject` that a write made, or 0: surely none.

        Raises:
            TransportError: that cannot be known.
        """
        try:
            kept, limit, now = await self.kept(subject)
        except BusError as error:
            raise lost from error
        for stored in reversed(kept):
            if stored.headers.get(versions.WRITE) == write_id:
                return stored.sequence
        # The oldest go first: where one is left from before we began, none has gone that came after.
        before = now - (time.monotonic() - began) - _SLACK
        if len(kept) < limit or kept[0].stored_at < before:
            return 0
        raise OutcomeUnknownError(versions.key_of(subject)) from lost

    async def kept(self, subject: str) -> tuple[list[jetstream.StoredMessage], int, float]:
        """All versions on `subject`, the oldest first; how many are kept, 0: that says nothing; and the server's
        clock.
        """
        return await retried(self._connection, lambda: self._look(subject))

    async def _look(self, subject: str) -> tuple[list[jetstream.StoredMessage], int, float]:
        info = await jetstream.call(self._connection, "STREAM.INFO", STREAM)
        last, limit = int(info["state"]["last_seq"]), int(info["config"]["max_msgs_per_subject"])
        async with aclosing(
            reading.scan(self._connection, STREAM, 1, last, subject=subject, patience=once(self._connection))
        ) as found:
            kept = [stored async for stored in found]
        if any(versions.PURGED in stored.headers for stored in kept):
            limit = 0
        return kept, limit, jetstream.unix_ns(info["ts"]) / 1e9
