"""The coordinator of shared memory: a system actor, any number of replicas, none with a state that the others lack.

It does for those that may touch no stream what others do by themselves, with the same code: what a namespace is to
whom, permissions say by the subjects on which it is asked. It takes the locks of the dead away, ends waits that would
never end, and entries whose time has run out.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actors.actor import Actor, rpc
from actors.memory import crossing, guests
from actors.memory.backend import Author, Session, Written
from actors.memory.errors import ConflictError
from actors.memory.keeper import Keeper
from actors.memory.locks import Locks
from actors.memory.messages import (
    Changed,
    Changes,
    Given,
    Kept,
    Listing,
    Opening,
    Past,
    Read,
    ReadMany,
    Versions,
    Wanted,
    Writes,
)
from actors.memory.model import Entry, Fence, LockState, Namespace, Page, agent_of
from actors.memory.news import News
from actors.memory.recent import AT_ONCE, Recent
from actors.memory.store import Store
from actors.memory.sweeper import Sweeper
from actors.memory.waits import Waits
from bus import codec, subjects
from bus.errors import BusError, ConfigError, RemoteError
from bus.rpc import CALLER, SCOPE
from bus.telemetry import current_ids

log = logging.getLogger(__name__)

LOCK_WAITS: Final = 384
CHANGE_WAITS: Final = 384
"""Requests that wait at once, for locks and for changes; above them one is refused, and asked again."""
READ_AT_ONCE: Final = 64
"""Keys of one request that are read side by side."""
BUILT_IN: Final = {"findings": Namespace(strategy="merge")}
"""Where the agents that come with Revo keep what they find, each in a part of its own."""


class MemorySettings(BaseModel):
    """The table `[system.memory]` of a mesh file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespaces: dict[str, Namespace] = Field({}, description="how they are used, from the start of a coordinator on")
    mergers: list[str] = Field([], description="functions for `merge`, as package.module:function: they are imported")

    @field_validator("namespaces")
    @classmethod
    def _tokens(cls, value: dict[str, Namespace]) -> dict[str, Namespace]:
        for name in value:
            subjects.token(name, "namespace")
        return value


