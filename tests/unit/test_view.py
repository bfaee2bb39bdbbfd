"""A client's view of an agent's instances, from what is told of their leases alone."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bus import codec
from bus.connection import Connection
from bus.settings import Settings
from bus.view import LOST, STALE, SUSPECTED, View
from bus.wire import Message

TTL, LATE = Settings().lease_ttl, Settings().lease_late
PACKED = b"NATS/1.0\r\nContent-Type: application/msgpack\r\n\r\n"
EXPIRED = b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n"
GIVEN_UP = b"NATS/1.0\r\nKV-Operation: PURGE\r\n\r\n"


@pytest.fixture
def view() -> View:
    return View(cast("Connection", SimpleNamespace(settings=Settings())), "desk")


def hear(view: View, name: str, head: bytes = PACKED, *, kind: str = "lease", **said: Any) -> None:
    body = codec.encode({"state": "ready", **said}) if head == PACKED else b""
    view._on_news(Message(f"revo.registry.{kind}.desk.{name}", "", body, head))


def chosen(view: View, after: float = 0.0, *, panic: bool = False) -> set[str]:
    """Whom it chooses so many seconds from now."""
    now = time.monotonic() + after
    found = [view.choose("say", "random", "", now=now, chance=n / 10, panic=panic) for n in range(10)]
    return {one.name for one in found if one is not None}


def troubled(view: View, after: float = 0.0) -> bool:
    return view.is_troubled("say", time.monotonic() + after)


def test_who_is_ready_counts_and_who_is_paused_shut_or_cannot_work_does_not(view: View) -> None:
    hear(view, "desk-1")
    hear(view, "desk-2", state="starting")
    hear(view, "desk-3", breakers={"other": "open", "back/say": "open", "say": "half-open"})
    assert chosen(view) == {"desk-1", "desk-3"}
    assert not troubled(view), "the queue group does not know who is starting"
    for said in ({"paused": "by hand"}, {"health": {"error": "no disk"}}, {"breakers": {"say": "open"}}):
        hear(view, "desk-3", **said)
        assert chosen(view) == {"desk-1"}, said
        assert troubled(view, 1.0), said
        hear(view, "desk-3")
        assert chosen(view) == {"desk-1", "desk-3"}
        assert not troubled(view, 1.0)


def test_a_lease_that_is_not_renewed_in_time_counts_no_more_and_is_forgotten(view: View) -> None:
    hear(view, "desk-1")
    assert chosen(view, LATE - 0.1) == {"desk-1"}
    assert not troubled(view, LATE - 0.1)
    assert chosen(view, LATE + 0.1) == set()
    assert troubled(view, LATE + 0.2)
    assert chosen(view, LATE + 0.3, panic=True) == {"desk-1"}, "better than none"
    hear(view, "desk-1")
    assert chosen(view) == {"desk-1"}
    assert chosen(view, STALE * TTL - 0.1, panic=True) == {"desk-1"}
    assert chosen(view, STALE * TTL + 0.1, panic=True) == set()
    assert view.known == []


def test_who_is_late_is_passed_over_before_its_lease_runs_out_while_others_are_in_time(view: View) -> None:
    assert LATE == 1.5 * Settings().lease_heartbeat < TTL
    hear(view, "desk-1")
    hear(view, "desk-2")
    view._known["desk-1"].seen -= LATE
    assert chosen(view, panic=True) == {"desk-2"}
    hear(view, "desk-1")
    assert chosen(view) == {"desk-1", "desk-2"}


def test_after_a_time_without_a_connection_who_lived_has_time_to_say_so(view: View) -> None:
    hear(view, "desk-1")
    view._known["desk-1"].seen -= TTL + 1
    view.back()
    assert chosen(view) == {"desk-1"}


def test_a_suspicion_holds_until_it_is_taken_back_or_runs_out(view: View) -> None:
    hear(view, "desk-1", kind="suspect")
    hear(view, "desk-1")
    hear(view, "desk-2")
    assert chosen(view) == {"desk-2"}
    hear(view, "desk-1")
    assert chosen(view) == {"desk-2"}, "its lease says nothing about that"
    for known in view._known.values():
        known.seen += 1.0  # renewed meanwhile
    assert chosen(view, SUSPECTED + 0.1) == {"desk-1", "desk-2"}
    hear(view, "desk-1", kind="suspect")
    hear(view, "desk-1", GIVEN_UP, kind="suspect")
    assert chosen(view) == {"desk-1", "desk-2"}


def test_whose_lease_ran_out_may_still_be_in_the_queue_group_and_who_left_is_not(view: View) -> None:
    hear(view, "desk-1")
    hear(view, "desk-2")
    hear(view, "desk-1", GIVEN_UP)
    assert chosen(view, panic=True) == {"desk-2"}
    assert not troubled(view, 0.1)
    hear(view, "desk-2", EXPIRED)
    assert chosen(view, panic=True) == set()
    assert troubled(view, 0.2)
    assert not troubled(view, LOST + 1)


def test_who_does_not_listen_is_not_asked_until_it_renews_its_lease(view: View) -> None:
    hear(view, "desk-1")
    hear(view, "desk-2")
    view.unheard("desk-1")
    assert chosen(view) == {"desk-2"}
    assert not troubled(view, 0.1), "who does not listen is in no queue group"
    hear(view, "desk-1")
    assert chosen(view) == {"desk-1", "desk-2"}


def test_performance_begins_with_what_a_lease_says_of_the_method_and_not_of_its_tasks(view: View) -> None:
    hear(view, "desk-1", health={"latency": {"p50": 60.0, "p95": 90.0}, "requests": {"say": 0.001, "think": 9.0}})
    hear(view, "desk-2", health={"latency": {"p50": 0.001, "p95": 0.001}, "requests": {"say": 0.1, "think": 1.0}})
    now = time.monotonic()
    for method, best in (("say", "desk-1"), ("think", "desk-2")):
        found = [view.choose(method, "performance", "", now=now, chance=chance) for chance in (0.2, 0.5, 0.9)]
        assert [one.name for one in found if one is not None] == [best] * 3


def test_a_lease_of_a_version_that_says_less_of_its_requests_counts_as_well(view: View) -> None:
    hear(view, "desk-1", health={"latency": {"p50": 60.0}})
    assert chosen(view) == {"desk-1"}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("desk-1", b"\xc1"),
        ("desk-1", codec.encode([1])),
        ("desk-1", codec.encode({"state": "ready", "concurrency": "many"})),
        ("desk-1", codec.encode({"state": "ready", "health": 1})),
        ("desk-1", codec.encode({"state": "ready", "breakers": []})),
        ("other-1", codec.encode({"state": "ready"})),
        ("desk-1", codec.encode({"state": 1, "paused": [], "health": {"cpu": None}})),
    ],
)
def test_what_is_no_lease_is_left_out(view: View, name: str, body: bytes) -> None:
    view._on_news(Message(f"revo.registry.lease.desk.{name}", "", body, PACKED))
    assert chosen(view, panic=True) <= {name}
    assert chosen(view) == set()
