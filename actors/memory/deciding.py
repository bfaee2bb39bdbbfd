"""Writes that are not simply the next version: what stands there is read, and the strategy decides.

What was decided is stored only if what was read still stands there; otherwise it is read and decided again.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from actors.memory import fencing, versions
from actors.memory.backend import Written
from actors.memory.clock import Clock, retried
from actors.memory.errors import NoSuchVersionError, OvertakenError
from actors.memory.listing import latest
from actors.memory.model import Entry, Fence
from actors.memory.orders import Job, Order, decided_parts
from actors.memory.sending import Sender
from actors.memory.strategies import Decision, decide
from actors.memory.versions import STREAM
from bus import jetstream, subjects
from bus.batch import Part
from bus.connection import Connection
from bus.errors import QueueFullError, WrongSequenceError
from bus.messages import EXPECTED_SUBJECT, EXPECTED_SUBJECT_SEQUENCE

_LONGEST: Final = 0.02
"""Seconds between two tries, at the most."""
_REMEMBERED: Final = 16384
"""Entries whose newest version is known to have no conflict set; others are read before they are written."""


class Race:
    """Counts how often others were faster to write to a key, and gives them a moment."""

    def __init__(self, connection: Connection, key: str) -> None:
        self._key = key
        self._seconds = connection.settings.publish_timeout
        self._until = asyncio.get_running_loop().time() + self._seconds
        self._longest = 0.001
        self._lost = 0

    async def lost(self) -> None:
        """Others were faster; return when to try again.

        Raises:
            OvertakenError: they were for as long as the setting `publish_timeout`.
        """
        self._lost += 1
        if asyncio.get_running_loop().time() > self._until:
            raise OvertakenError(self._key, self._lost, self._seconds)
        await asyncio.sleep(random.uniform(0, self._longest))  # noqa: S311
        self._longest = min(_LONGEST, self._longest * 2)


async def fenced_by(connection: Connection, fence: Fence, namespace: str, keys: Sequence[str]) -> dict[str, str]:
    """The condition on a message that a lock, which protects all of these keys, is still held.

    Raises:
        StaleFenceError: it is not.
        WrongFenceError: it does not protect all of them.
    """
    revision = await fencing.check(connection, fence, namespace, *keys)
    return {EXPECTED_SUBJECT_SEQUENCE: str(revision), EXPECTED_SUBJECT: fencing.subject(fence)}


class Whole:
    """Versions that are known to have no conflict set, which a version never gets later: the newest of some entries."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def saw(self, subject: str, version: int) -> None:
        """This one has none."""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[subject] = version

    def knows(self, subject: str, version: int) -> bool:
        """Whether that was seen; where there is no version, there is no conflict set either."""
        return not version or self._known.get(subject) == version


class _Made(NamedTuple):
    """What is to be stored for one write."""

    decision: Decision
    parts: tuple[Part, ...]


