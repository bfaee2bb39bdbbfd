"""Removes large payloads that nothing needs any more: at somebody's word, and what nobody spoke of by a sweep.

Nobody's word is taken: a blob goes when no waiting task, no dead letter and no result names it. Looked at in this
order, for what leaves the queue is by then in the other two; so no crash between two steps removes what is needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from pydantic import BaseModel

from actors.actor import Actor, rpc
from bus import blobs, endings, jetstream, reading, subjects
from bus.backlog import Backlog
from bus.blobs import Place
from bus.connection import Connection
from bus.errors import BusError, ServerError
from bus.fields import Address, Token

log = logging.getLogger(__name__)

AGE: Final = 3600.0
"""Seconds that a blob is left alone by the sweep: its message may not be stored yet."""
EVERY: Final = 300.0
"""Seconds between two sweeps."""
AT_ONCE: Final = 16
"""Blobs that are looked at side by side."""
MOST: Final = 1000
"""Blobs that one sweep looks at; the next goes on behind them."""


class Release(BaseModel):
    """A blob that may be of no use any more, and whose it is."""

    client: Token
    capability: Address
    task_id: Token
    blob: Token

    @property
    def place(self) -> Place:
        """The task that it is of."""
        return Place(self.client, self.capability, self.task_id)


class Storage:
    """Finds out which blobs may go, and removes them."""

    def __init__(self, connection: Connection, backlog: Backlog) -> None:
        self._connection = connection
        self._backlog = backlog
        self._looked_at = 0

    async def release(self, place: Place, blob_id: str) -> bool:
        """Remove a blob unless something needs it; returns whether it was removed now.

        Raises:
            TransportError: it could not be told, or not be done; the sweep comes back to it.
        """
        if not await self._settled(place, blob_id):
            await self._backlog.refresh()
            if await self._needed(place, blob_id):
                return False
        return await blobs.remove(self._connection, place, blob_id) > 0

    async def _settled(self, place: Place, blob_id: str) -> bool:
        """Whether its task has ended other than failed, and not with it: that is for good, and told by one look."""
        result = await endings.stored_result(self._connection, subjects.result(*place))
        if result is None or result.status == "failed":
            return False
        return result.blob is None or result.blob.id != blob_id

    async def _needed(self, place: Place, blob_id: str) -> bool:
        """Whether a task in the queue, or a result or a dead letter, names a blob."""
        needed = await self._named(place, blob_id)
        if needed is None:  # a task that has just been moved to a lane stands where the view does not know it yet
            await self._backlog.refresh()
            needed = await self._named(place, blob_id)
        return bool(needed)

    async def _named(self, place: Place, blob_id: str) -> bool | None:
        """The same, with the queue as the view has it; None: nobody knows of such a task."""
        queued = [
            task
            for task in await self._backlog.find(place.task_id)
            if Place.of(task) == place and blobs.id_in(task.headers) == blob_id
        ]
        result = await endings.stored_result(self._connection, subjects.result(*place))
        if result is not None and result.blob is not None and result.blob.id == blob_id:
            return True
        letter = await jetstream.last(self._connection, subjects.DEAD, subjects.dead(*place))
        if letter is not None and blobs.id_in(letter.headers) == blob_id:
            return True
        if result is None:
            return True if queued else None
        # It has ended, and will not run again. Of one that failed the dead letter may yet have to be written.
        return result.status == "failed" and any(task.sequence == result.sequence for task in queued)

    async def sweep(self, *, older_than: float = AGE, most: int = MOST) -> int:
        """Remove blobs that nothing needs and that were begun so many seconds ago; returns how many were removed.

        Looks at `most` of them; the next sweep goes on behind these, and after the last one begins anew.

        Raises:
            TransportError: the next sweep begins where this one did.
        """
        old = [found async for found in self._old(older_than, most)]
        if not old:
            self._looked_at = 0
            return 0
        await self._backlog.refresh()
        removed = 0
        for start in range(0, len(old), AT_ONCE):
            some = old[start : start + AT_ONCE]
            ends = await asyncio.gather(*(self._sweep(place, one) for _, place, one in some), return_exceptions=True)
            for end in ends:
                if isinstance(end, BaseException):
                    raise end
                removed += end
        self._looked_at = old[-1][0] if len(old) == most else 0
        return removed

    async def _old(self, older_than: float, most: int) -> AsyncIterator[tuple[int, Place, str]]:
        """Where in the stream a blob begins, its task and its id; without its bytes."""
        before, count = time.time() - older_than, 0
        firsts = reading.stored_since(self._connection, subjects.BLOBS, 0.0, subject=_FIRST_PIECES, headers_only=True)
        async for message in firsts:
            ack = subjects.parse_ack(message.reply)
            if ack.stored_at_ns / 1e9 > before or count == most:
                return
            if ack.sequence > self._looked_at:
                count += 1
                client, capability, task_id, blob_id = subjects.parse_blob(message.subject)
                yield ack.sequence, Place(client, capability, task_id), blob_id

    async def _sweep(self, place: Place, blob_id: str) -> bool:
        if await self._needed(place, blob_id):
            return False
        log.info("removing the large payload %s of task %s: nothing needs it", blob_id, place.task_id)
        return await blobs.remove(self._connection, place, blob_id) > 0


_FIRST_PIECES: Final = subjects.BLOB_SUBJECTS.removesuffix("*") + "0"


class Storing(Actor):
    """What a steward does about large payloads."""

    _storage: Storage

    def open_storage(self, backlog: Backlog) -> None:
        """Remove what nothing needs from now on."""
        self._storage = Storage(self.mesh.connection, backlog)
        self.spawn(self._sweep_now_and_again())

    @rpc("release")
    async def release(self, blob: Release) -> bool:
        """Remove a large payload unless something needs it, whoever says that nothing does."""
        return await self._storage.release(blob.place, blob.blob)

    async def _sweep_now_and_again(self) -> None:
        """By the clock: nothing announces that somebody died before he could say what he left."""
        while True:
            try:
                await self._storage.sweep()
            except ServerError as error:  # a mesh, or credentials, of an earlier version: the rest of us is needed
                log.error("large payloads cannot be looked through: %s", error)  # noqa: TRY400  (one line)
            except BusError as error:
                if not error.retryable:
                    raise
                log.warning("large payloads could not be looked through: %s; trying again", error)
            await asyncio.sleep(EVERY)
