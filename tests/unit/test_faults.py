"""Which fault an error is, how grave repetition makes it, and that what is told of it is bounded."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import itertools
import pickle
import socket
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.registry.model import Health, Instance
from actors.steward.shedding import spare
from bus import errors
from bus.endings import error_info
from bus.faults import CLASSES, GAP, STEPS, TABLE, WINDOW, Ledger, Severity, classify, hint, recovery_of, severity_of
from bus.outcomes import Policy


class OwnError(Exception):
    """One that says what it is."""

    fault_class = "overload"


class NoUseError(Exception):
    """One that says that no try helps."""

    retryable = False


class StatusError(Exception):
    """As those of HTTP clients are."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class TrapError(Exception):
    """One whose attributes raise."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("fault_class", "retryable", "response", "delay"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


def caused(by: BaseException | None) -> Exception:
    error = errors.Retry(1.0)
    error.__cause__ = by
    return error


EXAMPLES: dict[str, list[BaseException]] = {
    "crash": [
        errors.WorkerDiedError("t1", 3),
        subprocess.CalledProcessError(-9, "tool"),
        concurrent.futures.BrokenExecutor(),
    ],
    "timeout": [
        TimeoutError(),
        errors.TimeLimitError("echo", 1.0),
        errors.RequestTimeoutError("revo.rpc.a.b", 1.0),
        OSError(errno.ETIMEDOUT, "late"),
        subprocess.TimeoutExpired("tool", 1.0),
        StatusError(504),
        errors.RemoteError("deadline_exceeded", "late", True),
    ],
    "communication": [
        errors.NoRespondersError("revo.rpc.a.b"),
        ConnectionRefusedError(),
        asyncio.IncompleteReadError(b"", 5),
        StatusError(502),
        errors.RemoteError("worker_died", "its process, not ours", True),
    ],
    "resource": [
        MemoryError(),
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EMFILE, "many"),
        ExceptionGroup("some", [ValueError(), MemoryError()]),
    ],
    "task": [
        ValueError(),
        KeyError("x"),
        NoUseError(),
        FileNotFoundError(errno.ENOENT, "gone"),
        errors.DecodeError("revo.task.echo.normal", "no model"),
        errors.Retry(1.0),
        StatusError(404),
        subprocess.CalledProcessError(1, "tool"),
        errors.RemoteError("value_error", "its own", True),
    ],
    "overload": [
        OwnError(),
        errors.MailboxFullError("slow", 10),
        errors.QueueFullError("revo.task.echo.normal", "full"),
        StatusError(429),
        errors.RemoteError("mailbox_full", "busy", True),
        errors.RemoteError("503", "of another micro service"),
        errors.RemoteError("memory_error", "its memory, not ours", True),
    ],
    "network": [
        errors.ConnectionLostError("revo.rpc.a.b"),
        ConnectionResetError(),
        socket.gaierror(8, "no such name"),
        OSError(errno.ENETUNREACH, "no way"),
        caused(ConnectionResetError()),
    ],
    "unknown": [RuntimeError("?"), SystemExit(3), Exception(), asyncio.CancelledError(), TrapError()],
}


@pytest.mark.parametrize(("kind", "error"), [(kind, one) for kind, some in EXAMPLES.items() for one in some])
def test_an_error_is_of_the_class_that_its_type_its_data_or_its_cause_says(kind: str, error: BaseException) -> None:
    assert classify(error) == kind
    if isinstance(error, Exception) and not isinstance(error, errors.BusError):
        wrapped = RuntimeError("a library's own")
        wrapped.__cause__ = error
        assert classify(wrapped) == kind
    assert set(EXAMPLES) == set(CLASSES)


def test_what_a_far_handler_says_of_its_error_crosses_the_wire() -> None:
    info = error_info(OwnError())
    assert info.fault == "overload"
    far = errors.RemoteError(info.code, info.message, True)
    assert classify(far) == "unknown"
    far.fault = info.fault
    assert classify(pickle.loads(pickle.dumps(far))) == "overload"  # noqa: S301  (our own)


def test_an_error_may_say_when_to_try_again() -> None:
    error = OwnError()
    assert hint(error) is None
    error.retry_in = 2  # type: ignore[attr-defined]
    assert (hint(error), hint(errors.Retry(0.5)), hint(errors.Retry())) == (2.0, 0.5, None)


@given(st.sampled_from(CLASSES), st.integers(0, 100), st.integers(0, 100))
def test_repetition_makes_a_fault_graver_up_to_its_bound(kind: Any, some: int, more: int) -> None:
    assert severity_of(kind, some) <= severity_of(kind, some + more) <= TABLE[kind].most
    assert severity_of(kind, 1) == TABLE[kind].severity
    assert recovery_of(kind, last=True) == "give-up"


def test_severity_falls_when_it_has_been_quiet_and_the_next_fault_is_news_again() -> None:
    ledger = Ledger()
    grave = [ledger.met("echo", "timeout", float(second)).severity for second in range(STEPS[0])]
    assert grave == [Severity.MEDIUM, Severity.MEDIUM, Severity.HIGH]
    ledger.tell("echo", "timeout", 3.0)
    assert ledger.news("echo", "timeout", 4.0) is None
    assert ledger.met("echo", "timeout", 3.0 + WINDOW).severity is Severity.MEDIUM
    assert ledger.news("echo", "timeout", 3.0 + WINDOW) == 0.0


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), min_size=1, max_size=200))
def test_of_however_many_faults_few_are_told_and_none_of_the_told_is_lost(steps: list[tuple[float, bool]]) -> None:
    """Two that are told are `GAP` apart, and together they count all that were met before the last."""
    ledger, now, told, counted = Ledger(), 0.0, list[float](), 0
    for met, (pause, last) in enumerate(steps, 1):
        now += pause
        ledger.met("echo", "task", now, last=last)
        if ledger.news("echo", "task", now) == 0.0:
            counted += ledger.tell("echo", "task", now)[1]
            told.append(now)
            assert counted == met
    assert told[:1] == [steps[0][0]], "the first is told at once"
    assert all(after - before >= GAP - 1e-9 for before, after in itertools.pairwise(told))


@given(st.integers(1, 40), st.floats(1, 100))
def test_a_graver_fault_waits_longer_and_never_longer_than_its_policy_allows(errors_: int, slower: float) -> None:
    policy = Policy(backoff=1.0, backoff_max=60.0)
    pause = policy.pause(errors_, slower)
    assert min(60.0, slower * 2.0 ** (errors_ - 1)) / 2 <= pause <= 60.0


def instance(name: str, memory: int = 0, **more: Any) -> Instance:
    agent = name.rpartition("-")[0]
    given: dict[str, Any] = {"host": "here", "state": "ready", "condition": "idle", **more}
    return Instance(agent=agent, instance=name, health=Health(memory=memory), **given)


def test_only_who_is_idle_here_and_not_the_last_of_its_agent_can_be_spared() -> None:
    short = instance("busy-1", condition="busy", running=1)
    everybody = [
        short,
        instance("busy-2"),
        instance("busy-3", 500, running=1),
        instance("alone-1"),
        instance("far-1", host="there"),
        instance("far-2", host="there"),
        instance("pair-1", 100),
        instance("pair-2", condition="paused"),
        instance("twin-1", 100),
        instance("twin-2", 200),
        instance("sick-1"),
        instance("sick-2", condition="suspect"),
        instance("revo-steward-1", kind="system"),
        instance("revo-steward-2", kind="system"),
    ]
    assert [one.instance for one in spare(everybody, short)] == ["twin-2", "twin-1", "busy-2"]
