"""When something is due: what a caller may say, what is refused, and the next times that are shown."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
from pydantic import ValidationError

from bus import when
from bus.cron import Cron
from bus.errors import ConfigError
from bus.schedules import Plan
from bus.when import When

BERLIN = "Europe/Berlin"
UTC = datetime.UTC


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"at": "2030-01-02T03:04:05Z"}, "@at 2030-01-02T03:04:05.000000Z"),
        ({"at": "2030-01-02T03:04:05+01:00"}, "@at 2030-01-02T02:04:05.000000Z"),
        ({"at": "2030-07-02T03:04:05", "timezone": BERLIN}, "@at 2030-07-02T01:04:05.000000Z"),
        ({"at": datetime.datetime(2030, 1, 2, tzinfo=UTC)}, "@at 2030-01-02T00:00:00.000000Z"),
        ({"at": 1_900_000_000}, "@at 2030-03-17T17:46:40.000000Z"),
        ({"every": 90}, "@every 90s"),
        ({"every": datetime.timedelta(hours=2)}, "@every 7200s"),
        ({"cron": "0 9 * * mon-fri"}, "0 0 9 * * mon-fri"),
        ({"cron": "*/5 * * * * *", "timezone": BERLIN}, "*/5 * * * * *"),
        ({"cron": "@daily"}, "@daily"),
    ],
    ids=str,
)
def test_what_a_caller_says_is_what_the_server_takes_and_reads_back_as_the_same(
    said: dict[str, Any], text: str
) -> None:
    due = when.when(**said)
    assert due.text == text
    assert due.once == ("at" in said)
    assert when.parse(due.text, due.zone) == due


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({}, "give one of at, after, every and cron"),
        ({"at": 1.0, "after": 1.0}, "at and after: give one of"),
        ({"every": 5, "cron": "@daily"}, "every and cron: give one of"),
        ({"every": 0.5}, "from 1 second"),
        ({"every": 1.5}, "is not a whole number of seconds"),
        ({"every": datetime.timedelta(0)}, "from 1 second"),
        ({"every": float("nan")}, "is not a number of seconds"),
        ({"every": True}, "is not a number of seconds"),
        ({"after": -1}, "is not a number of seconds"),
        ({"after": "5"}, "is not a number of seconds"),
        ({"after": float("inf")}, "is not a number of seconds"),
        ({"at": "soon"}, "is no time such as 2026-12-24T18:00:00"),
        ({"at": "2030-01-02T03:04:05"}, "says no time zone"),
        ({"at": "2030-01-02T03:04:05Z", "timezone": BERLIN}, "contradicts"),
        ({"at": 1e12}, "is not a time between 1970 and ten years from now"),
        ({"at": float("nan")}, "is not a time between"),
        ({"at": [1]}, "is no datetime"),
        ({"after": 5, "timezone": BERLIN}, "means nothing with after"),
        ({"cron": "0 9 * * *", "timezone": "Mars/Base"}, "timezone 'Mars/Base': is none"),
        ({"cron": "0 9 * *"}, "is not 5 fields"),
        ({"cron": "0 9 * * 7"}, "Sunday is 0"),
        ({"cron": "0 9 31 2 *"}, "is not due within 5 years"),
        ({"cron": "a b c d e"}, "'a' is no minute"),
        ({"cron": ""}, "is not 5 fields"),
    ],
    ids=str,
)
def test_what_the_server_would_refuse_is_refused_in_the_caller_s_words(said: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        when.when(**said)
    assert says in str(raised.value)


@pytest.mark.parametrize("text", ["@at soon", "@every 5m", "@every -5s", "@reboot", "0 9 * * *x", ""])
def test_what_stands_on_the_wire_and_means_nothing_is_refused_by_a_steward_too(text: str) -> None:
    with pytest.raises(ConfigError):
        when.parse(text, "")


@pytest.mark.parametrize("traceparent", ["00-ab\n", "\n00-ab", "00-AB", "00-ab\r\nNats-Rollup: all", "x" * 61])
def test_a_trace_that_could_bring_another_header_is_refused(traceparent: str) -> None:
    plan = {"schedule_id": "nightly", "when": "@daily", "body": b"{}"}
    assert Plan.model_validate({**plan, "traceparent": "00-ab-01"}).traceparent == "00-ab-01"
    with pytest.raises(ValidationError):
        Plan.model_validate({**plan, "traceparent": traceparent})


@pytest.mark.parametrize(
    ("pattern", "zone", "then", "due"),
    [
        ("0 9 * * 1-5", BERLIN, "2026-03-27T08:00:00Z", ["2026-03-30T07:00:00Z", "2026-03-31T07:00:00Z"]),
        ("30 2 * * *", BERLIN, "2026-03-28T02:00:00Z", ["2026-03-30T00:30:00Z"]),  # there is no 02:30 on the 29th
        (
            "30 2 * * *",
            BERLIN,
            "2026-10-24T12:00:00Z",
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
        ),  # and two here
        ("0 0 13 * 5", "", "2026-03-01T00:00:00Z", ["2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z"]),
        (
            "0 0 */2 * 5",
            "",
            "2026-03-01T12:00:00Z",
            ["2026-03-03T00:00:00Z", "2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z"],
        ),
        ("0 0 29 2 *", "", "2026-01-01T00:00:00Z", ["2028-02-29T00:00:00Z"]),
        ("*/20 * * * * *", "", "2026-01-01T00:00:20.5Z", ["2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"]),
        ("@weekly", "Asia/Tokyo", "2026-01-01T00:00:00Z", ["2026-01-03T15:00:00Z"]),
    ],
)
def test_the_next_times_are_those_of_the_server(pattern: str, zone: str, then: str, due: list[str]) -> None:
    cron, moment = Cron(pattern, zone), datetime.datetime.fromisoformat(then)
    for expected in due:
        found = cron.after(moment)
        assert found is not None
        assert found == datetime.datetime.fromisoformat(expected)
        moment = found


def test_what_is_due_every_so_often_is_counted_from_when_it_was_last() -> None:
    due = When("@every 10s")
    assert due.after(100.2, base=100.2) == 110.0
    assert due.after(125.0, base=100.4) == 130.0
    assert due.after(130.0, base=100.0) == 140.0
    once = when.when(after=60)
    assert once.after(0.0) == pytest.approx(time.time() + 60, abs=5)
    assert once.after(time.time() + 100) is None
