"""What runs in a worker beside the handlers: nothing of it fails unseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from bus.errors import BusError

log = logging.getLogger(__name__)


class Nursery:
    """Runs coroutines; the first error that one of them lets out is the end of all."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[BusError] = asyncio.get_running_loop().create_future()
        """Done with the first error."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside the others."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fault(error)

    def fault(self, error: BaseException) -> None:
        """Nothing that a handler does ends here: a fault of ours, or a server that refuses us."""
        log.error("%s: %s: %s", self._name, type(error).__name__, error, exc_info=error)
        self.fail(error if isinstance(error, BusError) else WorkerFaultError(str(error)))

    def fail(self, error: BusError) -> None:
        """It cannot go on."""
        if not self.failed.done():
            self.failed.set_result(error)

    async def close(self, others: Iterable[asyncio.Task[Any]]) -> None:
        """Cancel what still runs, and these with it; returns when all have ended."""
        left = [*self._tasks, *others]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class WorkerFaultError(BusError):
    """The worker itself is at fault; its process should end, and what it held goes to another."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"fault in the worker: {self.reason}"
