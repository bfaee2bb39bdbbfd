"""Tasks in hand that wait for a slot, and which of them is next.

Pure data: no clock, no network. The most urgent is next, but a less urgent one that waits is passed only so often.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from bus.subjects import PRIORITIES

T = TypeVar("T")

URGENCY: Final = {priority: rank for rank, priority in enumerate(PRIORITIES)}
STARVE_AFTER: Final = 16
"""Starts that may go past a waiting, less urgent task before it has its turn."""


class Intake(Generic[T]):
    """First come, first served within a priority; the most urgent priority first; nobody starves."""

    def __init__(self) -> None:
        self._queues: tuple[deque[T], ...] = tuple(deque() for _ in PRIORITIES)
        self._passed = [0] * len(PRIORITIES)
        self._size = 0

    def __bool__(self) -> bool:
        return self._size > 0

    def __len__(self) -> int:
        return self._size

    def count(self, rank: int) -> int:
        """How many wait of a priority, by its rank."""
        return len(self._queues[rank])

    def put(self, item: T, priority: str) -> None:
        """Let it wait behind those of its priority."""
        self._queues[URGENCY[priority]].append(item)
        self._size += 1

    def remove(self, item: T, priority: str) -> None:
        """Take it out of turn. ValueError when it does not wait."""
        self._queues[URGENCY[priority]].remove(item)
        self._size -= 1

    def next(self) -> T | None:
        """Take the one whose turn it is, or None when nothing waits."""
        if not self._size:
            return None
        first = -1
        for rank, queue in enumerate(self._queues):
            if queue and (first < 0 or self._passed[rank] >= STARVE_AFTER):
                first = rank
        for rank, queue in enumerate(self._queues):
            self._passed[rank] = self._passed[rank] + 1 if queue and rank > first else 0
        self._size -= 1
        return self._queues[first].popleft()

    def clear(self) -> list[T]:
        """Take all that wait, most urgent first."""
        items = [item for queue in self._queues for item in queue]
        for queue in self._queues:
            queue.clear()
        self._size = 0
        return items
