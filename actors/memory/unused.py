"""Tables of locks that are empty, to be forgotten by and by: keys that are locked once would add up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError

log = logging.getLogger(__name__)

KEPT: Final = 60.0
"""Seconds, and on average half as many more, for which an empty table stays."""
_STREAM: Final = subjects.bucket(subjects.MEMORY_BUCKET)


class Unused:
    """The empty tables that one keeper has seen. Several keepers may forget the same."""

    def __init__(self, connection: Connection, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._connection = connection
        self._spawn = spawn
        self._tables: dict[str, tuple[int, float]] = {}
        """Their revision, and when they may go, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, table: str, revision: int) -> None:
        """A table is empty since a revision."""
        now = asyncio.get_running_loop().time()
        self._tables[table] = revision, now + random.uniform(KEPT, 2 * KEPT)  # noqa: S311
        self._arm()

    def drop(self, table: str) -> None:
        """It is used again."""
        self._tables.pop(table, None)

    def close(self) -> None:
        """Forget nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is None and self._tables and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(KEPT, self._due)

    def _due(self) -> None:
        self._timer = None
        self._spawn(self._forget())

    async def _forget(self) -> None:
        """What has come to a table meanwhile stands above the sequence that is named, and stays."""
        now = asyncio.get_running_loop().time()
        for table, (revision, due) in list(self._tables.items()):
            if due > now:
                continue
            body = {"filter": subjects.entry(subjects.MEMORY_BUCKET, table), "seq": revision + 1}
            try:
                await jetstream.call(self._connection, "STREAM.PURGE", _STREAM, body=body)
            except BusError as error:
                log.debug("an empty table of locks stays: %s", error)
            if self._tables.get(table, (0, 0.0))[0] == revision:
                del self._tables[table]
        self._arm()
