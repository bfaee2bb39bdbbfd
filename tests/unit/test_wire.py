"""The bytes of the NATS protocol, and timers that share one of the loop's."""

from __future__ import annotations

import asyncio

import nats.errors
import pytest

from bus.alarms import GRAIN, Alarms
from bus.wire import Message, WireClient, read_headers, write_headers
from tests.eventually import in_time

HEAD = b"NATS/1.0\r\nA: 1\r\nBb: two words\r\n\r\n"
STREAM = (
    b"MSG first 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG second 1 reply.to 0\r\n\r\n"
    + b"HMSG third 1 reply.to %d %d\r\n" % (len(HEAD), len(HEAD) + 11)
    + HEAD
    + b"MSG x 1 5\r\n\r\n"  # what looks like a message is in a message
    b"MSG nobody 7 2\r\nhi\r\n"
    b"+OK\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 50, len(STREAM)])
async def test_messages_are_the_same_wherever_the_bytes_are_cut(size: int) -> None:
    client = WireClient()
    arrived: list[Message] = []
    client._handlers[b"1"] = arrived.append
    lines = []
    for start in range(0, len(STREAM), size):
        lines += list(client._ps._messages(STREAM[start : start + size]))  # type: ignore[attr-defined]
    assert lines == [b"PING", b"+OK"]
    assert [(one.subject, one.reply, one.data) for one in arrived] == [
        ("first", "", b"hello"),
        ("second", "reply.to", b""),
        ("third", "reply.to", b"MSG x 1 5\r\n"),
    ]
    assert [one.headers for one in arrived] == [{}, {}, {"A": "1", "Bb": "two words"}]
    assert (arrived[2].header("Bb"), arrived[2].header("B"), arrived[0].header("A")) == ("two words", "", "")


async def test_a_handler_that_fails_does_not_make_the_connection_deaf(caplog: pytest.LogCaptureFixture) -> None:
    client = WireClient()
    arrived: list[Message] = []

    def fails(_: Message) -> None:
        raise ValueError("no")

    client._handlers = {b"1": fails, b"2": arrived.append}
    list(client._ps._messages(b"MSG a 1 1\r\nx\r\nMSG b 2 1\r\ny\r\n"))  # type: ignore[attr-defined]
    assert [one.data for one in arrived] == [b"y"]
    assert "a message on a could not be handled" in caplog.text


def test_headers_come_back_as_they_went_and_none_smuggles_another() -> None:
    given = {"Content-Type": "application/json", "Traceparent": "00-1", "Umlaut": "ä ö", "Empty": ""}
    assert read_headers(write_headers(given)) == given
    assert read_headers(write_headers({"A": "1\r\nNats-Rollup: all", "B": "x\ny"})) == {
        "A": "1  Nats-Rollup: all",
        "B": "x y",
    }
    for name in ("", "a b", "a:b", "a\r\nb", "ä"):
        with pytest.raises(nats.errors.BadHeaderError):
            write_headers({name: "x"})


def test_what_others_send_as_headers_is_read_as_far_as_it_makes_sense() -> None:
    assert read_headers(b"NATS/1.0 404 No Messages\r\n\r\n") == {"Status": "404", "Description": "No Messages"}
    assert read_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert read_headers(b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n") == {
        "Status": "100",
        "Description": "Idle Heartbeat",
        "Nats-Last-Consumer": "7",
    }
    assert read_headers(b"NATS/1.0\r\nA:1\r\n B : 2\r\nno colon\r\nc d: 3\r\nE: \xff\r\n\r\n") == {
        "A": "1",
        "B": "2",
        "E": "�",
    }


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n", "a\tb", "a\n"])
async def test_a_subject_that_would_smuggle_a_command_is_refused(subject: str) -> None:
    for given in ((subject, b"", b"", ""), ("fine", b"", b"", subject or " ")):
        with pytest.raises(nats.errors.BadSubjectError):
            WireClient().send(*given)


async def test_alarms_go_off_in_time_and_not_when_they_are_cleared() -> None:
    loop, alarms = asyncio.get_running_loop(), Alarms()
    rang: list[tuple[float, float]] = []
    done = asyncio.Event()
    began = loop.time()

    def note(wanted: float) -> None:
        rang.append((wanted, loop.time() - began))
        if len(rang) == 3:
            done.set()

    cleared = [alarms.set(0.05, lambda: note(99)), alarms.set(0.0, lambda: note(99))]
    for wanted in (0.12, 0.03, 0.07):
        alarms.set(wanted, lambda wanted=wanted: note(wanted))  # type: ignore[misc]
    for alarm in (*cleared, *cleared):
        alarm.clear()
    await in_time(done.wait(), 5)
    assert [wanted for wanted, _ in rang] == [0.03, 0.07, 0.12]
    assert all(wanted <= took for wanted, took in rang), "one went off early"
    assert rang[0][1] < 0.03 + GRAIN + 1.0, "a busy machine"
    alarms.close()


async def test_an_alarm_that_fails_takes_no_other_along() -> None:
    loop, alarms, rang = asyncio.get_running_loop(), Alarms(), asyncio.Event()
    failed: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))

    def fails() -> None:
        raise ValueError("no")

    for callback in (fails, rang.set, fails):
        alarms.set(0.01, callback)
    await in_time(rang.wait(), 5)
    await asyncio.sleep(0)  # noqa: TID251  (the turn of the third)
    assert len(failed) == 2
