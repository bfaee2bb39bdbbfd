"""What becomes of a write, strategy by strategy."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from actors.memory.backend import Author, Write
from actors.memory.errors import ConflictError, TooManyConflictsError
from actors.memory.model import MAX_ALTERNATIVES, Alternative, Entry, Namespace, Strategy
from actors.memory.strategies import Decision, decide

ALL: tuple[Strategy, ...] = ("last_writer_wins", "first_writer_wins", "merge", "highest_rank", "manual")
OTHERS: tuple[Strategy, ...] = ALL[1:]

BASE = Entry("k", 3, {"a": 1, "b": 1}, 100.0, "ann")
THEIRS = Entry("k", 7, {"a": 2, "b": 1}, 100.0, "bob", base=3, rank=5)
GONE = Entry("k", 7, None, 100.0, "bob", base=3, rank=5, deleted=True)
OVER = Entry("k", 7, None, 100.0, deleted=True, expired=True)
WAITS = Alternative({"a": 9}, 3, "eve", 100.0)
SPLIT = Entry("k", 7, {"a": 2, "b": 1}, 100.0, "bob", base=3, alternatives=(WAITS,))
OURS = {"a": 1, "b": 2}
"""Goes together with theirs."""
AGAINST = {"a": 3, "b": 1}
"""Does not."""
PRUNED = 2


def decided(
    how: Strategy | Namespace,
    value: Any = None,
    standing: Entry | None = THEIRS,
    *,
    base: int | None = 3,
    by: str = "cat",
    known: bool = True,
    **more: Any,
) -> Decision:
    namespace = how if isinstance(how, Namespace) else Namespace(strategy=how, ranks={"cat": 5, "chief": 6})
    write, author = Write("k", value, base, **more), Author(by, "cat.echo.1", "f" * 32)
    return decide(namespace, write, author, standing, ancestor=BASE if base and known else None, known=known, at=200.0)


@pytest.mark.parametrize("how", ALL)
def test_what_is_based_on_what_stands_there_is_stored(how: Strategy) -> None:
    assert decided(how, AGAINST, base=7, ttl=9.0) == Decision(value=AGAINST, ttl=9.0, rank=5)
    assert decided(how, base=7, delete=True) == Decision(deleted=True, rank=5)
    waits = Decision(value=AGAINST, rank=5, alternatives=(WAITS,))
    assert decided(how, AGAINST, SPLIT, base=7) == waits, "who writes has not chosen yet"
    assert decided(how, base=7, standing=SPLIT, delete=True) == Decision(deleted=True, rank=5, alternatives=(WAITS,))
    assert decided(how, AGAINST, SPLIT, base=7, resolve=True) == Decision(value=AGAINST, rank=5), "who resolves it has"
    assert decided(how, standing=SPLIT, base=None, delete=True).alternatives == (WAITS,), "whatever stands there"
    assert not decided(how, standing=THEIRS, base=None, delete=True).refused
    assert decided(how, AGAINST, None, base=None) == Decision(value=AGAINST, rank=5), "or on nothing, where nothing is"
    assert decided(how, AGAINST, None, base=0) == Decision(value=AGAINST, rank=5)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("base", [None, 0])
@pytest.mark.parametrize("gone", [GONE, OVER])
def test_what_was_deleted_can_be_created_anew(how: Strategy, base: int | None, gone: Entry) -> None:
    assert decided(how, AGAINST, gone, base=base) == Decision(value=AGAINST, rank=5)


@pytest.mark.parametrize("how", ALL)
def test_whose_time_ran_out_is_in_nobody_s_way(how: Strategy) -> None:
    unswept = Entry("k", 7, {"a": 2}, 100.0, ttl=1.0, expired=True)
    for standing in (OVER, unswept):
        assert decided(how, AGAINST, standing) == Decision(value=AGAINST, rank=5)
        assert decided(how, None, standing, delete=True) == Decision(deleted=True, rank=5)


def test_the_last_writer_writes_over_whatever_stands_there() -> None:
    for standing in (THEIRS, GONE, SPLIT):
        done = Decision("overwrote", OURS, rank=5, alternatives=standing.alternatives)
        assert decided("last_writer_wins", OURS, standing) == done
    assert decided("last_writer_wins", OURS, base=0) == Decision("overwrote", OURS, rank=5)
    assert decided("last_writer_wins", OURS, base=None) == Decision("written", OURS, rank=5), "he does not care"
    assert decided("last_writer_wins", delete=True) == Decision("overwrote", deleted=True, rank=5)


@pytest.mark.parametrize(
    ("how", "base", "standing", "says"),
    [
        (
            "first_writer_wins",
            3,
            THEIRS,
            "the write to k is based on version 3, but version 7 by bob stands there; read",
        ),
        ("first_writer_wins", 0, THEIRS, "the write to k is based on no version, but version 7 by bob stands there"),
        ("first_writer_wins", None, THEIRS, "the write to k is based on no version"),
        ("first_writer_wins", 3, GONE, "but version 7 by bob deleted it"),
        ("first_writer_wins", 3, SPLIT, "version 7 by bob stands there"),
        ("highest_rank", 3, THEIRS, "rank 5 of cat is not above rank 5"),
        ("highest_rank", 3, GONE, "rank 5 of cat is not above rank 5"),
    ],
)
@pytest.mark.parametrize("ours", [AGAINST, OURS, None])
def test_a_refusal_carries_both_values(how: Strategy, base: int, standing: Entry, says: str, ours: Any) -> None:
    delete = ours is None and not standing.deleted and base is not None
    refused = decided(how, ours, standing, base=base, delete=delete).refused
    assert isinstance(refused, ConflictError)
    assert (refused.theirs, refused.ours, refused.base) == (standing, ours, base or 0)
    assert says in str(refused)
    assert str(pickle.loads(pickle.dumps(refused))) == str(refused)  # noqa: S301  (our own)


def test_what_both_wrote_alike_is_no_conflict_that_somebody_would_have_to_resolve() -> None:
    same = dict(reversed(THEIRS.value.items()))
    assert decided("manual", same) == Decision(value=same, rank=5)
    assert decided("manual", same, by="low") == Decision(value=same, rank=5), "nor does the other lose his rank by it"
    assert decided("manual", None, GONE, delete=True) == Decision(deleted=True, rank=5)
    assert decided("manual", same, SPLIT) == Decision(value=same, rank=5, alternatives=(WAITS,)), "the others wait"
    for standing, write in (
        (THEIRS, {"value": same, "ttl": 9.0}),
        (THEIRS, {"value": {"a": 2, "b": True}}),
        (GONE, {}),
    ):
        done = decided("manual", standing=standing, **write)
        assert done.outcome == "conflict", "but to live for another time is not alike, nor is True 1"


@pytest.mark.parametrize("how", ["first_writer_wins", "highest_rank"])
def test_of_two_that_claim_the_same_in_the_same_words_one_is_told_that_he_did_not_get_it(how: Strategy) -> None:
    assert decided(how, THEIRS.value).refused
    assert decided(how, THEIRS.value, base=0).refused
    assert decided(how, None, GONE, delete=True).refused


def test_the_higher_rank_wins_and_the_lower_does_not() -> None:
    won = decided("highest_rank", AGAINST, by="chief-1a2b3c4d", ttl=9.0)
    assert won == Decision("overwrote", AGAINST, ttl=9.0, rank=6)
    assert decided("highest_rank", by="chief", delete=True) == Decision("overwrote", deleted=True, rank=6)
    assert decided("highest_rank", AGAINST, by="nobody").refused
    waits = Decision("overwrote", AGAINST, rank=6, alternatives=(WAITS,))
    assert decided("highest_rank", AGAINST, SPLIT, by="chief", ttl=9.0) == waits, "who was not seen still waits"


def test_what_goes_together_is_merged() -> None:
    both = {"a": 2, "b": 2}
    assert decided("merge", OURS) == Decision("merged", both, rank=5, merged=7)
    assert decided("merge", OURS, SPLIT) == Decision("merged", both, rank=5, merged=7, alternatives=(WAITS,))
    assert decided("merge", {"c": 3}, base=0) == Decision("merged", {"a": 2, "b": 1, "c": 3}, rank=5, merged=7)
    assert decided("merge", BASE.value) == Decision("merged", THEIRS.value, rank=5, merged=7), "it changed nothing"
    assert decided("merge", None, GONE, delete=True) == Decision("merged", deleted=True, rank=5, merged=7)
    assert decided("merge", BASE.value, GONE) == Decision("merged", deleted=True, rank=5, merged=7)
    counting = Namespace(strategy="merge", rules={"a": "counter"})
    assert decided(counting, {"a": 2, "b": 1}).value == {"a": 3, "b": 1}, "both counted"


def test_what_was_merged_lives_as_long_as_its_longest_part() -> None:
    def lives(ours: float, theirs: float) -> float:
        return decided("merge", OURS, Entry("k", 7, {"a": 2, "b": 1}, 100.0, ttl=theirs), ttl=ours).ttl

    assert [lives(5, 9), lives(9, 5), lives(0, 9), lives(9, 0)] == [9, 9, 0, 0]


def test_an_ancestor_whose_time_has_run_out_is_still_what_its_reader_saw() -> None:
    read = Entry("k", 3, {"n": 5}, 100.0, ttl=1.0, expired=True)
    how, theirs = Namespace(strategy="merge", rules={"n": "counter"}), Entry("k", 7, {"n": 7}, 100.0)
    done = decide(how, Write("k", {"n": 6}, 3), Author("cat"), theirs, ancestor=read, at=200.0)
    assert done.value == {"n": 8}


@pytest.mark.parametrize(
    ("how", "value", "standing", "base", "reason"),
    [
        ("merge", AGAINST, THEIRS, 3, "a: both changed it"),
        ("merge", OURS, THEIRS, PRUNED, "version 2 that it is based on is no longer kept"),
        ("merge", {"a": 1}, THEIRS, 0, "a: both put something there"),
        ("merge", AGAINST, GONE, 3, ".: one deleted it, and the other changed it"),
        ("merge", None, THEIRS, 3, ".: one deleted it, and the other changed it"),
        ("merge", AGAINST, SPLIT, 3, "a: both changed it"),
        ("manual", OURS, THEIRS, 3, ""),
        ("manual", OURS, THEIRS, 0, ""),
        ("manual", OURS, GONE, 3, ""),
        ("manual", None, THEIRS, 3, ""),
        ("manual", OURS, SPLIT, PRUNED, ""),
        ("manual", OURS, Entry("k", 7, None, 1.0, deleted=True, alternatives=(WAITS,)), None, ""),
    ],
)
def test_what_contradicts_joins_the_conflict_set_and_what_stood_there_stands(
    how: Strategy, value: Any, standing: Entry, base: int | None, reason: str
) -> None:
    deletes = value is None
    done = decided(how, value, standing, base=base, known=base != PRUNED, delete=deletes, ttl=0.0 if deletes else 9.0)
    *before, new = done.alternatives
    assert (done.outcome, done.value, done.deleted) == ("conflict", standing.value, standing.deleted)
    assert (done.rank, done.ttl, done.merged) == (standing.rank, 0.0, 0), "nor does it ever expire"
    assert tuple(before) == standing.alternatives
    assert new.reason.startswith(reason)
    assert bool(new.reason) == bool(reason)
    task, trace = "cat.echo.1", "f" * 32
    assert new == Alternative(value, base or 0, "cat", 200.0, task, trace, deletes, new.reason)


def test_a_conflict_set_has_each_value_once_and_not_more_than_it_can_hold() -> None:
    assert decided("manual", WAITS.value, SPLIT).alternatives == (WAITS,)
    deleted = Alternative(None, 3, "eve", 1.0, deleted=True)
    for waiting, delete, more in ((WAITS, True, 1), (deleted, True, 0), (deleted, False, 1)):
        one = Entry("k", 7, "here", 1.0, alternatives=(waiting,))
        assert len(decided("manual", None, one, delete=delete).alternatives) == 1 + more
    many = tuple(Alternative(place, 3, "eve", 1.0) for place in range(MAX_ALTERNATIVES))
    full = Entry("k", 7, "here", 1.0, alternatives=many)
    assert len(decided("manual", "more", Entry("k", 7, "here", 1.0, alternatives=many[1:])).alternatives) == len(many)
    for how in ("manual", "merge"):
        assert isinstance(decided(how, "more", full).refused, TooManyConflictsError)
        assert decided(how, 1, full).alternatives == many, "what is there already needs no place"
        done = decided(how, "more", full, base=7, resolve=True)
        assert done == Decision(value="more", rank=5), "and it can be resolved"
    seen = Entry("k", 3, "there", 1.0, alternatives=many[:4])
    late = decide(Namespace(), Write("k", 1, 3, resolve=True), Author("cat"), full, ancestor=seen, at=200.0)
    assert late.alternatives == many[4:], "who resolves late has chosen among those that he saw"
