"""What an ask that failed says of whom it asked."""

from __future__ import annotations

import pytest

from bus.errors import (
    BreakerOpenError,
    BusError,
    ConnectionLostError,
    EncodeError,
    MailboxFullError,
    NoRespondersError,
    NoTimeLeftError,
    PermissionDeniedError,
    RemoteError,
    RequestTimeoutError,
)
from bus.lines import BAD, NOTHING, Verdict, hurried, judge
from bus.replies import failure, read

JSON = "application/json"
ITS_WORK = Verdict(works=True, served=False)
"""It is there, and fails: another instance may do better, and the method is not shut for everybody."""


class DownError(Exception):
    fault_class = "communication"


class RefusedError(Exception):
    retryable = False


def crossed(error: BaseException) -> BusError:
    """An error of a handler, as it comes over the wire."""
    body, headers = failure(error, JSON)
    with pytest.raises(RemoteError) as raised:
        read(headers, body, "revo.rpc.desk.say")
    return raised.value


def verdict(error: BusError, *, connected: bool = True, hurried: bool = False) -> Verdict:
    return judge(error, connected=connected, hurried=hurried)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such customer"), ITS_WORK),
        (KeyError("name"), ITS_WORK),
        (RuntimeError("who knows"), ITS_WORK),
        (RefusedError(), Verdict(works=True, served=True)),
        (PermissionDeniedError("publish to", "a.b"), Verdict(works=True, served=True)),
        (DownError(), BAD),
        (ConnectionRefusedError(), BAD),
        (MailboxFullError("desk", 10), BAD),
        (BreakerOpenError("back", "say", 1.0), BAD),
        (MemoryError(), BAD),
        (TimeoutError(), BAD),
        (RemoteError("deadline_exceeded", "desk/say did not end before the deadline", True), BAD),
        (RemoteError("draining", "the actor stops", True), BAD),
    ],
)
def test_by_the_class_of_its_fault_whoever_answers_is_told_from_who_cannot(error: Exception, said: Verdict) -> None:
    assert verdict(crossed(error)) == said


def test_a_service_that_is_none_of_ours_is_judged_by_the_number_that_it_gives() -> None:
    found = {code: verdict(RemoteError(code, "")).works for code in ("400", "404", "429", "500", "503", "504")}
    assert found == {"400": True, "404": True, "429": False, "500": False, "503": False, "504": False}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoRespondersError("a.b"), BAD),
        (RequestTimeoutError("a.b", 5.0), BAD),
        (ConnectionLostError("a.b"), NOTHING),
        (NoTimeLeftError("a.b", 0.1), NOTHING),
        (EncodeError("a.b", "it is no model"), NOTHING),
        (PermissionDeniedError("publish to", "a.b"), NOTHING),
    ],
)
def test_our_own_errors_and_those_of_our_connection_say_nothing_of_anybody(error: BusError, said: Verdict) -> None:
    assert verdict(error) == said
    assert verdict(error, connected=False) == NOTHING


def test_a_time_out_of_who_had_hardly_any_time_is_his_own() -> None:
    for error in (
        RequestTimeoutError("a.b", 0.05),
        crossed(TimeoutError()),
        RemoteError("deadline_exceeded", "", True),
    ):
        assert verdict(error, hurried=True) == NOTHING
    assert verdict(NoRespondersError("a.b"), hurried=True) == BAD
    assert hurried(0.05, 0.05)
    assert hurried(2.4, 5.0), "whoever waits for our handler waits half as long as we would"
    assert not hurried(4.6, 5.0), "down a chain each has a little less"
    assert not hurried(0.2, 0.2)
