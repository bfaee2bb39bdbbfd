"""Bounds how many requests a coordinator keeps waiting, so that those that need not wait always find a turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from actors.memory.errors import TooManyWaitersError


class Waits:
    """Places for requests that wait for something, some of them for each user."""

    def __init__(self, what: str, most: int) -> None:
        """At most `most` in all, and half of them for one user."""
        self._what = what
        self._most = most
        self._each = max(1, most // 2)
        self._of: Counter[str] = Counter()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """One place for the length of a block.

        Raises:
            TooManyWaitersError: all of them, or all of the caller's, are taken.
        """
        if self._of.total() >= self._most:
            raise TooManyWaitersError(self._what, self._most)
        if caller and self._of[caller] >= self._each:
            raise TooManyWaitersError(f"{self._what} of {caller}", self._each)
        self._of[caller] += 1
        try:
            yield
        finally:
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]
