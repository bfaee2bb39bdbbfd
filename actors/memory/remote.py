"""Shared memory for those who may touch no stream: they ask a coordinator, within what they were granted.

Whichever replica answers, the answer is the same, so what is not answered is asked again: a write travels with an id of
its own, and so does a lock, which is what makes that safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from actors.memory import crossing, orders, versions
from actors.memory.asking import PAUSE, PAUSE_MAX, ask, message
from actors.memory.backend import Author, Write, Written
from actors.memory.errors import ConflictError, NoSuchVersionError
from actors.memory.messages import MAX_PAGE, MAX_WAIT, Changed, Changes, Listing, Past, Read, ReadMany, Versions, Writes
from actors.memory.model import Entry, Fence, Namespace, Page
from actors.memory.remotelocks import RemoteLocks
from bus import subjects
from bus.errors import BusError, PermissionDeniedError, RemoteError, TransportError
from bus.messages import HEADROOM

Keys = list[str]
_READ_AT_ONCE: Final = 512 * 1024
"""Bytes of entries that are asked for in one request, as far as their sizes are known."""


class Remote(RemoteLocks):
    """A `Backend`, and a `LockBackend`, that asks the coordinators of shared memory.

    Raises, of each call, what it raises where the streams themselves are asked, and besides:
        NoMemoryError: no coordinator runs.
        PermissionDeniedError: the namespace was not granted.
        TransportError: no answer; whether something was written is not known.
    """

    async def read(self, namespace: str, key: str, version: int = 0) -> Entry | None:
        """As `Backend.read`."""
        versions.subject_of(namespace, key)
        if version and not versions.is_version(version):
            raise NoSuchVersionError(key, version, "versions are numbers from 1")
        asked = message(Read, key=key, version=version)
        found: Entry | None = await ask(self._mesh, namespace, "read", asked, Entry | None)
        return found

    async def write(
        self, namespace: str, writes: Sequence[Write], author: Author, fence: Fence | None = None
    ) -> list[Written]:
        """As `Backend.write`."""
        room = self._mesh.connection.max_payload - HEADROOM
        wanted = [orders.order(namespace, write, room) for write in writes]
        orders.check_together(wanted)
        asked = message(
            Writes,
            writes=[dataclasses.replace(one.write, value=one.value) for one in wanted],
            id=secrets.token_hex(16),
            by=author.by,
            task=author.task,
            fence=fence,
        )

        now = asyncio.get_running_loop().time
        began = now()

        def again() -> None:
            asked.ago = now() - began

        try:
            found: list[Written] = await ask(self._mesh, namespace, "write", asked, list[Written], before_again=again)
        except RemoteError as error:
            if error.code == crossing.CONFLICT:
                raise await self._conflict(namespace, writes, error) from error
            raise
        return found

    async def _conflict(self, namespace: str, writes: Sequence[Write], error: RemoteError) -> ConflictError:
        """The error with both values: ours we have, and what stands there is read."""
        said = error.details
        key, stands = said.get("key", ""), said.get("theirs")
        theirs = None
        if stands:
            theirs = Entry(key=key, value=None, **{name: stands[name] for name in crossing.TOLD})
            with contextlib.suppress(NoSuchVersionError, TransportError):  # no longer kept; then we know who wrote it
                theirs = await self.read(namespace, key, theirs.version) or theirs
        ours = next((write.value for write in writes if write.key == key), None)
        return ConflictError(key, said.get("base", 0), theirs, ours, said.get("reason", ""))

    async def history(self, namespace: str, key: str) -> list[Entry]:
        """As `Backend.history`."""
        versions.subject_of(namespace, key)
        entries, after = list[Entry](), 0
        while True:
            asked = message(Past, key=key, after=after)
            found: Versions = await ask(self._mesh, namespace, "history", asked, Versions, timeout=self._long)
            entries += found.entries
            after = found.after
            if not after:
                return entries

    async def conflicts(self, namespace: str, after: str = "", limit: int = 100) -> Page:
        """As `Backend.conflicts`."""
        asked = message(Listing, after=after, limit=min(limit, MAX_PAGE))
        found: Page = await ask(self._mesh, namespace, "conflicts", asked, Page, timeout=self._long)
        return found

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 100) -> Page:
        """As `Backend.list`."""
        subjects.kept_under(subjects.ENTRIES, namespace, prefix)
        asked = message(Listing, prefix=prefix, after=after, limit=min(limit, MAX_PAGE))
        found: Page = await ask(self._mesh, namespace, "list", asked, Page, timeout=self._long)
        return found

    @property
    def _long(self) -> float:
        """Seconds for one try of what takes the longer the more there is."""
        return self._mesh.connection.settings.request_timeout

    async def describe(self, namespace: str) -> Namespace:
        """As `Backend.describe`."""
        found: Namespace = await ask(self._mesh, namespace, "describe", None, Namespace)
        return found

    async def configure(
        self,
        namespace: str,
        how: Namespace,  # noqa: ARG002
        instead_of: Namespace | None = None,  # noqa: ARG002
    ) -> None:
        """That is an operator's, or stands in the settings of the coordinators.

        Raises:
            PermissionDeniedError: always.
        """
        record = subjects.entry(subjects.MEMORY_BUCKET, subjects.namespace_record(namespace))
        raise PermissionDeniedError("publish to", record)

    async def purge(self, namespace: str, key: str) -> bool:
        """That is an operator's.

        Raises:
            PermissionDeniedError: always.
        """
        raise PermissionDeniedError("purge", versions.subject_of(namespace, key))

    # --- changes ----------------------------------------------------------------------------------------------

    async def watch(self, namespace: str, prefix: str = "", since: int | None = None) -> AsyncGenerator[Entry, None]:
        """As `Backend.watch`. Once it has begun it goes on, also while no coordinator is there."""
        subjects.kept_under(subjects.ENTRIES, namespace, prefix)
        if since and not versions.is_version(since):
            raise NoSuchVersionError(prefix or namespace, since, "a version is a number, 0 for all that are kept")
        position, begun = since, False
        while True:
            if position is None:
                position = (await self._changes(namespace, prefix, None, for_ever=begun)).position
                async for entry in self._standing(namespace, prefix, position):
                    yield entry
            found = await self._changes(namespace, prefix, position, for_ever=begun)
            begun = True
            for entry in found.entries:
                yield entry
            position = None if found.anew else found.position

    async def _changes(self, namespace: str, prefix: str, since: int | None, *, for_ever: bool) -> Changes:
        asked = message(Changed, prefix=prefix, since=since, wait=0.0 if since is None else MAX_WAIT)
        pause = PAUSE
        while True:
            try:
                found: Changes = await ask(self._mesh, namespace, "changes", asked, Changes, wait=asked.wait)
            except BusError as error:
                if not (for_ever and error.retryable):
                    raise
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(PAUSE_MAX, pause * 2)
            else:
                return found

    async def _standing(self, namespace: str, prefix: str, position: int) -> AsyncIterator[Entry]:
        """What stands there and was written up to a position of the stream, in that order."""
        found, after = [], ""
        while True:
            page = await self.list(namespace, prefix, after, MAX_PAGE)
            found += [(one.version, one.key, one.size) for one in page.entries if one.version <= position]
            after = page.after
            if not after:
                break
        found.sort(reverse=True)
        while found:
            keys: Keys = []
            size = 0
            for _, key, bytes_ in reversed(found[-MAX_PAGE:]):
                size += bytes_
                if keys and size > _READ_AT_ONCE:
                    break
                keys.append(key)
            asked = message(ReadMany, keys=keys)
            entries = await ask(self._mesh, namespace, "read_many", asked, list[Entry | None], timeout=self._long)
            for entry in entries:
                if entry is not None and entry.live and entry.version <= position:
                    yield entry  # what was written to since comes as a change
            del found[-max(1, len(entries)) :]
