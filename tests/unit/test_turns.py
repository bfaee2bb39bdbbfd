"""A queue and the lane beside it are served in turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.turns import turn


def pulled(room: int, *, last_was_lane: bool) -> tuple[int, int]:
    """What is pulled from lane and queue at one time."""
    lane = turn(room, lane=True, last_was_lane=last_was_lane, other_on_its_way=0)
    return lane, turn(room, lane=False, last_was_lane=last_was_lane or lane > 0, other_on_its_way=lane)


def test_with_room_for_one_each_has_its_turn() -> None:
    assert pulled(1, last_was_lane=False) == (1, 0)
    assert turn(1, lane=True, last_was_lane=True, other_on_its_way=0) == 0
    assert turn(1, lane=False, last_was_lane=True, other_on_its_way=0) == 1


@given(st.integers(1, 1000), st.booleans())
def test_of_more_room_each_has_half_and_no_more_is_pulled_than_there_is_room_for(
    room: int, last_was_lane: bool
) -> None:
    lane, queue = pulled(room, last_was_lane=last_was_lane)
    assert lane + queue == room or (room == 1 and last_was_lane)
    assert abs(lane - queue) <= 1