class Decider:
    """Decides on writes and stores what was decided."""

    def __init__(self, connection: Connection, clock: Clock, sender: Sender, whole: Whole, max_payload: int) -> None:
        """`max_payload`: bytes that a body may have."""
        self._whole = whole
        self._connection = connection
        self._clock = clock
        self._sender = sender
        self._max_payload = max_payload

    async def carry_out(self, job: Job, orders: Sequence[Order], fence: Fence | None) -> list[Written]:
        """Decide on all of them and store what was decided, all or none; what became of each.

        Raises:
            OvertakenError: others were faster again and again; nothing was changed.
            As `Backend.write`.
        """
        race = Race(self._connection, orders[0].write.key)
        tight = False
        seen: dict[str, Entry] = {}  # what writes are based on may be pushed out while others are faster
        while True:
            guards = await self._guards(job, orders, fence)
            standing = await self._standing(orders)
            if len(orders) == 1 and _is_of_nothing(orders[0], standing[0]):
                return [Written(orders[0].write.key, standing[0].version if standing[0] is not None else 0, "absent")]
            made = [await self._made(job, *each, seen) for each in zip(orders, standing, strict=True)]
            try:
                return await self._store(job, orders, made, guards)
            except WrongSequenceError:
                await race.lost()
            except QueueFullError:
                if tight or not all(one.write.delete for one in orders):
                    raise
                tight = True  # deletes must be possible, or nothing ever makes room
                job = job._replace(headers={**job.headers, versions.PURGED: "1"})
                for one in orders:
                    await make_room(self._connection, one.subject)

    async def _guards(self, job: Job, orders: Sequence[Order], fence: Fence | None) -> list[Part]:
        if fence is None:
            return []
        condition = await fenced_by(self._connection, fence, job.namespace, [one.write.key for one in orders])
        return [Part(subjects.entry(subjects.MEMORY_BUCKET, subjects.guard(job.namespace)), b"", condition)]

    async def _made(self, job: Job, one: Order, standing: Entry | None, seen: dict[str, Entry]) -> _Made:
        decision = await self._decide(job, one, standing, seen)
        if decision.refused is not None:
            raise decision.refused
        return _Made(decision, decided_parts(job, one, decision, standing, self._max_payload))

    async def _store(
        self, job: Job, orders: Sequence[Order], made: Sequence[_Made], guards: Sequence[Part]
    ) -> list[Written]:
        parts, places = list(guards), []
        for one in made:
            places.append(len(parts) - len(guards))
            parts += one.parts
        if len(parts) == 1 and _is_blind(job, made[0].decision):
            began = await self._sender.send_blindly(parts[0], job)
        else:
            began = await self._sender.send(parts, job, of=len(guards))
        written = []
        for order, place, (decision, _) in zip(orders, places, made, strict=True):
            if not decision.alternatives:
                self._whole.saw(order.subject, began + place)
            value = decision.value if decision.outcome == "merged" else None
            written.append(Written(order.write.key, began + place, decision.outcome, value))
        return written

    async def _standing(self, orders: Sequence[Order]) -> list[Entry | None]:
        """The newest versions, as the leader has them."""
        connection = self._connection
        wanted = [one.subject for one in orders]
        found: dict[str, jetstream.StoredMessage] = {}
        if len(wanted) > 1 and not connection.clustered:
            found = await retried(connection, lambda: latest(connection, wanted))
        else:
            for subject in wanted:
                stored = await retried(
                    connection, functools.partial(jetstream.last, connection, STREAM, subject, quick=True)
                )
                if stored is not None:
                    found[subject] = stored
        entries = []
        for one in orders:
            here = found.get(one.subject)
            now = await self._clock.now() if here is not None and versions.time_to_live(here.headers) else 0.0
            entries.append(versions.entry_of(here, one.write.key, now=now) if here is not None else None)
        return entries

    async def _decide(self, job: Job, one: Order, standing: Entry | None, seen: dict[str, Entry]) -> Decision:
        base, key = one.write.base, one.write.key
        known = True
        if base and key not in seen and (standing is None or base != standing.version):
            ancestor = await self._ancestor(one, base, standing)
            known = ancestor is not None
            if ancestor is not None:
                seen[key] = ancestor
        write, author = replace(one.write, value=one.value), job.author
        if not author.trace_id:
            author = replace(author, trace_id=versions.trace_of(job.headers))
        return decide(job.how, write, author, standing, ancestor=seen.get(key), known=known, at=time.time())

    async def _ancestor(self, one: Order, base: int, standing: Entry | None) -> Entry | None:
        """The version that a write is based on; None: it is no longer kept.

        Raises:
            NoSuchVersionError: the key never had it.
        """
        connection, key = self._connection, one.write.key
        if standing is None:
            raise NoSuchVersionError(key, base, "it has none, or none is kept any more")
        if base > standing.version:
            raise NoSuchVersionError(key, base, f"the newest is {standing.version}")
        found = await retried(connection, lambda: jetstream.at(connection, STREAM, base))
        if found is not None and found.subject == one.subject:
            return versions.entry_of(found, key)
        oldest = await retried(connection, lambda: jetstream.after(connection, STREAM, 1, one.subject))
        if found is not None or oldest is None or base > oldest.sequence:  # the oldest go first
            raise NoSuchVersionError(key, base, "it is a version of something else")
        return None


def _is_blind(job: Job, decision: Decision) -> bool:
    """Whether it may be stored whatever stands there by then."""
    return job.how.strategy == "last_writer_wins" and decision.outcome == "overwrote" and not decision.alternatives


def _is_of_nothing(one: Order, standing: Entry | None) -> bool:
    """Whether it is a delete of whatever stands there, and nothing does."""
    return one.write.delete and one.write.base is None and (standing is None or not standing.live)


async def make_room(connection: Connection, subject: str) -> None:
    """Drop all versions of an entry but the newest, for a bucket that is full.

    Raises:
        TransportError: no answer.
    """
    await jetstream.call(connection, "STREAM.PURGE", STREAM, body={"filter": subject, "keep": 1})
