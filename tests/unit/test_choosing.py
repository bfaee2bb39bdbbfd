"""Strategies: whom each takes, and what choosing costs."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.choosing import (
    STRATEGIES,
    Candidate,
    LeastBusy,
    Performance,
    ResourceBased,
    RoundRobin,
    Sticky,
    Strategy,
    check,
)
from bus.errors import ConfigError

NAMES = st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=2, max_size=40)


def made(kind: Callable[[], Strategy], names: Iterable[str]) -> tuple[Strategy, dict[str, Candidate]]:
    """A strategy with some candidates."""
    strategy, candidates = kind(), {name: Candidate(name) for name in names}
    for one in candidates.values():
        strategy.put(one)
    return strategy, candidates


def chosen(strategy: Strategy, key: str = "", chance: float = 0.5, now: float = 0.0) -> str:
    return strategy.choose(key, now=now, chance=chance)


@pytest.mark.parametrize("name", STRATEGIES)
@given(steps=st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.floats(0, 0.999)), max_size=60))
def test_whoever_comes_and_goes_it_is_always_one_of_those_that_may_be_chosen(
    name: str, steps: list[tuple[bool, str, float]]
) -> None:
    strategy, there, candidates = STRATEGIES[name](), set[str](), {one: Candidate(one) for one in "abcdef"}
    for now, (comes, who, chance) in enumerate(steps):
        candidates[who].load = int(chance * 5)
        if comes:
            strategy.put(candidates[who])
            there.add(who)
        else:
            strategy.drop(who)
            there.discard(who)
        taken = strategy.choose(who, now=float(now), chance=chance)
        assert taken in there if there else taken == ""
        if taken:
            began = candidates[taken].began()
            strategy.put(candidates[taken])
            candidates[taken].ended(began)
            strategy.learn(candidates[taken], chance, good=chance < 0.5, now=float(now))
            strategy.put(candidates[taken])


def test_round_robin_gives_each_its_turn_also_while_some_come_and_go() -> None:
    strategy, _ = made(RoundRobin, "abc")
    assert [chosen(strategy) for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]
    strategy.put(Candidate("d"))
    strategy.drop("b")
    assert [chosen(strategy) for _ in range(6)] == ["a", "c", "d", "a", "c", "d"]


def test_random_takes_all_alike() -> None:
    strategy, _ = made(STRATEGIES["random"], "abcd")
    found = Counter(chosen(strategy, chance=n / 1000) for n in range(1000))
    assert set(found.values()) == {250}


@given(NAMES, st.lists(st.text(max_size=8), min_size=1, max_size=20))
def test_a_key_moves_only_when_its_instance_goes_and_comes_back_with_it(names: set[str], keys: list[str]) -> None:
    strategy, _ = made(Sticky, sorted(names))
    other, _ = made(Sticky, sorted(names, reverse=True))
    before = {key: chosen(strategy, key) for key in keys}
    assert before == {key: chosen(other, key) for key in keys}, "the same in every process"
    gone = min(names)
    strategy.drop(gone)
    after = {key: chosen(strategy, key) for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != gone)
    assert gone not in after.values()
    strategy.put(Candidate(gone))
    assert {key: chosen(strategy, key) for key in keys} == before


def test_keys_are_shared_out_evenly_also_those_of_one_that_goes() -> None:
    strategy, _ = made(Sticky, [f"worker-{n}" for n in range(20)])
    before = {f"user {n}": chosen(strategy, f"user {n}") for n in range(20_000)}
    counts = Counter(before.values())
    assert statistics.pstdev(counts.values()) < 60, "of 1,000 each; by chance alone it is 31"
    strategy.drop("worker-7")
    heirs = Counter(chosen(strategy, key) for key, name in before.items() if name == "worker-7")
    assert len(heirs) == 19
    assert max(heirs.values()) < 100


def test_the_least_busy_is_that_with_the_most_room_by_its_lease_and_our_own_asks() -> None:
    strategy, some = made(LeastBusy, "abc")
    for name, load, concurrency in (("a", 3, 4), ("b", 1, 1), ("c", 2, 4)):
        some[name].load, some[name].concurrency = load, concurrency
        strategy.put(some[name])
    assert chosen(strategy) == "c"
    began = [some["c"].began() for _ in range(2)]
    strategy.put(some["c"])
    assert chosen(strategy) == "a", "two of ours are in flight to c"
    some["c"].load = 3  # one of them has ended when it says so
    some["c"].renewed()
    some["c"].ended(began[0])
    some["c"].ended(began[1])
    assert (some["c"].load, some["c"].ours) == (1, 0)
    strategy.put(some["c"])
    assert chosen(strategy) == "c"


def test_resources_are_cores_memory_and_a_loop_that_is_late() -> None:
    strategy, some = made(ResourceBased, "abcd")
    some["a"].cpu, some["b"].lag, some["c"].memory = 0.9, 0.05, 2**30
    for one in some.values():
        strategy.put(one)
    order = []
    for _ in range(4):
        order.append(chosen(strategy))
        strategy.drop(order[-1])
    assert order == ["d", "c", "b", "a"]


def test_performance_knows_at_once_what_the_leases_say() -> None:
    strategy, some = made(Performance, "abc")
    strategy.method = "say"
    for name, seconds in (("a", 0.2), ("b", 0.02), ("c", 0.02)):
        some[name].latency = {"say": seconds, "other": 1 - seconds}
    some["c"].error_rate = 0.5
    for one in some.values():
        strategy.put(one)
    assert chosen(strategy) == "b"


def simulated(
    strategy: Strategy, some: dict[str, Candidate], took: dict[str, float], asks: int, start: float
) -> Counter[str]:
    """So many asks, 100 a second; whom they went to."""
    dice, found = random.Random(1), Counter[str]()  # noqa: S311
    for n in range(asks):
        now = start + n / 100
        one = some[strategy.choose("", now=now, chance=dice.random())]
        found[one.name] += 1
        seconds = took[one.name]
        strategy.learn(one, abs(seconds), good=seconds > 0, now=now)
        strategy.put(one)
    return found


def test_performance_leaves_the_slow_and_the_failing_and_a_bad_start_is_not_for_ever() -> None:
    strategy, some = made(Performance, "abc")
    bad = simulated(strategy, some, {"a": -0.01, "b": 0.3, "c": 0.01}, 1000, 0.0)
    assert bad["c"] > 900
    assert min(bad.values()) >= 2, "the others are tried now and then"
    well = simulated(strategy, some, {"a": 0.002, "b": 0.3, "c": 0.01}, 6000, 10.0)
    assert well["a"] > 3000, well
    assert simulated(strategy, some, {"a": 0.002, "b": 0.3, "c": 0.01}, 1000, 70.0)["a"] > 900


def test_a_strategy_that_there_is_not_is_refused_by_name() -> None:
    assert check("sticky") == "sticky"
    with pytest.raises(ConfigError, match="'best': is none; there are round_robin, random, least_busy"):
        check("best")


@pytest.mark.parametrize("name", STRATEGIES)
def test_choosing_one_of_a_thousand_takes_microseconds(name: str, figures: Callable[[str], None]) -> None:
    """As is promised, also for a key that is new; the best of some rounds, for others use this machine, too."""
    names = [f"worker-{n:05}" for n in range(1000)]
    strategy, some = made(STRATEGIES[name], names)
    dice = random.Random(1)  # noqa: S311
    for one in some.values():
        one.load, one.cpu, one.latency = dice.randrange(50), dice.random() * 4, {"": dice.random()}
        one.concurrency = 64
        strategy.put(one)
    took, numbers = [], iter(range(10**6))
    for _ in range(30):
        keys = [f"key {next(numbers)}" for _ in range(20)]
        began = time.perf_counter()
        for key in keys:
            chosen(strategy, key, dice.random())
        took.append((time.perf_counter() - began) / len(keys))
    best = min(took)
    figures(f"choosing: {name} takes {best * 1e6:.1f} us of 1,000 instances")
    assert best < 50e-6
