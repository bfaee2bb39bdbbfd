"""The most urgent task in hand is next, and none starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.intake import STARVE_AFTER, Intake
from bus.subjects import PRIORITIES


def test_a_critical_task_behind_ten_thousand_low_ones_is_next() -> None:
    intake: Intake[str] = Intake()
    for n in range(10_000):
        intake.put(f"low {n}", "low")
    intake.put("critical", "critical")
    assert intake.next() == "critical"


def test_under_a_flood_of_critical_tasks_a_low_one_gets_one_start_in_twenty() -> None:
    intake: Intake[str] = Intake()
    for _ in range(50):
        intake.put("low", "low")
    starts = []
    for _ in range(1000):
        intake.put("critical", "critical")
        starts.append(intake.next())
    assert starts.count("low") >= 1000 // 20
    assert starts.count("critical") >= 1000 * 0.9
    assert starts[:STARVE_AFTER] == ["critical"] * STARVE_AFTER


@given(st.lists(st.sampled_from(PRIORITIES)))
def test_all_that_goes_in_comes_out_once_in_order_within_its_priority(priorities: list[str]) -> None:
    intake: Intake[tuple[int, str]] = Intake()
    for n, priority in enumerate(priorities):
        intake.put((n, priority), priority)
    out = []
    while (item := intake.next()) is not None:
        out.append(item)
    assert sorted(out) == list(enumerate(priorities))
    for priority in PRIORITIES:
        numbers = [n for n, of in out if of == priority]
        assert numbers == sorted(numbers)
    assert not intake


def test_what_is_taken_out_of_turn_is_not_next() -> None:
    intake: Intake[str] = Intake()
    intake.put("a", "high")
    intake.put("b", "high")
    intake.remove("a", "high")
    assert intake.clear() == ["b"]
    assert intake.next() is None
