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
from typing import Final

from actors.memory import earlier, fencing, versions
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
from bus.errors import WrongSequenceError
from bus.messages import EXPECTED_SUBJECT, EXPECTED_SUBJECT_SEQUENCE

_LONGEST: Final = 0.02
"""Seconds between two tries, at the most."""


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
    revisions = [await fencing.check(connection, fence, namespace, key) for key in keys]
    # The first: if the table has changed since, the condition fails, and what the later ones saw does not matter.
    return {EXPECTED_SUBJECT_SEQUENCE: str(revisions[0]), EXPECTED_SUBJECT: fencing.subject(fence)}


class Decider:
    """Decides on writes and stores what was decided."""

    def __init__(self, connection: Connection, clock: Clock, sender: Sender, max_payload: int) -> None:
        """`max_payload`: bytes that a body may have."""
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
        seen: dict[str, Entry] = {}  # what writes are based on may be pushed out while others are faster
        while True:
            if job.shared and (done := await earlier.find(self._sender, job, orders)) is not None:
                return done
            parts: list[Part] = []
            if fence is not None:
                condition = await fenced_by(self._connection, fence, job.namespace, [one.write.key for one in orders])
                guard = subjects.entry(subjects.MEMORY_BUCKET, subjects.guard(job.namespace))
                parts.append(Part(guard, b"", condition))
            first, places, decisions = len(parts), [], []
            for one, standing in zip(orders, await self._standing(orders), strict=True):
                decision = await self._decide(job, one, standing, seen)
                if decision.refused is not None:
                    raise decision.refused
                decisions.append(decision)
                places.append(len(parts) - first)
                parts += decided_parts(job, one, decision, standing, self._max_payload)
            try:
                if len(parts) == 1 and decisions[0].outcome == "overwrote" and job.how.strategy == "last_writer_wins":
                    began = await self._sender.send_blindly(parts[0], job.id)
                else:
                    began = await self._sender.send(parts, job.id, of=first)
            except WrongSequenceError:
                await race.lost()
                continue
            return [
                Written(one.write.key, began + place, made.outcome, made.value if made.outcome == "merged" else None)
                for one, place, made in zip(orders, places, decisions, strict=True)
            ]

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
