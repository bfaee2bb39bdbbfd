"""How often one may try again, so that retries do not become a storm. Pure: time is handed in.

Where everything fails, each call that is tried three times makes three of one, at the moment when there is least room
for it. With a budget there is a fifth more, whatever the callers wish.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2
"""Of the calls may be tried again."""
FLOOR: Final = 1.0
"""A second may be tried again in any case: of a few calls a fifth is none."""
MOST: Final = 10.0
"""Retries are saved up to be used at once."""


class RetryBudget:
    """A bucket of retries: calls and time fill it, retries empty it.

    In any stretch of time no more than `most + share * calls + floor * seconds` are granted.
    """

    __slots__ = ("_floor", "_left", "_most", "_share", "_updated")

    def __init__(self, share: float = SHARE, floor: float = FLOOR, most: float = MOST) -> None:
        self._share = share
        self._floor = floor
        self._most = most
        self._left = most
        self._updated = float("-inf")

    def called(self) -> None:
        """Something was tried for the first time."""
        self._left = min(self._most, self._left + self._share)

    def take(self, now: float) -> bool:
        """Whether something may be tried again; if so that is one less."""
        since = max(0.0, now - self._updated)
        self._updated = max(self._updated, now)
        self._left = min(self._most, self._left + since * self._floor)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
