"""Three-way merges: what holds for all values, and what is a contradiction."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.memory.lists import MAX_EDITS, matches
from actors.memory.merge import Contradiction, merge
from actors.memory.plain import ABSENT, frozen, same

COUNTED = {"**.n": "counter", "**.s": "set"}
KEYS = st.sampled_from("abcns")
SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, 2, "", "1", b"1", -0.0, 0.0, math.nan])
NUMBERS = st.one_of(st.integers(-(2**40), 2**40), st.sampled_from([0.5, 0.1, 1e9]))
SETS = st.lists(SCALARS, max_size=5, unique_by=frozen)
ITEMS = st.lists(st.integers(0, 3), max_size=6)


@st.composite
def values(draw: st.DrawFn, key: str = "", depth: int = 2) -> Any:
    """Any value; under `n` stands a number and under `s` a list without doubles, as the rules have it."""
    if key in {"n", "s"}:
        return draw(NUMBERS if key == "n" else SETS)
    if depth and draw(st.booleans()):
        return {name: draw(values(name, depth - 1)) for name in draw(st.sets(KEYS, max_size=4))}
    return draw(ITEMS if draw(st.booleans()) else SCALARS)


@st.composite
def changed(draw: st.DrawFn, base: Any, key: str = "", depth: int = 2) -> Any:
    """A value as somebody has changed it here and there."""
    if not draw(st.booleans()):
        return base
    if isinstance(base, dict):
        kept = {name: draw(changed(base[name], name, depth - 1)) for name in base if draw(st.integers(0, 4))}
        return {**{name: draw(values(name, depth - 1)) for name in draw(st.sets(KEYS, max_size=1))}, **kept}
    if isinstance(base, list) and key != "s":
        left = [item for item in base if draw(st.integers(0, 4))]
        at = draw(st.integers(0, len(left)))
        return left[:at] + draw(st.lists(st.integers(0, 9), max_size=2)) + left[at:]
    return draw(values(key, depth))


@st.composite
def histories(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """An ancestor and two changes of it; there may be none."""
    root = {name: draw(values(name, 2)) for name in draw(st.sets(KEYS, max_size=4))}
    base = root if draw(st.booleans()) else draw(values())
    return (base if draw(st.integers(0, 5)) else ABSENT), draw(changed(base)), draw(changed(base))


def ordered(value: Any, key: Any = "") -> Any:
    """The same, with the items of sets in one order."""
    if isinstance(value, dict):
        return {name: ordered(inner, name) for name, inner in value.items()}
    return sorted(value, key=lambda item: repr(frozen(item))) if key == "s" else value


@pytest.mark.parametrize("rules", [{}, COUNTED], ids=["plain", "counted"])
@given(history=histories())
def test_it_makes_no_difference_whose_change_is_called_ours(rules: dict[str, str], history: Any) -> None:
    base, ours, theirs = history
    before = copy.deepcopy(history)
    one, other = merge(base, ours, theirs, rules), merge(base, theirs, ours, rules)
    assert one.contradictions == other.contradictions
    assert (one.reason == "") == (not one.contradictions)
    assert same(ordered(one.value), ordered(other.value)) if rules else same(one.value, other.value)
    assert same(list(history[1:]), list(before[1:])), "what was merged is left as it is"


@given(base=values(), other=values(), rule=st.sampled_from(["counter", "set", "append", "no-such-function"]))
def test_where_one_side_changed_nothing_the_other_is_what_becomes_of_it(base: Any, other: Any, rule: str) -> None:
    for path in ("**", "*", "a", "."):
        for ours, theirs in ((base, other), (other, base)):
            done = merge(base, ours, theirs, {path: rule})
            assert same(done.value, other)
            assert not done.contradictions


@given(history=histories())
def test_what_both_changed_alike_is_one_change(history: Any) -> None:
    base, value, _ = history
    for rules in ({}, {"**.s": "set"}):
        assert same(merge(base, value, value, rules).value, value)
    again = merge(base, value, value, COUNTED)
    assert not again.contradictions, "and counters may be counted twice, but contradict nothing"


def paths(value: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """All keys, by their path."""
    found = dict[tuple[Any, ...], Any]()
    for name, inner in value.items() if isinstance(value, dict) else ():
        found |= {(*at, name): inner} | paths(inner, (*at, name))
    return found


@given(history=histories())
def test_no_key_is_lost_that_nobody_deleted_and_none_comes_that_nobody_wrote(history: Any) -> None:
    base, ours, theirs = history
    done = merge(base, ours, theirs, COUNTED)
    was, we, they = paths(base), paths(ours), paths(theirs)
    if done.contradictions:
        return
    result = paths(done.value)
    assert result.keys() <= we.keys() | they.keys()
    assert we.keys() & they.keys() <= result.keys(), "kept by both"
    assert (we.keys() | they.keys()) - was.keys() <= result.keys(), "added by one"
    for path in was.keys() & (we.keys() ^ they.keys()):
        assert path not in result, "deleted by one"


@given(*[st.dictionaries(KEYS, SCALARS) for _ in range(3)])
def test_a_flat_map_is_merged_by_the_book(base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    expected, clashes = dict[str, Any](), set[str]()
    for key in {*base, *ours, *theirs}:
        was, we, they = (side.get(key, ABSENT) for side in (base, ours, theirs))
        if not same(we, was) and not same(they, was) and not same(we, they):
            clashes.add(key)
        value = they if same(we, was) else we
        expected |= {} if value is ABSENT else {key: value}
    done = merge(base, ours, theirs)
    assert {one.path for one in done.contradictions} == clashes
    assert clashes or same(done.value, expected)


@given(start=st.none() | NUMBERS, steps=st.lists(st.integers(-9, 9), min_size=2, max_size=6), data=st.data())
def test_whoever_counts_meanwhile_no_count_is_lost(start: Any, steps: list[int], data: st.DataObject) -> None:
    base = {} if start is None else {"n": start}
    standing = base
    for step in data.draw(st.permutations(steps)):
        done = merge(base, {"n": (start or 0) + step}, standing, COUNTED)
        assert not done.contradictions
        standing = done.value
    assert standing["n"] == pytest.approx((start or 0) + sum(steps), abs=1e-3)
    assert type(standing["n"]) is type(start or 0)


@given(base=SETS, ours=SETS, theirs=SETS)
def test_of_a_set_all_that_was_added_and_not_removed_is_there_once(base: Any, ours: Any, theirs: Any) -> None:
    was, we, they = ({frozen(item) for item in items} for items in (base, ours, theirs))
    done = merge({"s": base}, {"s": ours}, {"s": theirs}, COUNTED)
    merged = [frozen(item) for item in done.value["s"]]
    assert not done.contradictions
    assert len(merged) == len(set(merged))
    assert set(merged) == (was & we & they) | (we - was) | (they - was)


@given(st.lists(st.tuples(st.sampled_from(["ours", "theirs", "both"]), *[st.lists(st.integers(0, 2), max_size=3)] * 2)))
def test_changes_of_a_list_with_an_item_between_them_are_both_made(parts: Any) -> None:
    base, ours, theirs, expected = list[Any](), list[Any](), list[Any](), list[Any]()
    for place, (who, before, after) in enumerate(parts):
        old, new = ([f"{item} of {place}" for item in items] for items in (before, after))
        for items, changers in ((base, ()), (ours, ("ours", "both")), (theirs, ("theirs", "both")), (expected, (who,))):
            items.extend([place, *(new if who in changers else old)])
    done = merge({"l": base}, {"l": ours}, {"l": theirs})
    assert (done.value, done.contradictions) == ({"l": expected}, ())


@given(base=ITEMS, ours=ITEMS, theirs=ITEMS)
def test_no_item_of_a_list_is_lost_that_nobody_removed(base: list[int], ours: list[int], theirs: list[int]) -> None:
    done = merge(base, ours, theirs)
    if not done.contradictions:
        kept = {item for item in {*base} & {*ours} & {*theirs} if base.count(item) == 1}  # of two each may remove one
        assert kept | ((set(ours) | set(theirs)) - set(base)) <= set(done.value)


@example([1, 0], [1, 0, 0])
@given(one=ITEMS, other=ITEMS)
def test_two_lists_are_aligned_by_as_many_items_as_can_be(one: list[int], other: list[int]) -> None:
    longest = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            longest[i + 1][j + 1] = longest[i][j] + 1 if left == right else max(longest[i][j + 1], longest[i + 1][j])
    found = matches(one, other)
    assert len(found) == longest[-1][-1]
    assert all(one[i] == other[j] for i, j in found)
    assert found == sorted({i: (i, j) for i, j in found}.values(), key=lambda pair: pair[1]), "in order, each once"


def test_of_lists_that_differ_a_lot_only_the_ends_are_aligned() -> None:
    for edits, aligned in ((MAX_EDITS, [(0, 0), (2, 101), (3, MAX_EDITS + 1)]), (MAX_EDITS + 1, [(0, 0), (3, 252)])):
        new = [f"new {place}" for place in range(edits - 1)]
        assert matches([1, 2, 3, 4], [1, *new[:100], 3, *new[100:], 4]) == aligned


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "rules", "clashes"),
    [
        ({"a": 1}, {"a": 2}, {"a": 3}, {}, {"a": "both changed it"}),
        ({"a": 1}, {"a": True}, {"a": 1.0}, {}, {"a": "both changed it"}),
        ({}, {"a": 1}, {"a": True}, {}, {"a": "both put something there"}),
        ({"a": {"x": 1}}, {"a": {"x": 2}}, {}, {}, {"a": "one deleted it"}),
        ({"a": {"x": 1}}, {"a": {"x": 2}}, ABSENT, {}, {".": "one deleted it"}),
        (ABSENT, {"a": {"x": 2, "y": 1}}, {"a": {"x": 1}}, {}, {"a.x": "both put something there"}),
        ({"a": 5}, {"a": {"x": 1}}, {"a": {"y": 1}}, {}, {"a": "both changed it"}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, {}, {"a": "both put something in at place 1"}),
        ({"a": [1, 2, 3]}, {"a": [1, 3]}, {"a": [1, 4, 3]}, {}, {"a[1]": "both changed it"}),
        ({"a": [1, 2, 3, 4]}, {"a": [1, 9, 8, 4]}, {"a": [1, 4]}, {}, {"a[1:3]": "both changed it"}),
        ([1, 2, 3, 4], [1, 9, 3, 4], [1, 2, 8, 4], {}, {"[1:3]": "both changed it"}),
        ({}, {1: 1}, {True: 1}, {}, {".": "no map has two keys"}),
        ({"a.b": {"": 1}}, {"a.b": {"": 2}}, {"a.b": {"": 3}}, {}, {"'a.b'.''": "both changed it"}),
        ({"n": 2**63}, {"n": 2**64 - 1}, {"n": 2**64 - 1}, COUNTED, {"n": "more than a number can be"}),
        ({"n": "one"}, {"n": "two"}, {"n": "three"}, COUNTED, {"n": "both changed it"}),
        ({"n": 1}, {"n": True}, {"n": 2}, COUNTED, {"n": "both changed it"}),
        ({"n": 1}, {}, {"n": 2}, COUNTED, {"n": "one deleted it"}),
        ({"s": {}}, {"s": [1]}, {"s": [2]}, COUNTED, {"s": "both changed it"}),
        ([1, 2], [1, 2, 3], [2, 4], {".": "append"}, {".": "more than append"}),
    ],
)
def test_a_contradiction_says_where_it_is_and_why(
    base: Any, ours: Any, theirs: Any, rules: dict[str, str], clashes: dict[str, str]
) -> None:
    done = merge(base, ours, theirs, rules)
    assert [one.path for one in done.contradictions] == sorted(clashes)
    assert all(clashes[one.path] in one.reason for one in done.contradictions)
    assert merge(base, theirs, ours, rules).contradictions == done.contradictions


def test_what_is_appended_stands_behind_what_stood_there_first() -> None:
    assert merge([1], [1, 2, 3], [1, 4], {".": "append"}).value == [1, 4, 2, 3]
    assert merge(ABSENT, [1], [1], {".": "append"}).value == [1, 1], "both appended it"
    assert merge([1], [], [], {".": "append"}).value == []


def test_what_is_nested_deeper_than_can_be_compared_is_a_contradiction_and_no_crash() -> None:
    deep: Any = 0
    for _ in range(5000):
        deep = [deep]
    nested = Contradiction(".", "it is nested too deeply to be compared")
    assert merge([], [deep], [1]).contradictions == (nested,)
    maps: list[Any] = [1, 2, 3]
    for _ in range(5000):
        maps = [{"a": one} for one in maps]
    (found,) = merge(*maps).contradictions
    assert found.path.startswith("a.a.a")
    assert same(merge(maps[0], maps[1], maps[0]).value, maps[1])


def test_many_contradictions_are_told_in_a_few_words() -> None:
    base, ours, theirs = ({str(place): side for place in range(9)} for side in range(3))
    assert merge(base, ours, theirs).reason.endswith("4: both changed it, and not the same; and 4 more")
