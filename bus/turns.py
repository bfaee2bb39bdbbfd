"""Whose turn it is: a queue, or the lane beside it, where both have something.

Pure arithmetic: no clock, no network.
"""

from __future__ import annotations

from typing import Final

KEPT: Final = 30.0
"""Seconds after the last word of a lane for which it is pulled from, although it is empty."""


def turn(room: int, *, lane: bool, last_was_lane: bool, other_on_its_way: int) -> int:
    """How many to pull from one of the two: half of the room, and what is odd in turn.

    `room` is how many there is use for, `other_on_its_way` how many of these were asked of the other one.
    """
    if room <= 0:
        return 0
    if other_on_its_way:
        return max(0, room - other_on_its_way)
    first = lane != last_was_lane
    return (room + 1) // 2 if first else room // 2
