"""What a worker keeps for each of its capabilities against trouble: a breaker, and a budget of retries.

It turns the pure ones (`bus.breaker`, `bus.retrybudget`) by the loop's clock, and says which capabilities are shut at
the moment. A capability that has never failed costs one look in a table for each task.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from bus.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, State
from bus.retrybudget import RetryBudget

FIRST = Breaker().admit(0.0)
"""The way of whoever began before anybody looked: a new breaker's."""
TICK: Final = 0.001
"""Seconds by which a timer may be wrong."""


@dataclass(slots=True)
class _Guard:
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    watched: bool = False
    """Whether anything has ever failed: before that there is nothing to count."""
    opened: bool = False
    """Whether it opened, and that it is tried again is still to be told."""
    timer: asyncio.TimerHandle | None = None
    """Goes off when it lets somebody through again."""


class Guards:
    """The guards of one worker's capabilities."""

    def __init__(
        self,
        capabilities: Iterable[str],
        *,
        on_change: Callable[[str, State, float], None],
        on_shut: Callable[[], None],
    ) -> None:
        """`on_change` hears how a breaker changed, and in how many seconds it is tried again; `on_shut` that `shut` is
        another.
        """
        self._guards = {name: _Guard() for name in capabilities}
        self._on_change = on_change
        self._on_shut = on_shut
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.shut: frozenset[str] = frozenset()
        """The capabilities of which no task may start now: open, or being tried."""

    @property
    def states(self) -> dict[str, Literal["open", "half-open"]]:
        """The breakers that are not closed."""
        now, found = self._loop.time(), dict[str, Literal["open", "half-open"]]()
        for name, guard in self._guards.items():
            state = guard.breaker.state(now)
            if state != CLOSED:
                found[name] = state
        return found

    def retry_in(self, name: str) -> float:
        """Seconds until a task may start."""
        return self._guards[name].breaker.retry_in(self._loop.time())

    def admit(self, name: str) -> int:
        """A way for a task to start, or 0: it may not now. `well`, `failed` or `left` is to be told of it."""
        guard = self._guards[name]
        if not guard.watched:
            return FIRST
        way = guard.breaker.admit(self._loop.time())
        if guard.breaker.state(self._loop.time()) != CLOSED:
            self._look()
        return way

    def is_trial(self, name: str) -> bool:
        """Whether what has just been admitted is to show whether all is well again."""
        guard = self._guards[name]
        return guard.watched and guard.breaker.state(self._loop.time()) == HALF_OPEN

    def well(self, name: str, way: int, *, first: bool) -> State | None:
        """A task went well; `first`: at its first attempt. Returns what that changed."""
        guard = self._guards[name]
        if not guard.watched:
            return None
        if first:
            guard.budget.called()
        return self._ended(name, guard, way, good=True)

    def failed(self, name: str, way: int, *, counts: bool, first: bool, took: float) -> State | None:
        """A task failed after `took` seconds; `counts`: by what the breaker is for. Returns what that changed."""
        guard = self._guards[name]
        guard.watched = True
        if first:
            guard.budget.called()
        return self._ended(name, guard, way, good=False if counts else None, took=took)

    def left(self, name: str, way: int) -> None:
        """A task let go of its way, and nobody knows how it would have ended."""
        guard = self._guards[name]
        if guard.watched:
            self._ended(name, guard, way, good=None)

    def may_retry(self, name: str) -> bool:
        """Whether the budget has one more; if so it is taken."""
        return self._guards[name].budget.take(self._loop.time())

    def close(self) -> None:
        """Look at the clock no more, and tell nobody anything."""
        self._closed = True
        for guard in self._guards.values():
            if guard.timer is not None:
                guard.timer.cancel()

    def _ended(self, name: str, guard: _Guard, way: int, *, good: bool | None, took: float = 0.0) -> State | None:
        now = self._loop.time()
        state = guard.breaker.ended(way, now, good=good, took=took, chance=random.random())  # noqa: S311
        if state is not None:
            guard.opened = state == OPEN
            if not self._closed:
                self._on_change(name, state, guard.breaker.retry_in(now))
        self._look()
        return state

    def _look(self) -> None:
        """Learn what is shut, and look again when it no longer is: an open breaker that is to be tried, and a half-open
        one whose trials take long.
        """
        if self._closed:
            return
        now, shut = self._loop.time(), set[str]()
        for name, guard in self._guards.items():
            if not guard.watched:
                continue
            if guard.opened and guard.breaker.state(now) != OPEN:
                guard.opened = False
                self._on_change(name, HALF_OPEN, 0.0)
            wait = guard.breaker.retry_in(now)
            if wait > 0:
                shut.add(name)
            self._arm(guard, now + wait if wait > 0 else None)
        if shut != self.shut:
            self.shut = frozenset(shut)
            self._loop.call_soon(self._on_shut)  # whoever starts a task has not noted yet that it has

    def _arm(self, guard: _Guard, due: float | None) -> None:
        """Look again when it is due; the loop's timers may come a little early, and then that is done once more."""
        if guard.timer is not None:
            if due is not None and abs(guard.timer.when() - due) < TICK:
                return
            guard.timer.cancel()
            guard.timer = None
        if due is not None:
            guard.timer = self._loop.call_at(due, self._time_is_over, guard)

    def _time_is_over(self, guard: _Guard) -> None:
        guard.timer = None
        self._look()
