"""How many tasks a worker takes ahead of its free slots: as many as it starts within a moment, at the pace that it has.

Pure arithmetic: no clock, no network.
"""

from __future__ import annotations

from typing import Final

LOOK_AHEAD: Final = 0.05
"""Seconds within which a task that is taken ahead of a free slot is started."""
WEIGHT: Final = 0.1
"""Of the last task in the pace."""
MOST: Final = 4
"""Tasks for each slot that are taken ahead at the most."""


class Pace:
    """How long tasks occupy a slot, as the last ones did."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._seconds: float | None = None

    def took(self, seconds: float) -> None:
        """A task occupied its slot for so long."""
        if self._seconds is None:
            self._seconds = seconds
        else:
            self._seconds += WEIGHT * (seconds - self._seconds)

    def lost(self) -> None:
        """Tasks take longer than they did, for one waited in vain for a slot: what was known is worth nothing."""
        self._seconds = None

    @property
    def seconds(self) -> float | None:
        """How long the last tasks occupied a slot; None: that is not known."""
        return self._seconds

    @property
    def ahead(self) -> int:
        """How many tasks to have in hand beyond the free slots, so that a slot need not wait for the server; 0 where it
        is not known how long tasks take, or they take so long that it does not matter.
        """
        if self._seconds is None:
            return 0
        return min(MOST * self._slots, int(self._slots * LOOK_AHEAD / max(self._seconds, 1e-6)))

    @property
    def reserve(self) -> int:
        """How many of each less urgent rank to have in hand, so that one is there when its turn comes."""
        ahead = self.ahead
        return 2 + ahead // 8 if ahead else 1
