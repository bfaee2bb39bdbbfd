"""The results of many tasks at once: all of them, or each as it comes. No task of ours waits for a single one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from bus.arrivals import Arrival, Arrivals
from bus.errors import BusError, ConfigError, ResultsTimeoutError
from bus.handle import Handle


class _Ends:
    """Tasks in the order in which they end."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self._waiting: dict[Arrival, list[Handle]] = {}
        self._ended: deque[Handle] = deque()
        self._news = asyncio.Event()
        self._of = len(handles)
        self._left = len(handles)
        self._failure: BaseException | None = None
        for handle in handles:
            if handle.arrival.done:
                self._ended.append(handle)
            elif handle.arrival in self._waiting:
                self._waiting[handle.arrival].append(handle)
            else:
                self._waiting[handle.arrival] = [handle]
                handle.arrival.tell(self._arrived)

    def _arrived(self, arrival: Arrival) -> None:
        self._ended.extend(self._waiting.pop(arrival))
        self._news.set()

    def looked(self, looking: asyncio.Task[None]) -> None:
        """Those that may have ended before have been looked up, or cannot be."""
        if not looking.cancelled():
            self._failure = looking.exception()
            self._news.set()

    @property
    def over(self) -> bool:
        """Whether all have ended, and been taken."""
        return not self._left

    async def next(self, until: float | None) -> Handle | None:
        """The next that has ended; None when the loop's time is `until` first.

        Raises:
            ServerError: one cannot be looked up, and may have ended long ago.
        """
        while not self._ended:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                break
        if not self._ended:
            return None
        self._left -= 1
        return self._ended.popleft()

    def close(self) -> None:
        """Wait for none any more."""
        for arrival in self._waiting:
            arrival.forget(self._arrived)

    def late(self, seconds: float) -> ResultsTimeoutError:
        """What to say when the time is up."""
        first = next(iter(self._waiting.values()))[0]
        return ResultsTimeoutError(first.task_id, sum(map(len, self._waiting.values())), self._of, seconds)


async def as_completed(
    arrivals: Arrivals, handles: Iterable[Handle], timeout: float | None = None
) -> AsyncGenerator[Handle, None]:
    """See `bus.mesh.Mesh.as_completed`."""
    listed = _checked(handles)
    loop = asyncio.get_running_loop()
    until = None if timeout is None else loop.time() + timeout
    async with _following(arrivals, listed) as ends:
        while not ends.over:
            handle = await ends.next(until)
            if handle is None:
                assert timeout is not None
                raise ends.late(timeout)
            yield handle


async def gather(
    arrivals: Arrivals,
    handles: Sequence[Handle | BusError],
    *,
    return_exceptions: bool = False,
    timeout: float | None = None,
) -> list[Any]:
    """See `bus.mesh.Mesh.gather`."""
    for handle in handles:
        if isinstance(handle, BusError) and not return_exceptions:
            raise handle
    ends: dict[int, Any] = {}
    submitted = [handle for handle in handles if not isinstance(handle, BusError)]
    async with aclosing(as_completed(arrivals, submitted, timeout)) as completed:
        async for handle in completed:
            try:
                ends[id(handle)] = await handle.result()
            except BusError as error:
                if not return_exceptions:
                    raise
                ends[id(handle)] = error
    return [handle if isinstance(handle, BusError) else ends[id(handle)] for handle in handles]


def _checked(handles: Iterable[Handle]) -> list[Handle]:
    listed = list(handles)
    for handle in listed:
        if not isinstance(handle, Handle):
            raise ConfigError("handles", f"{handle!r:.80} is no handle of a task")
    return listed


@asynccontextmanager
async def _following(arrivals: Arrivals, handles: Sequence[Handle]) -> AsyncIterator[_Ends]:
    """Hear of their ends; those that may have ended before we listened are looked up beside."""
    if not arrivals.listening:
        await arrivals.listen()
    ends = _Ends(handles)
    old = {handle.arrival: handle for handle in handles if handle.known_before and not handle.arrival.done}
    wanted = [(handle.capability, handle.task_id, arrival) for arrival, handle in old.items()]
    looking = asyncio.get_running_loop().create_task(arrivals.look_for(wanted)) if wanted else None
    if looking is not None:
        looking.add_done_callback(ends.looked)
    try:
        yield ends
    finally:
        ends.close()
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
