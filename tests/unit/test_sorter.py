"""What a handler has said, put in order: every number once, in order, and what is missing is said."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st

from bus import codec
from bus.following import Chunk, Lost, Progress, Sorter
from bus.jetstream import StoredMessage
from bus.messages import CHUNK, CONTENT_TYPE, MSGPACK, RUN
from tests.integration.streaming import numbers

AT = 1000


def said(number: int, run: int = 1, *, body: object = None, at: int = AT) -> StoredMessage:
    headers = {CHUNK: str(number), RUN: str(run), CONTENT_TYPE: MSGPACK}
    return StoredMessage("x", 1, headers, codec.encode({"chunk": number} if body is None else body), at * 10**9)


def test_what_was_sent_again_behind_others_is_waited_for_and_given_in_its_place() -> None:
    sorter = Sorter(0, 15.0)
    assert numbers(sorter.put(said(1))) == [1]
    assert sorter.put(said(3)) == []
    assert sorter.due == AT + 15.0
    assert numbers(sorter.put(said(2))) == [2, 3]
    assert sorter.due is None


def test_what_is_missing_for_good_is_said_before_the_next() -> None:
    sorter = Sorter(0, 15.0)
    assert sorter.put(said(3)) == []
    found = sorter.give_up()
    assert found[0] == Lost(1, 2)
    assert numbers(found) == [1, 2, 3]
    assert sorter.end(5) == [Lost(4, 5)]


def test_an_attempt_that_was_thought_dead_is_left_out() -> None:
    sorter = Sorter(0, 15.0)
    found = [*sorter.put(said(1)), *sorter.put(said(2, 2)), *sorter.put(said(2, 1)), *sorter.put(said(3, 1))]
    found += sorter.put(said(3, 2))
    assert [(item.number, item.run) for item in found if isinstance(item, Chunk)] == [(1, 1), (2, 2), (3, 2)]


def test_what_an_attempt_did_not_store_is_missing_as_soon_as_the_next_speaks() -> None:
    sorter = Sorter(0, 15.0)
    assert sorter.put(said(2)) == []
    assert numbers(sorter.put(said(3, 2))) == [1, 2, 3]


def test_what_cannot_be_read_is_missing_and_what_has_no_number_is_not_there() -> None:
    sorter = Sorter(0, 15.0)
    assert sorter.put(said(1, body=[1])) == [Lost(1, 1)]
    assert sorter.put(said(2, body={"share": "much"})) == [Lost(2, 2)]
    assert sorter.put(StoredMessage("x", 1, {CHUNK: "three", RUN: "1"}, b"", 0)) == []
    (progress,) = sorter.put(said(3, body={"share": 1, "text": "all"}))
    assert progress == Progress(3, 1, 1.0, "all", float(AT))


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=5), st.data(), st.integers(0, 20)
)
def test_whatever_dies_and_wakes_again_each_number_is_given_once_and_in_order(
    runs: list[tuple[int, int]], data: st.DataObject, after: int
) -> None:
    """Each run goes on behind the last number; some of its messages change places, and some come after it is over."""
    stored: list[StoredMessage] = []
    wanted: list[int] = []
    last = 0
    for run, (count, late) in enumerate(runs, start=1):
        own = [said(number, run) for number in range(last + 1, last + count + 1)]
        wanted += range(last + 1, last + count + 1)
        last += count
        if len(own) > 2:  # the first and the last stay where they are: one is stored alone, the other is what is read
            place = data.draw(st.integers(1, len(own) - 2))
            own[place : place + 2] = reversed(own[place : place + 2]) if place < len(own) - 2 else own[place:]
        stored += own
        if count and run > 1:  # somebody of before still speaks
            stored += [said(number, run - 1) for number in range(last - count + 1, last - count + 1 + late)]
    sorter = Sorter(after, 15.0)
    found = [item for one in stored for item in sorter.put(one)]
    found += sorter.end(last)
    assert numbers(found) == [number for number in wanted if number > after]
    assert not [item for item in found if isinstance(item, Lost)]
