"""What stands in a namespace, page by page: names from the stream's leader, what stands under them in bulk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from math import inf
from typing import Final

from actors.memory import versions
from actors.memory.clock import Clock, once, retried
from actors.memory.model import Entry, Page, Summary
from actors.memory.orders import DELETE
from actors.memory.versions import STREAM
from bus import jetstream, reading, subjects
from bus.connection import Connection
from bus.errors import BusError, ConfigError, InvalidKeyError
from bus.jetstream import StoredMessage
from bus.messages import EXPECTED_SUBJECT_SEQUENCE

log = logging.getLogger(__name__)

MAX_PAGE: Final = 1000
"""Entries of one page."""


class Lister:
    """Reads many entries, or many versions."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def history(self, namespace: str, key: str, after: int = 0, room: float = inf) -> tuple[list[Entry], int]:
        """The versions after one, the oldest first, but for those that no longer fit into `room` bytes; and the last of
        them, if there are more, else 0. One is always among them.
        """
        connection, subject = self._connection, versions.subject_of(namespace, key)
        newest = await retried(connection, lambda: jetstream.last(connection, STREAM, subject, quick=True))
        if newest is None:
            return [], 0
        last = newest.sequence
        kept = await retried(connection, lambda: _versions(connection, subject, after + 1, last - 1, room))
        found = [versions.entry_of(stored, key) for stored in kept]
        if kept and sum(len(stored.body) for stored in kept) + len(newest.body) > room:
            return found, kept[-1].sequence
        now = await self._clock.now() if versions.time_to_live(newest.headers) else 0.0
        return [*found, *([versions.entry_of(newest, key, now=now)] if last > after else [])], 0

    async def page(self, namespace: str, prefix: str, after: str, limit: int) -> Page:
        """As `Backend.list`."""
        _check(limit)
        found: list[Summary] = []
        keys = await self._keys(subjects.kept_under(subjects.ENTRIES, namespace, prefix), after)
        for start in range(0, len(keys), limit + 1):
            some = keys[start : start + limit + 1]
            stored = await self._newest(versions.subject_of(namespace, key) for key in some)
            now = await self._clock.now() if any(versions.time_to_live(one.headers) for one in stored.values()) else 0.0
            for key in some:
                one = stored.get(versions.subject_of(namespace, key))
                summary = versions.summary_of(one, now=now) if one is not None else None
                if summary is not None:
                    found.append(summary)
            if len(found) > limit:
                break
        return _page(found, limit)

    async def conflicts(self, namespace: str, after: str, limit: int) -> Page:
        """As `Backend.conflicts`. The words that entries have a conflict set are looked after as they are read: who
        resolves one need not know of it.
        """
        _check(limit)
        found: list[Summary] = []
        keys = await self._keys(subjects.kept_under(subjects.CONFLICTS, namespace), after)
        for start in range(0, len(keys), limit + 1):
            some = keys[start : start + limit + 1]
            words = await self._newest(versions.subject_of(namespace, key, subjects.CONFLICTS) for key in some)
            told = [key for key in some if _says(words.get(versions.subject_of(namespace, key, subjects.CONFLICTS)))]
            entries = await self._newest(versions.subject_of(namespace, key) for key in told)
            for key in told:
                entry = entries.get(versions.subject_of(namespace, key))
                if entry is not None and versions.conflicts_of(entry.headers):
                    found.append(versions.shown(entry))
                elif not await self._has_conflicts(namespace, key):
                    await self._take_back(words[versions.subject_of(namespace, key, subjects.CONFLICTS)])
            if len(found) > limit:
                break
        return _page(found, limit)

    async def _has_conflicts(self, namespace: str, key: str) -> bool:
        """As the stream's leader has it: the copy that was read may be behind."""
        connection, subject = self._connection, versions.subject_of(namespace, key)
        stored = await retried(connection, lambda: jetstream.last(connection, STREAM, subject))
        return stored is not None and versions.conflicts_of(stored.headers) > 0

    async def _take_back(self, word: StoredMessage) -> None:
        """An entry has no conflict set any more; should it get one at this moment, its word is anew and stays."""
        headers = {versions.OPERATION: DELETE, EXPECTED_SUBJECT_SEQUENCE: str(word.sequence)}
        try:
            await jetstream.store(self._connection, word.subject, b"", headers)
        except BusError as error:  # written anew, taken back by another, or no room: who lists next tries again
            log.debug("%s stays: %s", word.subject, error)

    async def _keys(self, pattern: str, after: str) -> list[str]:
        connection, filter_ = self._connection, subjects.entry(subjects.MEMORY_BUCKET, pattern)
        names = await retried(connection, lambda: reading.subjects_in(connection, STREAM, filter_))
        return sorted(key for key in map(_key, names) if key is not None and key > after)

    async def _newest(self, wanted: Iterable[str]) -> dict[str, StoredMessage]:
        names = list(wanted)
        return await retried(self._connection, lambda: latest(self._connection, names)) if names else {}


async def latest(connection: Connection, wanted: Sequence[str]) -> dict[str, StoredMessage]:
    """The newest versions on these subjects, by subject."""
    async with aclosing(reading.latest(connection, STREAM, wanted, patience=once(connection))) as found:
        return {stored.subject: stored async for stored in found}


async def _versions(connection: Connection, subject: str, first: int, last: int, room: float) -> list[StoredMessage]:
    kept: list[StoredMessage] = []
    scan = reading.scan(connection, STREAM, first, last, subject=subject, patience=once(connection))
    async with aclosing(scan) as found:
        async for stored in found:
            room -= len(stored.body)
            if kept and room < 0:
                break
            kept.append(stored)
    return kept


def _key(subject: str) -> str | None:
    """The key of an entry by its subject; None, and a line in the log, where that is none of ours."""
    try:
        return versions.key_of(subject)
    except InvalidKeyError as error:
        log.warning("%s; it is left out", error)
        return None


def _says(word: StoredMessage | None) -> bool:
    return word is not None and versions.OPERATION not in word.headers


def _check(limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MAX_PAGE:
        raise ConfigError("limit", f"a page has 1 to {MAX_PAGE} entries, not {limit!r:.40}")


def _page(found: Sequence[Summary], limit: int) -> Page:
    return Page(tuple(found[:limit]), found[limit - 1].key if len(found) > limit else "")
