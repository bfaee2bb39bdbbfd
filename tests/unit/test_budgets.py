"""Budgets as they ride in a header, and which child of its parent a task is; no network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import budgets
from bus.budgets import Budget, Purse
from bus.errors import ConfigError, DecodeError
from bus.family import Child, Family, depth_of
from bus.messages import BUDGET

LIMITS = st.dictionaries(st.sampled_from(budgets.UNITS), st.integers(0, 10**15), min_size=1)
PURSES = st.lists(st.builds(Purse, st.just("a1"), st.just("shop.@elder.x-1"), LIMITS), min_size=1, max_size=8)


@given(PURSES)
def test_budgets_are_read_as_they_were_written(purses: list[Purse]) -> None:
    assert budgets.read({BUDGET: budgets.write(tuple(purses))}, "x") == tuple(purses)


def test_a_task_without_the_header_has_none() -> None:
    assert budgets.read({}, "x") == ()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "a",
        "a;b.c.d",
        "a;b.c.d;tokens",
        "a;b.c.d;tokens=1;tokens=2",
        "a;b.c.d;tokens=1.5",
        "a;b.c.d;tokens=1_0",
        "a;b.c.d;money=0.0000001",
        "a;b.c;tokens=1",
        "*;b.c.d;tokens=1",
        "a;b.c.d;tokens=1  a;b.c.d;tokens=1",
        " ".join(["a;b.c.d;tokens=1"] * 9),
    ],
)
def test_a_header_that_makes_no_sense_is_no_budget(said: str) -> None:
    with pytest.raises(DecodeError, match="is no budget"):
        budgets.read({BUDGET: said}, "x")


def test_money_is_counted_to_a_millionth_and_a_budget_within_others_counts_beside_them() -> None:
    outer = budgets.opened((), Budget(money=0.1), "shop.lead.1")
    both = budgets.opened(outer, Budget(tokens=5), "elder.toil.2")
    assert budgets.opened(both, None, "elder.toil.3") == both
    assert budgets.write(both).count(" ") == 1
    assert [dict(one.limits) for one in both] == [{"money": 100_000}, {"tokens": 5}]
    exceeded = outer[0].exceeded({"money": 100_001})
    assert str(exceeded) == "the budget of 0.1 money is used up: 0.100001 have been spent"
    assert outer[0].exceeded({"money": 100_000, "tokens": 10**9}) is None
    with pytest.raises(ConfigError, match="8 count for this task already"):
        budgets.opened(both * 4, Budget(tokens=1), "a.b.c")


def test_a_task_that_is_submitted_anew_has_its_own_budget_anew_and_that_of_its_family_as_it_is() -> None:
    said = "one;shop.lead.1;tokens=5 two;elder.toil.2;tasks=3"
    one, two = budgets.read({BUDGET: budgets.renewed(said, "x", "elder.toil.2", "elder.toil.9")}, "x")
    assert str(one) == "one;shop.lead.1;tokens=5"
    assert (two.root, dict(two.limits)) == ("elder.toil.9", {"tasks": 3})
    assert two.id != "two"


@pytest.mark.parametrize(
    "unusable", [Budget(), Budget(tokens=-1), Budget(tasks=True), Budget(money=-0.1), Budget(money=float("inf"))]
)
def test_what_is_no_budget_is_refused(unusable: Budget) -> None:
    with pytest.raises(ConfigError, match="budget"):
        unusable.check()


def test_what_is_another_thing_is_no_budget() -> None:
    with pytest.raises(ConfigError, match=r"budget: 5 is none; write Budget\(tokens="):
        budgets.check((), 5)  # type: ignore[arg-type]


def test_a_child_has_the_same_id_in_every_run_of_an_attempt_and_no_other_has() -> None:
    first, again = Family("shop.lead.1"), Family("shop.lead.1", again=True)
    ids = [first.name("toil", "", body, b"") for body in (b"a", b"a", b"b")]
    assert [one[0] for one in ids] == [again.name("toil", "", body, b"")[0] for body in (b"a", b"a", b"b")]
    assert [one[2] for one in ids] == [True] * 3, "none can have been used"
    assert not again.name("toil", "", b"c", b"")[2]
    assert not Family("shop.lead.1", named=True).name("toil", "", b"a", b"")[2]
    others = [
        Family("shop.lead.2").name("toil", "", b"a", b""),
        Family("shop.lead.1", attempt=2).name("toil", "", b"a", b""),
        Family("shop.lead.1").name("moil", "", b"a", b""),
        Family("shop.lead.1").name("toil", "x", b"a", b""),
        Family("shop.lead.1").name("toil", "", b"a", b"secret"),
    ]
    assert len({one[0] for one in (*ids, *others)}) == len(ids) + len(others)


def test_a_child_that_could_not_be_stored_leaves_its_place_to_the_next_that_says_the_same() -> None:
    family = Family("shop.lead.1")
    task_id, child, _ = family.name("toil", "", b"a", b"")
    family.add()
    family.lost(child)
    assert family.children == 0
    assert family.name("toil", "", b"a", b"") == (task_id, Child(child.key, 0), False), "it may have been stored"
    assert family.name("toil", "", b"a", b"")[1].ordinal == 1


@pytest.mark.parametrize(("said", "depth"), [(None, 0), ("0", 0), ("15", 15), ("-1", 10**6), ("x", 10**6)])
def test_a_depth_that_makes_no_sense_is_as_deep_as_can_be(said: str | None, depth: int) -> None:
    assert depth_of(said) == depth
