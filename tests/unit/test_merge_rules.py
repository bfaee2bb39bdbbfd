"""Rules of merging by path, functions of one's own, and what differs between two values."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.memory import merge as merging
from actors.memory import rules
from actors.memory.diff import Difference, diff
from actors.memory.errors import InvalidRuleError
from actors.memory.merge import merge, merger
from actors.memory.model import Namespace
from actors.memory.plain import ABSENT, same
from bus.errors import ConfigError, InvalidSubjectError
from tests.unit.test_merge import ITEMS, histories

PARTS = st.lists(st.sampled_from(["a", "b", "*", "**"]), max_size=6)


@pytest.mark.parametrize(
    ("pattern", "kind", "says"),
    [
        ("", "set", "a part of it is empty"),
        ("a..b", "set", "a part of it is empty"),
        (".a", "set", "a part of it is empty"),
        ("tag*", "set", "stand for whole parts"),
        ("a.***", "set", "stand for whole parts"),
        ("**.**", "set", "once will do"),
        ("a" * 257, "set", "it has 257 characters, and may have 256"),
        ("a", "", "a rule is counter, set, append, or the name"),
        ("a", "my rule", "a rule is counter, set, append, or the name"),
    ],
)
def test_a_rule_that_is_none_is_refused_as_the_namespace_is_configured(pattern: str, kind: str, says: str) -> None:
    with pytest.raises(InvalidRuleError, match=re.escape(says)):
        Namespace(strategy="merge", rules={pattern: kind})


def test_more_rules_than_can_be_looked_through_are_refused() -> None:
    with pytest.raises(InvalidRuleError, match="there are 65, and may be 64"):
        Namespace(rules={f"a{place}": "set" for place in range(65)})
    assert Namespace(rules={"**.a b.*": "my-own_rule", ".": "append"}).rules["."] == "append"


@example(["**", "a", "b"], ["a", "a", "b"])
@given(pattern=PARTS, path=st.lists(st.sampled_from(["a", "b", "*"]), max_size=6))
def test_a_path_matches_as_a_regular_expression_would_have_it(pattern: list[str], path: list[str]) -> None:
    words = {"*": r"[^/]*/", "**": r"(?:[^/]*/)*"}
    expected = re.fullmatch("".join(words.get(part, f"{part}/") for part in pattern), "".join(f"{p}/" for p in path))
    assert rules.matches(tuple(pattern), path) == (expected is not None)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ((), "root"),
        (("a",), "everywhere"),
        (("stats", "runs"), "exact"),
        (("stats", "other"), "any-of-stats"),
        (("stats", "x", "y"), "below-stats"),
        (("x", "runs"), "any-runs"),
        (("x", "y", "runs"), "deep-runs"),
        (("1", 1), "number"),
        (("c", "d"), "any-d"),
        (("e", "f"), "any-of-e"),
    ],
)
def test_the_most_exact_rule_counts_whichever_was_given_first(path: tuple[Any, ...], kind: str) -> None:
    given_ = {
        "**": "everywhere",
        "**.runs": "deep-runs",
        "*.runs": "any-runs",
        "stats.**": "below-stats",
        "stats.*": "any-of-stats",
        "stats.runs": "exact",
        ".": "root",
        "1.1": "number",
        "c.**": "below-c",
        "*.d": "any-d",
        "*.f": "any-f",
        "e.*": "any-of-e",
    }
    assert rules.Rules(given_).of(path) == kind
    assert rules.Rules(dict(reversed(given_.items()))).of(path) == kind


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of its own, with a few functions."""
    monkeypatch.setattr(merging, "_MERGERS", {})

    @merger("longest")
    def longest(base: Any, ours: str, theirs: str) -> str:
        return max(base or "", ours, theirs, key=len)

    @merger("destroys")
    def destroys(base: Any, ours: Any, theirs: Any) -> Any:
        ours.clear()
        theirs.clear()
        raise LookupError("no idea")

    @merger("strange")
    def strange(base: Any, ours: Any, theirs: Any) -> Any:
        return object()


