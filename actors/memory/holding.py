"""The locks that one client holds, and the lease that they hang on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from actors.memory.backend import Author, LockBackend
from actors.memory.model import Fence, Mode


class Lock:
    """A lock, to be held for the length of an `async with` block, or between `acquire` and `release`."""

    def __init__(self, holder: Holder, namespace: str, key: str, mode: Mode, timeout: float | None) -> None:
        self.namespace = namespace
        self.key = key
        self.mode = mode
        self.lost = asyncio.Event()
        """Set when it was taken away while it was held."""

    @property
    def token(self) -> int:
        """The fencing token: grows from one grant to the next; 0: it is not held."""
        raise NotImplementedError

    @property
    def fence(self) -> Fence:
        """What a fenced write shows."""
        raise NotImplementedError

    async def acquire(self) -> Self:
        """Hold it from now on."""
        raise NotImplementedError

    async def release(self) -> None:
        """Hold it no more."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


class Holder:
    """All locks of one client, over any backend."""

    def __init__(self, backend: LockBackend, author: Callable[[], Author], *, patience: float = 15.0) -> None:
        """`author` says who asks at the moment; `patience` is how long, in seconds, a call without an answer is tried
        again.
        """
        raise NotImplementedError

    def lock(self, namespace: str, key: str, mode: Mode | str = Mode.EXCLUSIVE, timeout: float | None = 30.0) -> Lock:
        """A lock, not held yet. `timeout` is seconds to wait for it; None: as long as it takes.

        Raises:
            ConfigError: there can be no such lock.
        """
        return Lock(self, namespace, key, Mode(mode), timeout)

    async def close(self) -> None:
        """Give up all of them, within 2 seconds; what cannot be given up ends with its lease."""
        raise NotImplementedError
