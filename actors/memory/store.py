"""Entries as they stand in the stream, for those who may touch it: clients with full rights, and coordinators."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

from actors.memory import versions, watching
from actors.memory.backend import Author, Write, Written
from actors.memory.clock import Clock, retried
from actors.memory.deciding import Race
from actors.memory.errors import NoSuchVersionError
from actors.memory.listing import Lister
from actors.memory.model import Entry, Fence, Namespace, Page
from actors.memory.usage import Usage
from actors.memory.versions import STREAM, is_version
from actors.memory.writing import Writer
from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import ConfigError, TransportError, WrongSequenceError
from bus.jetstream import StoredMessage
from bus.telemetry import Telemetry, span


class Store:
    """A `Backend` on the bucket MEMORY. It keeps nothing that another one would have to know."""

    def __init__(self, connection: Connection, telemetry: Telemetry) -> None:
        """Spans of its calls are `telemetry`'s. Nothing is sent before the first call."""
        self._connection = connection
        self._by = telemetry.instance
        self._clock = Clock(connection)
        self._usage = Usage(connection)
        self._lister = Lister(connection, self._clock)
        self._writer = Writer(connection, telemetry, self._usage, self._clock)

    async def close(self) -> None:
        """Follow nothing any more. May be repeated."""
        await self._usage.close()

    async def read(self, namespace: str, key: str, version: int = 0) -> Entry | None:
        """As `Backend.read`; the newest version is what the stream's leader has.

        It is a span where something is recorded, but begins no trace: it leaves nothing behind that somebody could ask
        about.
        """
        subject = versions.subject_of(namespace, key)
        with span("memory/get", **{"revo.memory.namespace": namespace, "revo.memory.key": key}):
            if version:
                return await self._at(subject, key, version)
            try:
                stored = await jetstream.last(self._connection, STREAM, subject, quick=True)
            except TransportError as error:
                stored = await retried(self._connection, lambda: self._last(subject), first=error)
            if stored is None:
                return None
            now = await self._clock.now() if versions.TTL in stored.headers else 0.0
            entry = versions.entry_of(stored, key, now=now)
            if not entry.alternatives:
                self._writer.whole.saw(subject, entry.version)
            return entry

    async def _last(self, subject: str) -> StoredMessage | None:
        return await jetstream.last(self._connection, STREAM, subject, quick=True)

    async def _at(self, subject: str, key: str, version: int) -> Entry:
        if not is_version(version):
            raise NoSuchVersionError(key, version, "versions are numbers from 1")
        found = await retried(self._connection, lambda: jetstream.at(self._connection, STREAM, version))
        if found is None or found.subject != subject:
            newest = await retried(self._connection, lambda: self._last(subject))
            if newest is None:
                reason = "nothing stands there"
            elif found is not None or version > newest.sequence:
                reason = f"it never had; the newest is {newest.sequence}"
            else:
                reason = "it is no longer kept, or never was"
            raise NoSuchVersionError(key, version, reason)
        return versions.entry_of(found, key)

    def write(
        self,
        namespace: str,
        writes: Sequence[Write],
        author: Author,
        fence: Fence | None = None,
        *,
        asked_as: str = "",
        ago: float = 0.0,
    ) -> Coroutine[Any, Any, list[Written]]:
        """As `Backend.write`. Where an answer is lost it is sent again for the setting `publish_timeout`; it is carried
        out once all the same.

        For a coordinator: what it is asked for under the same id, `asked_as`, as another has been is carried out once,
        too; `ago` is seconds since one was for the first time, 0: none was.

        Raises:
            OutcomeUnknownError: so much was written since it was first asked for that nothing tells if it was done.
        """
        return self._writer.write(namespace, writes, author, fence, asked_as=asked_as, ago=ago)

    async def entry(self, stored: StoredMessage) -> Entry | None:
        """The version in a message of the stream; None, and a line in the log, where it is none."""
        return await watching.entry_in(stored, self._clock)

    async def history(self, namespace: str, key: str) -> list[Entry]:
        """As `Backend.history`."""
        with span("memory/history", **{"revo.memory.namespace": namespace, "revo.memory.key": key}):
            return (await self._lister.history(namespace, key))[0]

    async def versions(self, namespace: str, key: str, after: int, room: int) -> tuple[list[Entry], int]:
        """Those after one, as many as fit into `room` bytes; and after which one to go on, 0: that was all."""
        with span("memory/history", **{"revo.memory.namespace": namespace, "revo.memory.key": key}):
            return await self._lister.history(namespace, key, after, room)

    async def conflicts(self, namespace: str, after: str = "", limit: int = 100) -> Page:
        """As `Backend.conflicts`."""
        with span("memory/conflicts", **{"revo.memory.namespace": namespace}):
            return await self._lister.conflicts(namespace, after, limit)

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 100) -> Page:
        """As `Backend.list`. Costs as much as the namespace has keys there: their names are read for every page."""
        with span("memory/list", **{"revo.memory.namespace": namespace, "revo.memory.key": prefix}):
            return await self._lister.page(namespace, prefix, after, limit)

    def watch(self, namespace: str, prefix: str = "", since: int | None = None) -> AsyncGenerator[Entry, None]:
        """As `Backend.watch`."""
        return watching.watch(self._connection, self._clock, namespace, prefix, since)

    async def describe(self, namespace: str) -> Namespace:
        """As `Backend.describe`."""
        return (await self._usage.of(namespace)).how

    async def configure(self, namespace: str, how: Namespace, instead_of: Namespace | None = None) -> None:
        """As `Backend.configure`."""
        race = Race(self._connection, namespace)
        while True:
            before = await self._usage.newest(namespace)
            if before.how == how and before.by == self._by:
                return  # also where the answer to an earlier try was lost
            if instead_of is not None and instead_of != before.how:
                raise ConfigError(f"namespace {namespace}", "somebody changed it meanwhile; look at it again")
            try:
                await self._usage.put(namespace, how, by=self._by, before=before)
            except WrongSequenceError:
                await race.lost()
            else:
                return

    async def set_up(self, namespace: str, how: Namespace) -> bool:
        """Have a namespace be used so, if it was not set up yet, or by a coordinator that was started with something
        else; False: somebody asked for another use, which stands.

        Raises:
            TransportError: no answer.
        """
        race = Race(self._connection, namespace)
        while True:
            before = await self._usage.newest(namespace)
            if before.how == how and before.revision:
                return True
            if before.revision and not before.settings:
                return False
            try:
                await self._usage.put(namespace, how, by=self._by, before=before, settings=True)
            except WrongSequenceError:
                await race.lost()
            else:
                return True

    async def purge(self, namespace: str, key: str) -> bool:
        """As `Backend.purge`."""
        gone = 0
        for kind in (subjects.CONFLICTS, subjects.ENTRIES):
            body = {"filter": versions.subject_of(namespace, key, kind)}
            said = await retried(
                self._connection,
                functools.partial(jetstream.call, self._connection, "STREAM.PURGE", STREAM, body=body),
            )
            gone = int(said.get("purged", 0))
        return gone > 0
