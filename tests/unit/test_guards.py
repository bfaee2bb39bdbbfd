"""A worker's breakers by the loop's clock: what is shut, and when that is looked at again."""

from __future__ import annotations

import asyncio

from bus.breaker import Breaker, Rules, State
from bus.guards import Guards

RULES = Rules(minimum=1, pause=0.2, jitter=0.0)


class Watched:
    """Guards of two capabilities, and what they say."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.told: list[tuple[str, State]] = []
        self.turned: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        self.guards = Guards(
            ["echo", "other"],
            on_change=lambda name, state, _: self.told.append((name, state)),
            on_shut=lambda: self.turned.put_nowait(self.guards.shut),
        )
        for guard in self.guards._guards.values():
            guard.breaker = Breaker(rules)

    def fail(self, name: str = "echo") -> None:
        self.guards.failed(name, self.guards.admit(name), counts=True, first=True, took=0.0)

    async def shut(self) -> frozenset[str]:
        async with asyncio.timeout(5):
            return await self.turned.get()


async def test_a_trial_that_takes_long_makes_room_for_others_when_its_pause_is_over() -> None:
    watched = Watched()
    guards = watched.guards
    watched.fail()
    assert [await watched.shut(), await watched.shut()] == [{"echo"}, frozenset()]
    trials = [guards.admit("echo"), guards.admit("echo")]
    assert [bool(way) for way in trials] == [True, False]
    assert [await watched.shut(), await watched.shut()] == [{"echo"}, frozenset()], "though the first still runs"
    for way in (trials[0], guards.admit("echo")):
        guards.well("echo", way, first=True)
    assert watched.told == [("echo", "open"), ("echo", "half-open"), ("echo", "closed")]
    assert guards.states == {}


async def test_there_is_one_timer_for_a_breaker_and_none_once_they_are_closed() -> None:
    watched = Watched(Rules(minimum=1, pause=30.0))
    watched.fail()
    timer = watched.guards._guards["echo"].timer
    watched.fail("other")
    assert watched.guards._guards["echo"].timer is timer, "that another opens changes nothing"
    timers = [guard.timer for guard in watched.guards._guards.values()]
    watched.guards.close()
    assert [timer is not None and timer.cancelled() for timer in timers] == [True, True]
    told = list(watched.told)
    watched.guards.failed("echo", 0, counts=True, first=True, took=0.0)
    watched.guards._look()
    assert [guard.timer for guard in watched.guards._guards.values()] == timers
    assert watched.told == told
