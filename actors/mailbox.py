"""An actor's mailbox: how many messages it handles at once and how many may wait."""

from __future__ import annotations

import asyncio

from bus.errors import MailboxFullError


class Mailbox:
    """Lets `concurrency` messages through at a time, in the order they came; with 1, state needs no locks.

    Requests wait here, up to `capacity`. Tasks wait on the server: a worker takes none that it has no slot for.
    """

    def __init__(self, actor: str, *, concurrency: int, capacity: int) -> None:
        self._actor = actor
        self._capacity = capacity
        self._slots = asyncio.Semaphore(concurrency)
        self.waiting = 0
        self.running = 0

    async def enter(self, *, bounded: bool) -> None:
        """Wait for a turn; `leave` ends it.

        Raises:
            MailboxFullError: at once, when `bounded` and `capacity` messages wait already.
        """
        if bounded and self.waiting >= self._capacity:
            raise MailboxFullError(self._actor, self._capacity)
        if self._slots.locked():
            self.waiting += 1
            try:
                await self._slots.acquire()
            finally:
                self.waiting -= 1
        else:
            await self._slots.acquire()  # which does not wait, and lets nobody else in between
        self.running += 1

    def leave(self) -> None:
        """End a turn."""
        self.running -= 1
        self._slots.release()
