"""The locks that one client holds, over any backend."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final
from weakref import WeakKeyDictionary

from actors.memory import locktable
from actors.memory.backend import Author, LockBackend
from actors.memory.errors import DeadlockError, LockLostError, LockTimeoutError
from actors.memory.leasing import Lease
from actors.memory.lock import Grant, Lock
from actors.memory.locktable import CODES, Claim
from actors.memory.model import Fence, LockState, Mode
from bus import subjects
from bus.errors import BusError, ConfigError, QueueFullError, TransportError
from bus.telemetry import span

__all__ = ["Holder", "Lock"]

log = logging.getLogger(__name__)

_TURN: Final = 5.0
"""Seconds that one call waits. The next looks at the table again: news may be lost with the server that told it."""
_GRACE: Final = 0.5
"""Seconds beyond a time limit for the answer that says that it has passed."""
_BOUND: Final = 2.0
"""Seconds that giving up is waited for where something else is to go on; it is done all the same, or the lease ends."""
_PAUSE: Final = (0.05, 1.0)
"""Seconds, on average half of them, before a second try, and the longest."""
_NAMED: Final = 3
"""Locks that are in the way and that an error names."""


class Holder:
    """All locks of one client. They hang on one lease, which is renewed while there are any."""

    def __init__(self, backend: LockBackend, author: Callable[[], Author], *, patience: float = 15.0) -> None:
        """`author` says who asks at the moment; `patience` is how long, in seconds, a call without an answer is tried
        again.
        """
        self._backend = backend
        self._author = author
        self._patience = patience
        self._lease: Lease | None = None
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._next = itertools.count(1)

    def lock(self, namespace: str, key: str, mode: Mode | str = Mode.EXCLUSIVE, timeout: float | None = 30.0) -> Lock:
        """A lock, not held yet. `timeout` is seconds to wait for it, 0: not at all; None: as long as it takes.

        Raises:
            ConfigError: there can be no such lock.
        """
        subjects.lock_table(namespace, key)
        if timeout is not None and not timeout >= 0:
            raise ConfigError("timeout", f"{timeout!r} is not a number of seconds, 0 or more")
        try:
            return Lock(self, namespace, key, Mode(mode), timeout)
        except ValueError:
            raise ConfigError("mode", f"{mode!r} is none of {', '.join(Mode)}") from None

    async def close(self) -> None:
        """Give up all of them, within 2 seconds; what cannot be given up ends with its lease."""
        lease, self._lease = self._lease, None
        if lease is not None:
            places = lease.places
            lease.lose("its client was closed")
            await self._within(self._end(lease, places), _BOUND)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end(self, lease: Lease, places: list[tuple[str, str, str]]) -> None:
        unlock = self._backend.unlock
        await asyncio.gather(*(unlock(*place) for place in places), return_exceptions=True)
        await self._backend.close_session(lease.session)

    async def _within(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except (BusError, TimeoutError) as error:
            log.debug("locks end with their lease: %s", error)

    # --- to take one ------------------------------------------------------------------------------------------

    async def take(self, lock: Lock) -> Grant:
        """Wait for a lock until it is held; see `Lock.acquire`. Its lease is renewed for it from now on."""
        attributes = {"namespace": lock.namespace, "key": lock.key, "mode": lock.mode.value}
        with span("memory/lock", **{f"revo.memory.{name}": value for name, value in attributes.items()}):
            return await self._take(lock)

    async def _take(self, lock: Lock) -> Grant:
        loop = asyncio.get_running_loop()
        until = None if lock.timeout is None else loop.time() + lock.timeout
        number = self._number()
        try:
            async with asyncio.timeout_at(None if until is None else until + _GRACE):
                while True:
                    before = self._lease
                    ours = before.of(f"{before.session.id}.{number}") if before is not None else {}
                    lease = await self._leased()
                    if lease is before or not ours:
                        fence = await self._claim(lock, lease, f"{lease.session.id}.{number}", until)
                        if fence is not None:
                            return Grant(fence, lease)
                    if before is not None and ours:  # whoever holds what is lost must not go on as if he held it
                        raise LockLostError(min(ours.values()), before.over)
        except TimeoutError:
            raise LockTimeoutError(lock.key, lock.mode, lock.timeout or 0.0, "there was no answer") from None

    def _number(self) -> int:
        task = asyncio.current_task()
        if task is None:
            raise ConfigError("lock", "only a task can hold one")
        number = self._numbers.get(task)
        if number is None:
            number = self._numbers[task] = next(self._next)
        return number

    async def _leased(self) -> Lease:
        if self._lease is not None and self._lease.ready:
            return self._lease
        async with self._opening:
            if self._lease is not None and await self._is_ready(self._lease):
                return self._lease
            began = asyncio.get_running_loop().time()
            session = await self._backend.open_session(self._author())
            self._lease = Lease(self._backend, session, began, self._spawn)
            return self._lease

    @staticmethod
    async def _is_ready(lease: Lease) -> bool:
        if lease.lives and not lease.ready:
            try:
                await lease.renew()
            except LockLostError as error:
                log.debug("%s", error)
        return lease.ready

    async def _claim(self, lock: Lock, lease: Lease, owner: str, until: float | None) -> Fence | None:
        """A lock that hangs on a lease; None: the lease is over."""
        place = lock.namespace, lock.key, secrets.token_hex(8)
        lease.hold(place, owner)
        try:
            fence = await self._granted(lock, lease, place[2], owner, until)
            if fence is None:
                raise LockTimeoutError(lock.key, lock.mode, lock.timeout or 0.0, await self._who(lock, lease, owner))
            if lease.lives:
                return fence
            lease.lose(f"session {lease.session.id} was not renewed in time")
        except (LockLostError, DeadlockError) as error:
            lease.drop(place[2])
            if isinstance(error, DeadlockError):
                raise
            if lease.lives:  # we are told so before we know
                lease.lose(error.reason)
        except BaseException:
            lease.drop(place[2])
            # Cancelled, too late or without an answer. A second cancellation does not stop it.
            await asyncio.wait({self._spawn(self._abandon(lease, place))}, timeout=_BOUND)
            raise
        return None

    async def _granted(self, lock: Lock, lease: Lease, id_: str, owner: str, until: float | None) -> Fence | None:
        """The lock; None: it was waited for as long as it may."""
        loop = asyncio.get_running_loop()
        trouble, pause = 0.0, _PAUSE[0]
        while True:
            now = loop.time()
            wait = _TURN if until is None else max(0.0, min(_TURN, until - now))
            try:
                fence = await self._backend.lock(
                    lock.namespace,
                    lock.key,
                    lock.mode,
                    id=id_,
                    owner=owner,
                    session=lease.session,
                    author=self._author(),
                    wait=wait,
                )
            except QueueFullError:
                raise
            except TransportError:
                trouble = trouble or now
                if loop.time() > trouble + self._patience:
                    raise
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
                pause = min(_PAUSE[1], pause * 2)
                continue
            if fence is not None or (until is not None and loop.time() >= until):
                return fence
            trouble, pause = 0.0, _PAUSE[0]

    async def _who(self, lock: Lock, lease: Lease, owner: str) -> str:
        """Who is in the way of a lock, in words."""
        try:
            async with asyncio.timeout(_GRACE):
                states = await self._backend.locks(lock.namespace)
        except (BusError, TimeoutError) as error:
            return f"who holds it is not known: {error}" if str(error) else "who holds it is not known"
        ours = lease.of(owner)
        wanted = Claim("", "", owner, lock.key, CODES[lock.mode], 0.0)
        found = [
            one
            for one in states
            if one.id not in ours and locktable.conflict(wanted, Claim("", "", "", one.key, CODES[one.mode], 0.0))
        ]
        return ", ".join(_words(one) for one in found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")

    # --- to give it up ----------------------------------------------------------------------------------------

    async def give_up(self, grant: Grant) -> str:
        """Give up a lock; return why it was lost, if it was."""
        fence, lease = grant
        place = fence.namespace, fence.key, fence.id
        lease.drop(fence.id)
        if not lease.lives:
            lease.lose(f"session {lease.session.id} was not renewed in time")
            return lease.over
        try:
            async with asyncio.timeout_at(lease.until):
                if not await self._backend.unlock(*place):
                    await lease.renew()  # while the lease lasts nobody takes it away: an answer was lost
        except LockLostError as error:
            return error.reason
        except (BusError, TimeoutError) as error:
            log.warning("the lock on %s ends with its lease: %s", fence.key, error)
            lease.leave(place)
        except asyncio.CancelledError:
            self._spawn(self._abandon(lease, place))
            raise
        return ""

    async def _abandon(self, lease: Lease, place: tuple[str, str, str]) -> None:
        """Give up what may be held or waited for. Where it is neither, our request may still be on its way."""
        try:
            async with asyncio.timeout_at(lease.until):
                if not await self._backend.unlock(*place):
                    lease.leave(place)
        except (BusError, TimeoutError) as error:
            log.debug("lock on %s: %s; giving it up later", place[1], error)
            lease.leave(place)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a fault in the keeping of locks: %s", error, exc_info=error)
            if self._lease is not None:
                self._lease.lose(f"a fault in the keeping of locks: {error}")


def _words(state: LockState) -> str:
    age = max(0.0, time.time() - state.since)
    verb = "holds" if state.token else "waits for"
    return f"{state.by} {verb} {state.key} ({state.mode}) since {age:.1f} s"