class Coordinator(Actor):
    """Shared memory for those that may not touch its streams: entries, versions, conflicts, locks."""

    name = subjects.MEMORY
    concurrency = 1024
    Settings = MemorySettings
    settings: MemorySettings

    async def on_start(self) -> None:
        """Have the namespaces be used as the settings say, and look after locks and entries from now on."""
        connection, telemetry = self.mesh.connection, self.mesh.telemetry
        for target in self.settings.mergers:
            import_merger(target)
        self._store = Store(connection, telemetry)
        self._locks = Locks(connection)
        self._lock_waits = Waits("locks", LOCK_WAITS)
        self._change_waits = Waits("changes", CHANGE_WAITS)
        self._recent = Recent(connection, spawn=self.spawn)
        self._news = News(connection, telemetry, spawn=self.spawn)
        self._keeper = Keeper(connection, tell=self._news.tell, spawn=self.spawn)
        self._sweeper = Sweeper(connection, telemetry.instance, spawn=self.spawn)
        await asyncio.gather(self._configure(), self._news.open(), self._keeper.open(), self._sweeper.open())
        self._count()

    async def on_stop(self) -> None:
        """Follow nothing any more."""
        await self._recent.close()
        await self._news.close()
        await self._keeper.close()
        await self._sweeper.close()
        await self._locks.close()
        await self._store.close()

    async def _configure(self) -> None:
        for name, how in {**BUILT_IN, **self.settings.namespaces}.items():
            if not await self._store.set_up(name, how):
                log.warning(
                    "namespace %s is used as an operator said; what the settings say of it does not count "
                    "(`revo memory namespaces show %s`)",
                    name,
                    name,
                )

    def _count(self) -> None:
        watch = self.mesh.telemetry.metrics.watch
        watch("revo_memory_locks", "Locks that are held, in all namespaces.", lambda: self._keeper.held)
        watch("revo_memory_waiters", "Locks that are waited for, in all namespaces.", lambda: self._keeper.waiting)
        watch("revo_memory_conflicts", "Conflict sets seen to be made.", self._told("conflict"), grows=True)
        watch("revo_memory_evictions", "Locks taken from the dead.", self._told("evicted"), grows=True)
        watch("revo_memory_deadlocks", "Waits ended, for they had none.", self._told("deadlock"), grows=True)

    def _told(self, what: str) -> Callable[[], float]:
        return lambda: self._news.counts[what]

    # --- entries ----------------------------------------------------------------------------------------------

    @rpc("read", scoped=True)
    async def read(self, which: Read) -> Entry | None:
        """The newest version of a key, or another."""
        with self._doing("read"):
            return await self._store.read(SCOPE.get(), which.key, which.version)

    @rpc("read_many", scoped=True)
    async def read_many(self, which: ReadMany) -> list[Entry | None]:
        """The newest versions of the first of the keys, as many as an answer has room for."""
        with self._doing("read_many"):
            found: list[Entry | None] = []
            size = 0
            for begin in range(0, len(which.keys), READ_AT_ONCE):
                some = which.keys[begin : begin + READ_AT_ONCE]
                for entry in await asyncio.gather(*(self._store.read(SCOPE.get(), key) for key in some)):
                    size += 0 if entry is None else _size(entry)
                    if found and size > AT_ONCE:
                        return found
                    found.append(entry)
            return found

    @rpc("write", scoped=True)
    async def write(self, what: Writes) -> list[Written]:
        """Some writes, all or none, in the name of who asks."""
        with self._doing("write"):
            author = _author(what.by, what.task)
            return await self._store.write(SCOPE.get(), what.writes, author, what.fence, asked_as=what.id, ago=what.ago)

    @rpc("history", scoped=True)
    async def history(self, which: Past) -> Versions:
        """The versions of a key that are kept, as many as an answer has room for."""
        with self._doing("history"):
            entries, after = await self._store.versions(SCOPE.get(), which.key, which.after, AT_ONCE)
            return Versions(entries=entries, after=after)

    @rpc("list", scoped=True)
    async def list_(self, which: Listing) -> Page:
        """What stands at and under a key, in pages."""
        with self._doing("list"):
            return await self._store.list(SCOPE.get(), which.prefix, which.after, which.limit)

    @rpc("conflicts", scoped=True)
    async def conflicts(self, which: Listing) -> Page:
        """The entries that have a conflict set, in pages."""
        with self._doing("conflicts"):
            return await self._store.conflicts(SCOPE.get(), which.after, which.limit)

    @rpc("changes", scoped=True)
    async def changes(self, asked: Changed) -> Changes:
        """What was written since; if there is nothing, it is waited for."""
        with self._doing("changes"):
            if asked.since is None:
                return Changes(position=await self._recent.position())
            with self._change_waits.place(CALLER.get()):
                found = await self._recent.after(
                    SCOPE.get(), asked.prefix, asked.since, wait=asked.wait, limit=asked.limit
                )
            entries = [entry for one in found.changes if (entry := await self._store.entry(one)) is not None]
            return Changes(entries=entries, position=found.position, anew=found.anew)

    @rpc("describe", scoped=True)
    async def describe(self) -> Namespace:
        """How the namespace is used."""
        with self._doing("describe"):
            return await self._store.describe(SCOPE.get())

    # --- locks ------------------------------------------------------------------------------------------------

    @rpc("open_session")
    async def open_session(self, asked: Opening) -> Session:
        """A lease for the locks of who asks."""
        with self._doing("open_session"):
            return await self._locks.open_session(_author(asked.by, asked.task))

    @rpc("renew_session")
    async def renew_session(self, kept: Kept) -> Session:
        """The same for another while."""
        with self._doing("renew_session"):
            guests.check(kept.session.id, CALLER.get())
            return await self._locks.renew(kept.session)

    @rpc("close_session")
    async def close_session(self, kept: Kept) -> None:
        """End it, and give up all its locks."""
        with self._doing("close_session"):
            guests.check(kept.session.id, CALLER.get())
            await self._locks.close_session(kept.session)

    @rpc("lock", scoped=True)
    async def lock(self, asked: Wanted) -> Fence | None:
        """A lock, or none yet, and then a place in the queue for it."""
        with self._doing("lock"), self._lock_waits.place(CALLER.get()):
            guests.check(asked.session.id, CALLER.get())
            return await self._locks.lock(
                SCOPE.get(),
                asked.key,
                asked.mode,
                id=asked.id,
                owner=asked.owner,
                session=asked.session,
                author=_author(asked.by, asked.task),
                wait=asked.wait,
            )

    @rpc("unlock", scoped=True)
    async def unlock(self, given: Given) -> bool:
        """Give up a lock, or the place in the queue for it."""
        with self._doing("unlock"):
            await guests.check_lock(self.mesh.connection, SCOPE.get(), given.key, given.id, CALLER.get())
            return await self._locks.unlock(SCOPE.get(), given.key, given.id, mark=not given.answered)

    @rpc("locks", scoped=True)
    async def locks(self) -> list[LockState]:
        """All locks of the namespace. Ids and sessions of others are not told: they are what proves that one is one's
        own.
        """
        with self._doing("locks"):
            return [guests.shown(one, CALLER.get()) for one in await self._locks.locks(SCOPE.get())]

    # --- what all of them do ----------------------------------------------------------------------------------

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Count it, and have what it raises be raised at the other end, too."""
        began, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "done"
        except BusError as error:
            if not error.retryable:
                outcome = "conflict" if isinstance(error, ConflictError) else "refused"
            if not isinstance(error, RemoteError):
                vars(error)["details"] = crossing.details_of(error)  # which is how an answer tells them
            raise
        finally:
            self.mesh.telemetry.metrics.remembered(what, outcome, time.perf_counter() - began)


def _author(by: str, task: str) -> Author:
    """Who writes: who asks, by the name of his instance if he says it and it is one of his."""
    caller = CALLER.get()
    if caller and (agent_of(by) != caller or not subjects.is_token(by)):
        by = caller
    return Author(by or subjects.ANONYMOUS, task, current_ids()[0], caller)


def _size(entry: Entry) -> int:
    return len(codec.encode(entry.value)) + sum(len(codec.encode(one.value)) for one in entry.alternatives)


def import_merger(target: str) -> None:
    """Import the module of a function that is registered as a rule to merge by.

    Raises:
        ConfigError: there is no such module, or no such function in it.
    """
    where, _, attribute = target.partition(":")
    try:
        module: Any = importlib.import_module(where)
    except Exception as error:
        raise ConfigError(f"merger {target}", f"does not import: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, attribute, None)):
        raise ConfigError(f"merger {target}", f"{where} has no function {attribute or 'that is named'}")
