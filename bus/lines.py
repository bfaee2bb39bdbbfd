"""What a client knows of one method of one agent: whether it works, and how often it may be tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from bus import faults, subjects
from bus.breaker import CLOSED, Breaker, State
from bus.errors import BusError, ConnectionLostError, NoTimeLeftError, RemoteError, TransportError
from bus.retrybudget import RetryBudget

COUNTED: Final = faults.BREAKING | {"overload", "network"}
"""The faults of whom we ask that a breaker counts: a worker's, and that it has no room for us."""
SHORT: Final = 0.1
"""Seconds: with less to wait a time-out says nothing of whom we ask."""
MOST: Final = 1000
"""So many lines are remembered, besides those that were told how to choose."""


class Line:
    """One of them."""

    __slots__ = ("breaker", "budget", "method", "name", "preferred", "service", "subject", "told", "undirected", "used")

    def __init__(self, service: str, method: str, caller: str) -> None:
        """`caller` is as in `subjects.rpc`.

        Raises:
            InvalidSubjectError: there can be no such service, or method.
        """
        self.subject = subjects.rpc(service, method, caller)
        self.service = service
        self.method = method
        self.name = f"{service}/{method}"
        self.breaker = Breaker()
        self.budget = RetryBudget()
        self.preferred = ""
        """How its instance is chosen where nothing else is said."""
        self.told: State = CLOSED
        """What was last told of its breaker."""
        self.undirected = False
        """Whether we may ask it only by its queue group."""
        self.used = 0.0
        """When it was asked last, by the monotonic clock."""


class Lines:
    """Those of one client. Of methods that were asked long ago nothing is remembered but how to choose."""

    def __init__(self, caller: str) -> None:
        """`caller` is as in `subjects.rpc`."""
        self._caller = caller
        self.there: dict[tuple[str, str], Line] = {}

    def __iter__(self) -> Iterator[Line]:
        """All of them, as they are at this moment; any thread may ask."""
        return iter(list(self.there.values()))

    def line(self, service: str, method: str) -> Line:
        """That of a method, a new one where nothing is remembered.

        Raises:
            InvalidSubjectError: there can be no such service, or method.
        """
        line = self.there.get((service, method))
        if line is None:
            line = self.there[service, method] = Line(service, method, self._caller)
            line.used = time.monotonic()
            if len(self.there) > MOST:
                self._drop(line.used)
        return line

    def _drop(self, now: float) -> None:
        """Let go of a quarter, those first whose breakers are closed and that were not asked for the longest."""
        lines = [one for one in self if not one.preferred]
        if len(lines) > MOST:
            lines.sort(key=lambda one: (one.breaker.state(now) != CLOSED, one.used))
            for one in lines[: MOST // 4]:
                del self.there[one.service, one.method]


class Verdict(NamedTuple):
    """What an ask says of whom it asked: whether it was good, or not, or nothing (None)."""

    works: bool | None
    """For the breaker: whether it is there and can work. Whoever finds fault with what he was asked can."""
    served: bool | None
    """For whoever chooses among instances: whether the answer was worth having."""


GOOD: Final = Verdict(works=True, served=True)
BAD: Final = Verdict(works=False, served=False)
NOTHING: Final = Verdict(works=None, served=None)


def hurried(seconds: float, wanted: float) -> bool:
    """Whether who asked had so little time, or so much less than he wanted, that a time-out is his own."""
    return seconds < SHORT or seconds < wanted / 2


def judge(error: BusError, *, connected: bool, hurried: bool) -> Verdict:
    """What an error says of whom was asked. `connected` is whether we are; for `hurried` see there."""
    if isinstance(error, RemoteError):
        kind = faults.classify(error)
        works = None if kind == "timeout" and hurried else kind not in COUNTED
        return Verdict(works, None if works is None else not error.retryable)
    if not connected or isinstance(error, ConnectionLostError | NoTimeLeftError):
        return NOTHING  # the fault is between us and the server, or our own
    if not isinstance(error, TransportError) or (hurried and faults.classify(error) == "timeout"):
        return NOTHING
    return BAD
