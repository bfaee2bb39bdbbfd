"""Of an answer to a prompt no more is taken than may be, however it comes."""

from __future__ import annotations

import pytest

from bus.answers import EACH, Answer, AnswerTooLargeError, Arrivals, Whole
from bus.prompts import Attachment, Response
from bus.wire import Message


def message(size: int) -> Message:
    return Message("inbox", "", bytes(size))


def test_a_whole_answer_has_its_parts_in_order_and_no_more_bytes_than_it_may() -> None:
    whole, file = Whole("hermes", 300), Attachment(filename="a", content=bytes(100))
    for part in (Response(text="grüße "), Response(text="", attachments=(file,)), Response(text="!")):
        whole.add(part)
    assert whole.answer == Answer("grüße !", (file,), 3)
    with pytest.raises(AnswerTooLargeError, match="the answer of hermes exceeds the limit of 300 bytes"):
        whole.add(Response(text="ß" * 64))


async def test_what_arrives_faster_than_it_is_taken_is_dropped_at_the_limit_and_that_is_said() -> None:
    arrivals = Arrivals("hermes", 10 * (EACH + 100))
    for _ in range(30):
        arrivals.put(message(100))
        assert len((await arrivals.get() or message(0)).data) == 100
    for _ in range(10):
        arrivals.put(message(100))
    assert await arrivals.get() is not None
    for _ in range(3):
        arrivals.put(message(100))
    assert arrivals._queue.qsize() == 1, "nothing of it is kept"
    with pytest.raises(AnswerTooLargeError):
        await arrivals.get()


async def test_of_empty_messages_there_may_not_be_any_number_either() -> None:
    arrivals = Arrivals("hermes", 1000)
    for _ in range(1000):
        arrivals.put(message(0))
    with pytest.raises(AnswerTooLargeError):
        await arrivals.get()
