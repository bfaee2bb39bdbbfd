"""Tables of locks: whoever comes, goes or dies, in whichever order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory import locktable
from actors.memory.locktable import CODES, EMPTY, Claim, Table, blockers, conflict
from actors.memory.model import Mode
from bus import codec
from bus.errors import DecodeError

KEYS = ("p", "p/a", "p/a/x", "p/b", "p/ab")
INTENTS = ("IS", "IX")


def claim(id_: object, owner: str, key: str = "p", code: str = "X") -> Claim:
    return Claim(str(id_), owner[0], owner, key, code, 0.0)


def excludes(one: Claim, other: Claim) -> bool:
    """The matrix once more, in the words of the books: by what each reads and writes, and where."""
    if one.owner == other.owner:
        return False
    upper, lower = sorted((one, other), key=lambda claim: len(claim.key))
    if lower.key != upper.key and not lower.key.startswith(upper.key + "/"):
        return False
    same = lower.key == upper.key
    whole = upper.code not in INTENTS or (same and lower.code not in INTENTS)  # one of them means all that is there
    return whole and ("X" in upper.code or "X" in lower.code)


CLAIMS = st.builds(
    claim,
    st.just(0),
    st.sampled_from(["A1", "A2", "B1", "C1"]),
    st.sampled_from(KEYS),
    st.sampled_from([*CODES.values()]),
)


class Model:
    """A table, and what is true of it whatever is done."""

    def __init__(self) -> None:
        self.table, self.revision, self.numbers = EMPTY, 0, itertools.count()
        self.tokens: dict[str, int] = {}
        """By id, of all that were ever granted."""

    def do(self, step: Callable[[Table], Table]) -> None:
        before = self.table
        after = step(before)
        if after is before:
            return
        self.revision += 1
        stored = locktable.decode(locktable.encode(after), self.revision)
        assert stored == locktable.settled(after, self.revision)
        self.table = stored
        self._check(before, stored)

    def _check(self, before: Table, after: Table) -> None:
        for one, other in itertools.combinations(after.holders, 2):
            assert not excludes(one, other), f"{one} and {other} are both held"
        for one in after.holders:
            if one.id not in self.tokens:
                for token in self.tokens.values():
                    assert token <= self.revision
                self.tokens[one.id] = self.revision
            assert one.number == self.tokens[one.id]
        for one in after.waiters:
            assert blockers(after, one), f"nothing is in the way of {one}"
        left = {one.id for one in after.waiters}
        went = [one for one in after.holders if before.holder(one.id) is None]
        mine = {one.owner for one in before.holders}
        for one in went:  # nobody goes before whom he excludes, but who holds something already
            for other in before.waiters:
                if other.id == one.id:
                    break
                assert other.id not in left or not excludes(one, other) or one.owner in mine
        assert [one.id for one in after.waiters if one in before.waiters] == [
            one.id for one in before.waiters if one.id in left
        ]


STEPS = st.lists(
    st.tuples(st.sampled_from(["request", "release", "evict", "refuse", "try"]), CLAIMS, st.integers(0, 99))
)


@given(steps=STEPS)
def test_no_two_that_exclude_each_other_ever_hold_and_all_hold_that_may(
    steps: list[tuple[str, Claim, int]],
) -> None:
    model = Model()
    for number, (verb, wanted, any_) in enumerate(steps):
        there = [one.id for one in (*model.table.holders, *model.table.waiters)]
        id_ = there[any_ % len(there)] if there else "none"
        if verb in ("request", "try"):
            new = dataclasses.replace(wanted, id=str(number))
            queue = verb == "request"
            model.do(lambda table, new=new, queue=queue: locktable.request(table, new, queue=queue))  # type: ignore[misc]
            assert model.table.knows(new.id) or not queue
            assert locktable.request(model.table, new) is model.table or not queue  # twice is once
        elif verb == "release":
            model.do(lambda table, id_=id_: locktable.release(table, id_, 1.0))  # type: ignore[misc]
            assert not model.table.knows(id_)
        elif verb == "evict":
            model.do(lambda table, one=wanted: locktable.evict(table, [one.session], 1.0))  # type: ignore[misc]
            assert wanted.session not in model.table.sessions
        else:
            waited = model.table.waiter(id_) is not None
            model.do(lambda table, id_=id_: locktable.refuse(table, id_, "because", 1.0))  # type: ignore[misc]
            assert not waited or (model.table.refusal(id_) is not None and model.table.waiter(id_) is None)
    while model.table.holders:  # whoever holds gives up one day, and then all have had their turn
        model.do(lambda table: locktable.release(table, table.holders[0].id, 1.0))
    assert not model.table.waiters


@given(one=CLAIMS, other=CLAIMS)
def test_two_exclude_each_other_by_what_the_matrix_says_of_them_and_of_their_intents(one: Claim, other: Claim) -> None:
    assert conflict(one, other) == conflict(other, one) == excludes(one, other)


def test_the_matrix_is_the_standard_one() -> None:
    order = [CODES[mode] for mode in (Mode.INTENT_SHARED, Mode.INTENT_EXCLUSIVE, Mode.SHARED, Mode.EXCLUSIVE)]
    found = ["".join(".x"[conflict(claim(1, "A", "p", a), claim(2, "B", "p", b))] for b in order) for a in order]
    assert found == ["...x", "..xx", ".x.x", "xxxx"]


def test_an_exclusive_waiter_is_not_starved_by_a_stream_of_shared_ones() -> None:
    table = locktable.request(EMPTY, claim("first", "A", "p/a", "S"))
    table = locktable.request(table, claim("writer", "W", "p", "X"))
    for number in range(20):
        table = locktable.request(table, claim(number, f"{number}", "p/a", "S"))
    assert [one.id for one in table.holders] == ["first"]
    table = locktable.release(table, "first", 1.0)
    assert [one.id for one in table.holders] == ["writer"]
    table = locktable.release(table, "writer", 1.0)
    assert len(table.holders) == 20
    assert not table.waiters


def test_who_holds_something_does_not_wait_behind_those_that_wait_for_him() -> None:
    table = locktable.request(EMPTY, claim(1, "A", "p/a", "S"))
    table = locktable.request(table, claim(2, "B", "p", "X"))
    table = locktable.request(table, claim(3, "C", "p/b", "S"))  # behind B, and so behind A
    assert [one.id for one in table.waiters] == ["2", "3"]
    table = locktable.request(table, claim(4, "A", "p/b", "X"))
    assert [one.id for one in table.holders] == ["1", "4"]


def test_subtrees_that_have_nothing_to_do_with_each_other_do_not_wait() -> None:
    table = locktable.request(EMPTY, claim(1, "A", "p/a", "X"))
    table = locktable.request(table, claim(2, "B", "p/a/x", "X"))
    for number, key in enumerate(("p/ab", "p/b", "p/b/x"), 3):
        table = locktable.request(table, claim(number, "C", key, "X"))
    assert [one.id for one in table.holders] == ["1", "3", "4", "5"]


def test_what_a_later_version_has_written_stays_and_an_empty_table_is_nothing() -> None:
    document = {"h": [["1", "s", ".1", "p", "X", 2.0, 0, "new", 7]], "r": [["2", "s", "why", 8]], "z": {"later": 1}}
    table = locktable.decode(codec.encode(document), 42)
    assert table.holders == (Claim("1", "s", "s.1", "p", "X", 2.0, 42, ("new", 7)),)
    changed = locktable.request(table, claim(3, "B"))
    found = codec.decode(locktable.encode(changed), "application/msgpack")
    assert found["z"] == {"later": 1}
    assert found["h"] == [["1", "s", ".1", "p", "X", 2.0, 42, "new", 7]]
    assert found["r"] == [["2", "s", "why", 8]]
    assert locktable.encode(EMPTY) == b""
    assert locktable.decode(b"", 1) is EMPTY
    for broken in (b"\x01", codec.encode({"h": [[1]]}), codec.encode({"h": [["1", "s", "", "p", "?", 0.0, 0]]})):
        with pytest.raises(DecodeError):
            locktable.decode(broken, 1, subject="somewhere")