@pytest.mark.usefixtures("registered")
def test_a_function_of_one_s_own_merges_what_both_changed() -> None:
    both = {"a": "xyz"}, {"a": "xy"}
    assert merge({"a": "x"}, *both, {"a": "longest"}).value == {"a": "xyz"}
    assert merge({}, *both, {"**.a": "longest"}).value == {"a": "xyz"}, "without an ancestor"
    assert merge({"a": "longest of all"}, *both, {"a": "longest"}).value == {"a": "longest of all"}
    (deleted,) = merge({"a": "x"}, {}, {"a": "xy"}, {"a": "longest"}).contradictions
    assert "one deleted it" in deleted.reason


@pytest.mark.usefixtures("registered")
def test_whatever_a_function_does_is_a_contradiction_and_never_a_crash() -> None:
    ours, theirs = {"x": {"y": 1}}, {"x": {"z": 1}}
    for name, says in (
        ("destroys", "destroys raised LookupError: no idea"),
        ("longest", "longest raised TypeError"),
        ("strange", "what strange returned cannot be stored"),
        ("nobody-s", "no function is registered as nobody-s"),
    ):
        (found,) = merge({"x": 3}, ours, theirs, {"x": name}).contradictions
        assert (found.path, found.reason[: len(says)]) == ("x", says)
    assert (ours, theirs) == ({"x": {"y": 1}}, {"x": {"z": 1}}), "it got copies"


@pytest.mark.usefixtures("registered")
def test_a_name_is_one_function_s() -> None:
    def other(base: Any, ours: Any, theirs: Any) -> Any:
        return ours

    async def awaited(base: Any, ours: Any, theirs: Any) -> Any:
        return ours

    for name, function, says in (
        ("longest", other, "has that name already"),
        ("new", awaited, "nothing can be awaited"),
        ("counter", other, "comes with Revo"),
    ):
        with pytest.raises(ConfigError, match=says):
            merger(name)(function)
    with pytest.raises(InvalidSubjectError):
        merger("my rule")
    assert merger("new")(other) is other
    assert merger("new")(other) is other, "as when its module is imported again"


def test_differences_are_told_place_by_place() -> None:
    old = {"a": 1, "gone": None, "items": [1, 2, 3], "same": {"x": [0]}, "findings": [{"line": 1, "rule": "E1"}]}
    new = {"a": True, "items": [1, 3, 4, 5], "same": {"x": [0]}, "findings": [{"line": 2, "rule": "E1"}], "new": {}}
    assert diff(old, new) == [
        Difference("a", "changed", 1, True),
        Difference("gone", "removed", None),
        Difference("items[1]", "removed", 2),
        Difference("items[2]", "added", new=4),
        Difference("items[3]", "added", new=5),
        Difference("findings[0].line", "changed", 1, 2),
        Difference("new", "added", new={}),
    ]
    assert diff(ABSENT, 1) == [Difference(".", "added", new=1)]
    assert diff([1], ABSENT) == [Difference(".", "removed", [1])]


@given(history=histories())
def test_only_what_is_the_same_has_no_differences(history: Any) -> None:
    for old in history:
        for new in history:
            assert (diff(old, new) == []) == same(old, new)


@given(old=ITEMS, new=ITEMS)
def test_the_differences_of_a_list_say_how_to_make_one_of_the_other(old: list[int], new: list[int]) -> None:
    told = {(one.kind, int(one.path.strip("[]"))): one for one in diff(old, new)}
    left = iter([item for place, item in enumerate(old) if ("removed", place) not in told])
    made = [told["added", place].new if ("added", place) in told else next(left) for place in range(len(new))]
    for place, item in enumerate(made):
        change = told.get(("changed", place), Difference("", "changed", item, item))
        assert (change.old, change.new) == (item, new[place])
    assert not list(left)
