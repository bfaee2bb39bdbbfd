"""An actor's mailbox: how many messages it handles at once and how many may wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from bus.errors import MailboxFullError


class Mailbox:
    """Lets `concurrency` messages through at a time, in the order they came; with 1, state needs no locks.

    Requests wait here, up to `capacity`. Tasks wait on the server: a worker takes none that it has no slot for.
    """

    def __init__(self, actor: str, *, concurrency: int, capacity: int) -> None:
        self._actor = actor
        self._capacity = capacity
        self._free = concurrency
        self._queue: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self._full_since = 0.0
        self._full_seconds = 0.0

    @property
    def is_full(self) -> bool:
        """Whether all turns are taken."""
        return self._free == 0

    @property
    def full_seconds(self) -> float:
        """For how long all turns were taken, in all."""
        return self._full_seconds + (time.monotonic() - self._full_since if self._free == 0 else 0.0)

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._queue)

    def enter_at_once(self) -> bool:
        """Have a turn if one is free and nobody waits for it; `leave` ends it."""
        if self._free == 0 or self.waiting:
            return False
        self._free -= 1
        self.running += 1
        if not self._free:
            self._full_since = time.monotonic()
        return True

    def check_room(self) -> None:
        """See that one message more may wait, or need not.

        Raises:
            MailboxFullError: `capacity` messages wait already.
        """
        if self.waiting >= self._capacity and self._free == 0:
            raise MailboxFullError(self._actor, self._capacity)

    async def enter(self, *, bounded: bool) -> None:
        """Wait for a turn; `leave` ends it.

        Raises:
            MailboxFullError: at once, when `bounded` and `capacity` messages wait already.
        """
        if self.enter_at_once():
            return
        if bounded:
            self.check_room()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was given to us as we were cancelled
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def leave(self) -> None:
        """End a turn: who waits longest has the next."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():  # who was cancelled has not looked yet
                turn.set_result(None)
                return
        if not self._free:
            self._full_seconds += time.monotonic() - self._full_since
        self._free += 1
        self.running -= 1
