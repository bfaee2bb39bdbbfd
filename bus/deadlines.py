"""How much time is left for what a handler asks of others: no more than its own caller waits.

Without it a handler goes on asking for those who have given up long ago. Must not know how anything is sent.
"""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import Final

from bus.errors import NoTimeLeftError

LEAST: Final = 0.001
"""Seconds: with less nothing is sent."""


class Term:
    """Until when somebody waits for what runs here; unix seconds. `end` it when that has ended: what it left running
    beside is nobody's business any more, and not cut short.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until

    def end(self) -> None:
        """Nobody waits any more, for it is done."""
        self.until = math.inf


TERM: ContextVar[Term | None] = ContextVar("revo_term", default=None)
"""Set where a handler runs."""


def reserve(seconds: float) -> float:
    """How much earlier a callee must end than its caller, who waits so many seconds: to say so, and to be heard.

    A tenth, and as alarms may be 20 ms late, if possible not less than 40 ms; 0.2 s are enough.
    """
    return min(seconds / 2, max(0.04, min(0.2, seconds / 10)))


def within(timeout: float, what: str) -> float:
    """`timeout` (seconds), or less where whoever waits for our handler waits less: then a bit less than that.

    Raises:
        NoTimeLeftError: there is nothing left.
    """
    term = TERM.get()
    if term is None:
        return timeout
    left = term.until - time.time()
    if left - reserve(left) >= timeout:
        return timeout
    if left < LEAST:
        raise NoTimeLeftError(what, -left)
    return left - reserve(left)
