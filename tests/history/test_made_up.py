"""What a correct store does always passes, and each thing that it must not do is caught, wherever it happens."""

from __future__ import annotations

import itertools
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.history import linearizable
from tests.history.records import History, Kind, Op, Outcome, Seen
from tests.history.simulated import history
from tests.history.spoiled import SPOILS, Spoil
from tests.history.verdict import violations

TRIED = 40


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 120), st.integers(1, 6))
def test_a_history_of_a_correct_store_passes(seed: int, clients: int, steps: int, depth: int) -> None:
    assert not violations(history(seed, clients=clients, steps=steps, depth=depth))


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_spoiled_history_is_caught_wherever_it_is_spoiled(spoil: Spoil) -> None:
    caught = 0
    for seed in itertools.count():
        good = history(seed, depth=6)
        spoiled = spoil(good, Random(seed))  # noqa: S311
        if spoiled is None:
            continue
        found = violations(spoiled)
        assert SPOILS[spoil] in {violation.rule for violation in found}, f"seed {seed}: {[*map(str, found)]}"
        caught += 1
        if caught == TRIED:
            return
        assert seed < 100 * TRIED, "it spoils next to nothing"


VERSIONS = (2, 4, 6, 8)


@st.composite
def _calls(draw: st.DrawFn) -> list[Op]:
    """A few calls, which may or may not be those of a correct store."""
    found: list[Op] = []
    versions = draw(st.permutations(VERSIONS))
    stored = [
        Seen(version, f"value-{place}" if draw(st.booleans()) else None) for place, version in enumerate(versions)
    ]
    for number in range(draw(st.integers(2, 6))):
        start = draw(st.integers(0, 8))
        end = start + draw(st.integers(1, 5))
        if number < len(stored) and draw(st.booleans()):
            outcome: Outcome = draw(st.sampled_from(("done", "done", "done", "refused", "unknown")))
            seen = {"done": stored[number], "unknown": None, "refused": draw(st.sampled_from(stored))}[outcome]
            value, base = stored[number].value, draw(st.sampled_from([None, 0, *versions[:number]]))
            kind: Kind = "put" if value else "delete"
            stop = math.inf if outcome == "unknown" else end
            found.append(Op("writer", kind, "key", start, stop, outcome, value, base, seen))
        else:
            seen = draw(st.sampled_from([*stored, Seen(None, None)]))
            found.append(Op("reader", "get", "key", start, end, seen=seen if seen.value else Seen(None, None)))
    return found


def _explained(ops: list[Op], version: float, value: str | None, known: dict[str | None, int]) -> bool:
    """The same question, answered by trying all orders."""
    if all(op.outcome == "unknown" for op in ops):
        return True
    first = min(op.end for op in ops)
    for op in ops:
        rest = [one for one in ops if one is not op]
        if op.start <= first:
            for then in _after(op, version, value, known):
                if _explained(rest, *then, known):
                    return True
    return False


def _after(op: Op, version: float, value: str | None, known: dict[str | None, int]) -> list[tuple[float, str | None]]:
    """What may stand there after a call."""
    saw = op.seen is None or (op.seen.value == value and op.seen.version in {None, version})
    if not op.writes:
        return [(version, value)] if saw else []
    fits = op.base is None or (value is None if op.base == 0 else op.base == version)
    if op.outcome == "refused":
        return [(version, value)] if saw and not fits else []
    if op.seen is not None:
        versions = [op.seen.version or 0]
    elif op.value in known:
        versions = [known[op.value]]
    else:  # of a delete nobody was told the version; an odd one is nobody's
        versions = [*VERSIONS, *(one + 1 for one in VERSIONS), 1]
    return [(one, op.value) for one in versions if fits and one > version]


@settings(max_examples=400)
@given(_calls())
def test_the_search_finds_an_order_exactly_where_trying_all_of_them_does(ops: list[Op]) -> None:
    versions = History(ops=tuple(ops)).versions().get("key", {})
    known: dict[str | None, int] = {value: version for version, value in versions.items() if value}
    tried = [op for op in ops if op.outcome != "unknown" or op.value is None or op.value in known]
    assert (not linearizable.check(ops, versions)) == _explained(tried, 0, None, known)
