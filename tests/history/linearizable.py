"""Whether what clients saw of a key can be told as a story in which one thing happens after the other, each between its
call and its answer: linearizability (Herlihy and Wing 1990), checked as Lowe does ("Testing for linearizability",
2017), with all stories told at once.

A story goes on when an answer comes: whoever has not had that call happen yet lets calls happen until it has. What
stands under a key is a version and a value. The versions that writes were answered with fix their order; what was
never answered may have happened or not, and is let happen only where that helps.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from tests.history.records import History, Op, Seen, Violation, by_key

RULE = "linearizable"


class State(NamedTuple):
    """What stands under the key."""

    version: int
    value: str | None
    sure: bool = True
    """False: the version is some number above this one, for nobody was told it."""


class Story(NamedTuple):
    """One way to tell what happened so far."""

    state: State
    written: int
    """Of the writes whose version is known."""
    happened: frozenset[int]
    """Calls that have not been answered, but have happened."""


START = State(0, None)


def violations(history: History) -> Iterator[Violation]:
    """What is wrong with each key; the first thing of each, for what follows it follows from it."""
    found, seen = history.versions(), history.seen()
    for key, ops in sorted(by_key(history.ops).items()):
        wrong = _values(key, ops, seen.get(key, [])) or check(ops, found.get(key, {}))
        if wrong:
            yield Violation(RULE, wrong)


def _values(key: str, ops: list[Op], evidence: list[Seen]) -> str:
    """What the versions contradict by themselves."""
    written = {op.value: op for op in ops if op.value is not None}
    stands: dict[int, Seen] = {}
    versions: dict[str, Seen] = {}
    for seen in evidence:
        if not seen.version:
            continue
        other = stands.setdefault(seen.version, seen)
        if other != seen:
            return f"{key} is {other.value} and {seen.value} in one version, {seen.version}"
        if seen.value is None:
            continue
        if versions.setdefault(seen.value, seen) != seen:
            both = f"versions {versions[seen.value].version} and {seen.version}"
            return f"{key} was written once, but stands in {both}: {written.get(seen.value)}"
        op = written.get(seen.value)
        if op is None:
            return f"{key} is {seen.value} in version {seen.version}, which nobody wrote"
        if op.outcome == "refused":
            return f"{key} is {seen.value} in version {seen.version}, which was refused: {op}"
    return ""


def check(ops: Iterable[Op], versions: dict[int, str | None]) -> str:
    """What is wrong with the calls about one key; empty: nothing. `versions` are those that anybody saw of it."""
    known = {value: version for version, value in versions.items() if value is not None}
    search = _Search(list(_of_use(ops, known)))
    return search.run()


def _of_use(ops: Iterable[Op], known: dict[str, int]) -> Iterator[Op]:
    """The calls that say anything: a value that nobody saw needs not to have stood there."""
    for op in ops:
        if op.outcome == "done":
            yield op
        elif op.outcome == "refused":
            if op.seen is not None:
                yield op
        elif op.kind == "delete":
            yield op
        elif op.kind == "put" and op.value in known:
            yield replace(op, seen=Seen(known[op.value], op.value))


class _Search:
    """All stories of one key."""

    def __init__(self, ops: list[Op]) -> None:
        self._ops = ops
        self._never = frozenset(number for number, op in enumerate(ops) if op.outcome == "unknown")
        order = sorted(
            (op.seen.version, number)
            for number, op in enumerate(ops)
            if op.writes and op.outcome != "refused" and op.seen is not None and op.seen.version is not None
        )
        self._order = [number for _, number in order]
        self._place = {number: place for place, number in enumerate(self._order)}
        self._pending: set[int] = set()
        self._free: dict[int, None] = {}
        """Those of them that do not wait for a place in the order, the oldest first."""

    def run(self) -> str:
        calls = [(op.start, 0, number) for number, op in enumerate(self._ops)]
        answers = [(op.end, 1, number) for number, op in enumerate(self._ops) if op.outcome != "unknown"]
        stories = [Story(START, 0, frozenset())]
        for _, answered, number in sorted(calls + answers):
            if not answered:
                self._pending.add(number)
                if number not in self._place:
                    self._free[number] = None
                continue
            told = list(self._until(number, stories))
            if not told:
                return self._why(number, stories)
            self._pending.discard(number)
            self._free.pop(number, None)
            stories = told
        return ""

    def _until(self, number: int, stories: list[Story]) -> Iterator[Story]:
        """Every way to go on until a call has happened, but for those that another is as good as."""
        least: dict[tuple[State, int, frozenset[int]], list[frozenset[int]]] = {}
        ways = [(len(story.happened & self._never), place, story) for place, story in enumerate(stories)]
        heapq.heapify(ways)
        count = len(ways)
        while ways:
            _, _, story = heapq.heappop(ways)
            extra = story.happened & self._never
            others = least.setdefault((story.state, story.written, story.happened - self._never), [])
            if any(other <= extra for other in others):
                continue  # there, fewer of the unanswered have happened, which are free to happen later
            others.append(extra)
            if number in story.happened:
                yield story._replace(happened=story.happened - {number})
                continue
            for more in self._next(story):
                count += 1
                heapq.heappush(ways, (len(more.happened & self._never), count, more))

    def _next(self, story: Story) -> Iterator[Story]:
        looks = [
            number
            for number in self._free
            if number not in story.happened and self._changes_nothing(number, story.state)
        ]
        if looks:  # who only looks, and sees what stands there, may as well look now
            yield story._replace(happened=story.happened.union(looks))
            return
        if story.written < len(self._order) and (number := self._order[story.written]) in self._pending:
            state = after(story.state, self._ops[number])
            if state is not None:
                happened = story.happened | {number} if number not in self._never else story.happened
                yield Story(state, story.written + 1, happened)
        alike: set[int | None] = set()
        for number in self._free:
            op = self._ops[number]
            if number in story.happened or (number in self._never and op.base in alike):
                continue
            if number in self._never:
                alike.add(op.base)  # what is never answered may happen in each other's place
            state = after(story.state, op)
            if state is not None:
                yield Story(state, story.written, story.happened | {number})

    def _changes_nothing(self, number: int, state: State) -> bool:
        op = self._ops[number]
        return (not op.writes or op.outcome == "refused") and after(state, op) == state

    def _why(self, number: int, stories: list[Story]) -> str:
        op = self._ops[number]
        states = {f"{one.state.value}@{one.state.version}" + ("" if one.state.sure else "+") for one in stories}
        beside = [str(self._ops[one]) for one in self._pending if one != number]
        last = sorted((one for one in self._ops if one.end < op.start and one.writes), key=lambda one: one.end)[-3:]
        lines = [f"no order of calls explains {op}", f"before its answer stood {', '.join(sorted(states))}"]
        lines += ["the last writes answered before it", *(f"  {one}" for one in last)]
        lines += ["beside it ran", *(f"  {one}" for one in sorted(beside)[:12])]
        return "\n  ".join(lines)


def after(state: State, op: Op) -> State | None:
    """What stands there after a call; None: it cannot have happened in this state."""
    if not op.writes:
        assert op.seen is not None, op
        return _sees(state, op.seen)
    if op.outcome == "refused":
        assert op.seen is not None, op
        seen = _sees(state, op.seen)
        return (
            None if seen is None or (seen.sure and _based(seen, op.base)) or (op.base == 0 and not seen.value) else seen
        )
    based = _based(state, op.base)
    if based is None:
        return None
    version = op.seen.version if op.seen else None
    if version is None:
        return State(based.version, op.value, sure=False)
    return State(version, op.value) if version > based.version else None


def _sees(state: State, seen: Seen) -> State | None:
    """What stands there, if it is what was seen."""
    if seen.value != state.value:
        return None
    if seen.version is None or (state.sure and seen.version == state.version):
        return state
    return State(seen.version, state.value) if not state.sure and seen.version > state.version else None


def _based(state: State, base: int | None) -> State | None:
    """What stands there, if a write with this base goes through."""
    if base is None or (base == 0 and state.value is None):
        return state
    if state.sure:
        return state if base == state.version else None
    return State(base, state.value) if base > state.version else None
