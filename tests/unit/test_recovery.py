"""What a worker does about a fault: how long the next attempt waits, and that it does nothing once it is closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from bus.connection import Connection
from bus.errors import BreakerOpenError, Retry
from bus.messages import Envelope
from bus.outcomes import Policy
from bus.recovery import BEYOND, SOONEST, Recovery
from bus.retrybudget import MOST, RetryBudget
from bus.run import Capability, Run
from bus.telemetry import Telemetry

POLICY = Policy(backoff=1.0, backoff_max=60.0)


class Wires:
    """What a recovery asks of its connection."""

    def __init__(self) -> None:
        self.called: list[Callable[..., object]] = []
        self.on_disconnect = self.on_reconnect = self.called.append

    def forget(self, *callbacks: Callable[..., object]) -> None:
        for callback in callbacks:
            self.called.remove(callback)


class Fixture:
    """A recovery of one capability. What it would run is only counted."""

    def __init__(self) -> None:
        self.wires, self.spawned = Wires(), 0
        self.recovery = Recovery(
            cast("Connection", self.wires),
            Telemetry(service="tester", instance="tester-1"),
            ["echo"],
            agent="tester",
            instance="tester-1",
            spawn=self.spawn,
            in_hand=tuple,
            changed=lambda: None,
            turned=None,
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.spawned += 1
        work.close()

    def pause(self, error: BaseException) -> float:
        """Seconds until the next attempt of a task that failed so."""
        run = Run(envelope(), Capability("echo", handler, POLICY))
        self.recovery.admit(run)  # whether it may start is another matter
        self.recovery.met(run, error, last=False)
        assert run.pause is not None
        return run.pause


async def handler(_: Envelope) -> object:
    return None


def envelope() -> Envelope:
    return Envelope(
        subject="revo.task.echo.normal.anon",
        capability="echo",
        priority="normal",
        client="anon",
        task_id="t",
        body=b"",
        headers={},
        content_type="",
        sequence=1,
        stored_at=0.0,
        deadline=time.time() + 60,
        deliveries=1,
        reply="",
        named=False,
    )


class BusyError(Exception):
    """Says 0: at once."""

    retry_after = 0
    fault_class = "overload"


@pytest.fixture
async def fixture() -> Fixture:
    return Fixture()


async def test_those_that_met_one_open_breaker_do_not_come_back_at_one_moment(fixture: Fixture) -> None:
    pauses = [fixture.pause(BreakerOpenError("a", "b", 4.0)) for _ in range(int(MOST))]
    assert min(pauses) >= 4.0
    assert max(pauses) <= 6.0
    assert len(set(pauses)) == MOST


async def test_who_says_at_once_is_not_tried_at_once(fixture: Fixture) -> None:
    assert SOONEST <= fixture.pause(BusyError()) <= 1.5 * SOONEST


async def test_a_handler_that_asks_for_a_retry_has_its_delay_to_the_second(fixture: Fixture) -> None:
    assert [fixture.pause(Retry(delay)) for delay in (7.0, 0.0)] == [7.0, 0.0]


@pytest.mark.parametrize("error", [Retry(7.0), BreakerOpenError("a", "b", 7.0)])
async def test_beyond_the_budget_every_retry_waits_longer_whatever_it_asks_for(
    fixture: Fixture, error: Exception
) -> None:
    fixture.recovery.guards._guards["echo"].budget = RetryBudget(floor=0.0, most=0.0)
    assert fixture.pause(error) >= 7.0 + 0.5 * BEYOND * POLICY.backoff


async def test_a_recovery_that_is_closed_keeps_no_timer_tells_nothing_and_is_forgotten(fixture: Fixture) -> None:
    assert len(fixture.wires.called) == 2
    fixture.recovery.close()
    assert fixture.wires.called == []
    for _ in range(12):
        fixture.pause(MemoryError())
    timers = [*fixture.recovery._timers.values(), *(one.timer for one in fixture.recovery.guards._guards.values())]
    assert (timers, fixture.spawned) == ([None], 0)


async def test_what_follows_at_once_is_told_after_a_while_by_one_timer(fixture: Fixture) -> None:
    for _ in range(3):
        fixture.pause(MemoryError())
    assert len(fixture.recovery._timers) == 1
    assert fixture.spawned == 2, "of the fault, and for room"
    fixture.recovery.close()
    assert fixture.recovery._timers == {}
