"""Something that is carried out whether anybody awaits it or not. Must not know what."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any


class Pending:
    """Await it to know that it is done, or why it could not be. Whoever is cancelled meanwhile does not stop it."""

    __slots__ = ("_future", "seen")

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
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
        """Why it could not be done; None: it was, or is still under way."""
        return self._future.exception() if self._future.done() else None

    def succeed(self) -> None:
        """It is done."""
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


class Nothing:
    """Is done at once."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # makes it a generator
