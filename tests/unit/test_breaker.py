"""Breakers and budgets: when something is tried, and how often again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.breaker import CLOSED, HALF_OPEN, OPEN, UNTRIED, Breaker, Rules
from bus.retrybudget import FLOOR, MOST, SHARE, RetryBudget

RULES = Rules(share=0.5, minimum=4, half_life=10.0, pause=1.0, longest=8.0, jitter=0.5, trials=2, successes=2)


def failed(breaker: Breaker, now: float, times: int = 4, chance: float = 0.0) -> None:
    """So many calls began and failed."""
    for way in [breaker.admit(now) for _ in range(times)]:
        assert way
        breaker.ended(way, now, good=False, chance=chance)


def test_it_opens_when_half_of_enough_calls_failed_lately() -> None:
    breaker = Breaker(RULES)
    failed(breaker, 0.0, 3)
    assert breaker.state(0.0) == CLOSED, "three are not enough"
    assert breaker.ended(breaker.admit(0.0), 0.0, good=False) == OPEN
    assert breaker.admit(0.5) == 0
    assert breaker.retry_in(0.4) == pytest.approx(0.6)

    mostly = Breaker(RULES)
    for _ in range(10):
        mostly.ended(mostly.admit(0.0), 0.0, good=True)
    failed(mostly, 0.0, 9)
    assert mostly.state(0.0) == CLOSED, "nine of nineteen"
    failed(mostly, 0.0, 1)
    assert mostly.state(0.0) == OPEN


def test_what_was_long_ago_counts_no_more() -> None:
    breaker = Breaker(RULES)
    failed(breaker, 0.0, 3)
    failed(breaker, 100.0, 3)
    assert breaker.state(100.0) == CLOSED


def test_half_open_a_few_are_tried_and_decide() -> None:
    breaker = Breaker(RULES)
    failed(breaker, 0.0)
    assert breaker.state(1.0) == HALF_OPEN
    first, second = breaker.admit(1.0), breaker.admit(1.0)
    assert first
    assert second
    assert breaker.admit(1.0) == 0, "two at a time"
    assert breaker.ended(first, 1.0, good=None) is None
    third = breaker.admit(1.0)
    assert third, "one that says nothing makes room for another"
    assert breaker.ended(second, 1.1, good=True) is None
    assert breaker.ended(third, 1.1, good=True) == CLOSED
    assert breaker.admit(1.1)


def test_each_time_in_a_row_it_is_open_longer_and_after_a_good_while_as_at_first() -> None:
    breaker = Breaker(RULES)
    failed(breaker, 0.0, chance=1.0)
    assert breaker.retry_in(0.0) == pytest.approx(1.5), "with the most of jitter"
    now, pauses = 0.0, []
    for _ in range(5):
        now += breaker.retry_in(now)
        failed(breaker, now, 1)
        pauses.append(breaker.retry_in(now))
    assert pauses == pytest.approx([2.0, 4.0, 8.0, 8.0, 8.0])
    now += 8.0
    for _ in range(2):
        breaker.ended(breaker.admit(now), now, good=True)
    failed(breaker, now)
    assert breaker.retry_in(now) == pytest.approx(8.0), "well for no time at all"
    now += 8.0
    for _ in range(2):
        breaker.ended(breaker.admit(now), now, good=True)
    failed(breaker, now + 60.0)
    assert breaker.retry_in(now + 60.0) == pytest.approx(1.0)


def test_what_began_before_a_change_says_nothing_after_it() -> None:
    breaker = Breaker(RULES)
    early = breaker.admit(0.0)
    failed(breaker, 0.0)
    trial = breaker.admit(1.0)
    assert breaker.ended(early, 1.0, good=False) is None
    assert breaker.state(1.0) == HALF_OPEN
    assert breaker.ended(trial, 1.0, good=False) == OPEN


def test_trials_that_nobody_tells_of_do_not_shut_it_for_ever() -> None:
    breaker = Breaker(RULES)
    failed(breaker, 0.0)
    assert breaker.admit(1.0)
    assert breaker.admit(1.0)
    assert breaker.admit(1.5) == 0
    assert breaker.admit(20.0)


def test_of_what_nobody_has_tried_for_long_nothing_is_known_also_after_a_trial() -> None:
    long = UNTRIED * RULES.longest
    opened = Breaker(RULES)
    failed(opened, 0.0)
    assert opened.state(1.0 + long - 0.1) == HALF_OPEN
    assert opened.state(1.0 + long) == CLOSED

    tried = Breaker(RULES)
    failed(tried, 0.0)
    trial, hanging = tried.admit(1.0), tried.admit(1.0)
    tried.ended(trial, 3.0, good=True)
    assert tried.state(3.0 + 2 * long) == HALF_OPEN, "one is still being tried"
    tried.ended(hanging, 3.0 + 2 * long, good=None)
    assert tried.state(3.0 + 3 * long - 0.1) == HALF_OPEN
    assert tried.state(3.0 + 3 * long) == CLOSED
    failed(tried, 3.0 + 3 * long)
    assert tried.retry_in(3.0 + 3 * long) == pytest.approx(1.0), "and as at first"


@pytest.mark.parametrize(("failures_took", "let_through"), [(0.0, [2, 4, 8]), (5.0, [2, 2, 4])])
def test_trials_that_outlive_the_failures_make_room_for_more_and_others_for_as_many(
    failures_took: float, let_through: list[int]
) -> None:
    breaker = Breaker(RULES)
    for way in [breaker.admit(0.0) for _ in range(4)]:
        breaker.ended(way, 0.0, good=False, took=failures_took)
    now, found, ways = 1.0, list[int](), list[int]()
    for _ in range(3):
        began = len(ways)
        while way := breaker.admit(now):
            ways.append(way)
        found.append(len(ways) - began)
        now += breaker.retry_in(now) + 3.1  # 5.1 s after its beginning, and so on
    assert found == let_through
    assert breaker.state(now) == HALF_OPEN, "not to have failed yet is no proof"
    assert breaker.ended(ways[0], now, good=False, took=9.0) == OPEN


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["admit", "good", "bad", "none"])), max_size=200))
def test_it_never_lets_more_through_than_it_may_and_always_lets_through_again(steps: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(RULES), 0.0
    pending: list[int] = []
    for seconds, what in steps:
        now += seconds
        state = breaker.state(now)
        way = breaker.admit(now) if what == "admit" or not pending else 0
        if way:
            assert state != OPEN
            pending.append(way)
        elif what != "admit" and pending:
            breaker.ended(pending.pop(0), now, good={"good": True, "bad": False, "none": None}[what])
        assert 0 <= breaker.retry_in(now) <= RULES.longest * (1 + RULES.jitter)
    assert breaker.admit(now + breaker.retry_in(now) + 1e-6), "nothing stays shut"


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300))
def test_a_budget_grants_no_more_than_it_says_in_any_stretch_of_time(steps: list[tuple[float, bool]]) -> None:
    budget, now = RetryBudget(), 100.0
    history: list[tuple[float, int, int]] = []
    for seconds, calls in steps:
        now += seconds
        if calls:
            budget.called()
        history.append((now, int(calls), 0 if calls else int(budget.take(now))))
    for start in range(0, len(history), 7):
        stretch = history[start:]
        granted, called = sum(one[2] for one in stretch), sum(one[1] for one in stretch)
        assert granted <= MOST + SHARE * called + FLOOR * (stretch[-1][0] - stretch[0][0] + 2.0)


def test_where_everything_fails_a_budget_lets_a_fifth_be_tried_again() -> None:
    budget = RetryBudget(floor=0.0)
    granted = 0
    for _ in range(1000):
        budget.called()
        granted += sum(budget.take(0.0) for _ in range(3))
    assert granted == pytest.approx(MOST + SHARE * 1000, abs=1)
