"""What a worker takes ahead of its free slots."""

from __future__ import annotations

from bus.pace import MOST, Pace


def test_nothing_is_taken_ahead_before_it_is_known_how_long_tasks_take() -> None:
    pace = Pace(64)
    assert (pace.ahead, pace.reserve) == (0, 1)


def test_short_tasks_are_taken_ahead_for_a_moment_and_long_ones_are_not() -> None:
    pace = Pace(4)
    pace.took(0.02)
    assert pace.ahead == 4 * 0.05 / 0.02
    pace.took(30.0)
    assert (pace.ahead, pace.reserve) == (0, 1), "one long task is enough"
    quick = Pace(8)
    quick.took(0.0)
    assert quick.ahead == MOST * 8
    assert quick.reserve == 2 + MOST * 8 // 8


def test_what_waited_in_vain_makes_the_pace_unknown() -> None:
    pace = Pace(4)
    pace.took(0.001)
    assert pace.ahead > 0
    pace.lost()
    assert pace.ahead == 0
    pace.took(0.001)
    assert pace.ahead > 0
