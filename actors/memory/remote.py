"""Shared memory for those who may touch no stream: they ask a coordinator, within the namespaces that they were granted.

Whichever replica answers, the answer is the same, so what is not answered is asked again: a write travels with an id of
its own, and so does a lock, which is what makes that safe.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final, TypeVar

from actors.memory import crossing
from actors.memory.backend import Author, Session, Write, Written
from actors.memory.errors import ConflictError, NoMemoryError, NoSuchVersionError
from actors.memory.messages import (
    MAX_PAGE,
    MAX_WAIT,
    Changed,
    Changes,
    Given,
    Kept,
    Keyed,
    Listing,
    Opening,
    Read,
    ReadMany,
    Wanted,
    Writes,
)
from actors.memory.model import Entry, Fence, LockState, Mode, Namespace, Page
from bus import codec, rpc, subjects
from bus.errors import (
    BusClosedError,
    BusError,
    ConfigError,
    NoRespondersError,
    NoTimeLeftError,
    PermissionDeniedError,
    RemoteError,
    TransportError,
)
from bus.mesh import Mesh

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE: Final = 3.0
"""Seconds to wait for a coordinator to be there: one that was killed is back within that."""
TRY: Final = 2.0
"""Seconds for one try, and what it waits by itself besides: who answers is quick, who was killed never answers."""
LATE: Final = 1.0
"""Seconds by which a coordinator may be late to end what nobody waits for any more."""
PAUSE: Final = 0.02
PAUSE_MAX: Final = 0.5
_FINAL: Final = ("deadlock", "queue_full")
"""What may be cured by trying again later, and not at once."""
_READ_AT_ONCE: Final = 512 * 1024
"""Bytes of entries that are asked for in one request, as far as their sizes are known."""


class Remote:
    """A `Backend` and a `LockBackend` that ask the coordinators of shared memory.

    Raises, of each call, what it raises where the streams themselves are asked, and besides:
        NoMemoryError: no coordinator runs.
        PermissionDeniedError: the namespace was not granted.
        TransportError: no answer; whether something was written is not known.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._unanswered: dict[str, float] = {}
        """Locks by id: until when a coordinator may still be about to take one, for all that we know."""
        self._again: set[asyncio.Task[None]] = set()
        mesh.at_close(self.close)

    async def close(self) -> None:
        """Ask for nothing more: what was held ends with its session."""
        for task in self._again:
            task.cancel()
        await asyncio.gather(*self._again, return_exceptions=True)

    # --- entries ----------------------------------------------------------------------------------------------

    async def read(self, namespace: str, key: str, version: int = 0) -> Entry | None:
        """As `Backend.read`."""
        return await self._ask(namespace, "read", Read(key=key, version=version), Entry | None)  # type: ignore[arg-type]

    async def write(
        self, namespace: str, writes: Sequence[Write], author: Author, fence: Fence | None = None
    ) -> list[Written]:
        """As `Backend.write`."""
        message = Writes(
            writes=list(writes), id=secrets.token_hex(16), by=author.by, task=author.task, fence=fence
        )
        try:
            return await self._ask(namespace, "write", message, list[Written])
        except RemoteError as error:
            if error.code == crossing.CONFLICT:
                raise await self._conflict(namespace, writes, error) from error
            raise

    async def _conflict(self, namespace: str, writes: Sequence[Write], error: RemoteError) -> ConflictError:
        """The error with both values: ours we have, and what stands there is read."""
        said = error.details
        key, stands = said.get("key", ""), said.get("theirs")
        theirs = None
        if stands:
            told = {name: stands[name] for name in ("version", "at", "by", "deleted")}
            theirs = Entry(key=key, value=None, **told)
            try:
                theirs = await self.read(namespace, key, stands["version"]) or theirs
            except NoSuchVersionError:
                pass  # so much was written since that it is no longer kept
        ours = next((write.value for write in writes if write.key == key), None)
        return ConflictError(key, said.get("base", 0), theirs, ours, said.get("reason", ""))

    async def history(self, namespace: str, key: str) -> list[Entry]:
        """As `Backend.history`."""
        return await self._ask(namespace, "history", Keyed(key=key), list[Entry])

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 100) -> Page:
        """As `Backend.list`."""
        return await self._ask(namespace, "list", Listing(prefix=prefix, after=after, limit=min(limit, MAX_PAGE)), Page)

    async def conflicts(self, namespace: str, after: str = "", limit: int = 100) -> Page:
        """As `Backend.conflicts`."""
        return await self._ask(namespace, "conflicts", Listing(after=after, limit=min(limit, MAX_PAGE)), Page)

    async def describe(self, namespace: str) -> Namespace:
        """As `Backend.describe`."""
        return await self._ask(namespace, "describe", None, Namespace)

    async def configure(self, namespace: str, how: Namespace) -> None:  # noqa: ARG002
        """That is an operator's, or stands in the settings of the coordinators.

        Raises:
            PermissionDeniedError: always.
        """
        key = f"{subjects.NAMESPACES}.{subjects.token(namespace, 'namespace')}"
        raise PermissionDeniedError("publish to", subjects.entry(subjects.MEMORY_BUCKET, key))

    # --- changes ----------------------------------------------------------------------------------------------

    async def watch(self, namespace: str, prefix: str = "", since: int | None = None) -> AsyncGenerator[Entry, None]:
        """As `Backend.watch`. It goes on when a coordinator ends, or none is there for a while."""
        first = True
        position = since
        while True:
            if position is None:
                position = (await self._changes(namespace, prefix, None, for_ever=not first)).position
                async for entry in self._standing(namespace, prefix, position):
                    yield entry
            found = await self._changes(namespace, prefix, position, for_ever=not first)
            first = False
            for entry in found.entries:
                yield entry
            position = None if found.anew else found.position

    async def _changes(self, namespace: str, prefix: str, since: int | None, *, for_ever: bool) -> Changes:
        message = Changed(prefix=prefix, since=since, wait=0.0 if since is None else MAX_WAIT)
        pause = PAUSE
        while True:
            try:
                return await self._ask(namespace, "changes", message, Changes, wait=message.wait)
            except BusError as error:
                if not (for_ever and error.retryable):
                    raise
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(PAUSE_MAX, pause * 2)

    async def _standing(self, namespace: str, prefix: str, position: int) -> AsyncIterator[Entry]:
        """What stands there, up to a position of the stream, in the order in which it was written."""
        found, after = [], ""
        while True:
            page = await self.list(namespace, prefix, after, MAX_PAGE)
            found += [one for one in page.entries if one.version <= position]
            after = page.after
            if not after:
                break
        found.sort(key=lambda one: one.version)
        while found:
            keys, size = list[str](), 0
            for one in found[:MAX_PAGE]:
                size += one.size
                if keys and size > _READ_AT_ONCE:
                    break
                keys.append(one.key)
            entries = await self._ask(namespace, "read_many", ReadMany(keys=keys), list[Entry | None])
            for entry in entries:
                if entry is not None and entry.live and entry.version <= position:
                    yield entry  # what was written to since comes as a change
            del found[: max(1, len(entries))]

    # --- locks ------------------------------------------------------------------------------------------------

    async def open_session(self, author: Author) -> Session:
        """As `LockBackend.open_session`."""
        return await self._ask("", "open_session", Opening(by=author.by, task=author.task), Session)

    async def renew(self, session: Session) -> Session:
        """As `LockBackend.renew`, tried for a third of the lease."""
        return await self._ask("", "renew_session", Kept(session=session), Session, patience=session.lease / 3)

    async def close_session(self, session: Session) -> None:
        """As `LockBackend.close_session`."""
        await self._ask("", "close_session", Kept(session=session), None)

    async def lock(
        self,
        namespace: str,
        key: str,
        mode: Mode,
        *,
        id: str,  # noqa: A002
        owner: str,
        session: Session,
        author: Author,
        wait: float,
    ) -> Fence | None:
        """As `LockBackend.lock`, but it waits no longer than a coordinator does."""
        message = Wanted(
            key=key,
            mode=mode,
            id=id,
            owner=owner,
            session=session,
            by=author.by,
            task=author.task,
            wait=max(0.0, min(wait, MAX_WAIT)),
        )
        now = asyncio.get_running_loop().time
        self._unanswered[id] = now() + self._mesh.connection.settings.publish_timeout
        try:
            found = await self._ask(namespace, "lock", message, Fence | None, wait=message.wait)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            self._unanswered[id] = now() + TRY + message.wait + LATE
            raise
        except TransportError:
            self._unanswered[id] = now() + LATE
            raise
        except BusError:
            del self._unanswered[id]
            raise
        del self._unanswered[id]
        return found

    async def unlock(self, namespace: str, key: str, id: str) -> bool:  # noqa: A002
        """As `LockBackend.unlock`. Where a coordinator may still be about to take it, it is given up again later."""
        until = self._unanswered.pop(id, 0.0)
        if until:
            task = asyncio.get_running_loop().create_task(self._unlock_later(namespace, key, id, until))
            self._again.add(task)
            task.add_done_callback(self._again.discard)
        return await self._ask(namespace, "unlock", Given(key=key, id=id), bool)

    async def _unlock_later(self, namespace: str, key: str, lock: str, until: float) -> None:
        await asyncio.sleep(until - asyncio.get_running_loop().time())
        try:
            await self._ask(namespace, "unlock", Given(key=key, id=lock), bool)
        except BusError as error:
            log.warning("the lock on %s/%s may be held until our session ends: %s", namespace, key, error)

    async def locks(self, namespace: str = "") -> list[LockState]:
        """As `LockBackend.locks`, of one namespace.

        Raises:
            ConfigError: none is named; nobody but an operator sees all.
        """
        if not namespace:
            raise ConfigError("locks", "name a namespace; nobody but an operator sees the locks of all")
        return await self._ask(namespace, "locks", None, list[LockState])

    # --- asking -----------------------------------------------------------------------------------------------

    async def _ask(
        self,
        namespace: str,
        method: str,
        message: object,
        reply: type[T],
        *,
        wait: float = 0.0,
        patience: float | None = None,
    ) -> T:
        connection, telemetry = self._mesh.connection, self._mesh.telemetry
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), PAUSE
        if namespace:
            subjects.token(namespace, "namespace")
        while True:
            try:
                answer: Any = await rpc.call(
                    connection, telemetry, subjects.MEMORY, method, message, timeout=TRY + wait, scope=namespace
                )
            except (BusClosedError, NoTimeLeftError):
                raise
            except RemoteError as error:
                failure: BusError = crossing.received(error)
                if not failure.retryable or failure.code in _FINAL:
                    raise failure from (error if failure is not error else None)
            except NoRespondersError as error:
                failure = NoMemoryError()
                failure.__cause__ = error
            except TransportError as error:
                failure = error
            else:
                return codec.as_type(reply, answer, subject=subjects.MEMORY)
            most = connection.settings.publish_timeout if patience is None else patience
            if loop.time() - began > (min(PATIENCE, most) if isinstance(failure, NoMemoryError) else most):
                raise failure
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(PAUSE_MAX, pause * 2)
