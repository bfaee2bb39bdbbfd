"""Something that is carried out whether anybody awaits it or not. Must not know what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any


class Pending:
    """Await it to know that it is done, or why it could not be. Whoever is cancelled meanwhile does not stop it."""

    __slots__ = ("_future", "_mended", "seen")

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._mended = False
        self.seen = False
        """Whether somebody has awaited it: an error of it is known then."""

    def __await__(self) -> Generator[Any, None, None]:
        self.seen = True
        return asyncio.shield(self._future).__await__()

    @property
    def done(self) -> bool:
        """Whether it is over, well or not."""
        return self._future.done()

    @property
    def error(self) -> BaseException | None:
        """Why it could not be done; None: it was, if only at another try, or is still under way."""
        return self._future.exception() if self._future.done() and not self._mended else None

    def succeed(self) -> None:
        """It is done, maybe after it had failed: who has awaited it till then was told so."""
        self._mended = True
        if not self._future.done():
            self._future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """It cannot be done."""
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # whether anybody awaits it is his business; `seen` says who must be told

    async def over(self) -> None:
        """Return once it is done or has failed, without counting as somebody who knows."""
        await asyncio.wait((self._future,))


class Nothing(Awaitable[None]):
    """Is done at once."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # makes it a generator


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs in this loop, and not in a thread, or in a loop that it has there."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def block(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> Nothing:
    """Have it done in a loop that is not the caller's; return once it is. What it raises is raised."""
    asyncio.run_coroutine_threadsafe(work, loop).result()
    return Nothing()
