"""How lists differ, and three-way merges of them (diff3). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.memory.plain import frozen, same

MAX_EDITS: Final = 250
MAX_STEPS: Final = 500_000
"""Between two lists that differ by more, no common items are looked for but at both ends: who merges serves others,
too, and so much takes 0.1 s."""

Match = tuple[int, int]
"""Places of one item in both lists."""


@dataclass(frozen=True, slots=True)
class Clash:
    """A stretch of the ancestor that both changed, and not to the same."""

    place: range
    inserted: bool
    """Both put something before `place.start`, and nothing else."""


def matches(old: Sequence[Any], new: Sequence[Any]) -> list[Match]:
    """The items that both lists have, in order: as many as there can be (Myers, 1986), unless the two differ by more
    than `MAX_EDITS` (or are long, and by nearly as much).
    """
    left, right = [frozen(item) for item in old], [frozen(item) for item in new]
    shorter = min(len(left), len(right))
    head = next((i for i in range(shorter) if left[i] != right[i]), shorter)
    tail = next((i for i in range(shorter - head) if left[-1 - i] != right[-1 - i]), shorter - head)
    inner = _inner(left[head : len(left) - tail], right[head : len(right) - tail])
    found = [(i, i) for i in range(head)]
    found += [(head + one, head + other) for one, other in inner]
    return found + [(len(left) - i, len(right) - i) for i in range(tail, 0, -1)]


def _inner(left: list[Any], right: list[Any]) -> list[Match]:
    """The same for two lists that differ at both ends: forwards for how many edits it takes, then back by the way."""
    reached, trail, steps = {1: 0}, list[dict[int, int]](), 0
    for edits in range(min(len(left) + len(right), MAX_EDITS) + 1):
        trail.append(dict(reached))
        for line in range(-edits, edits + 1, 2):
            down = line == -edits or (line != edits and reached[line - 1] < reached[line + 1])
            start = at = reached[line + 1] if down else reached[line - 1] + 1
            while at < len(left) and at - line < len(right) and left[at] == right[at - line]:
                at += 1
            reached[line] = at
            steps += at - start
            if at >= len(left) and at - line >= len(right):
                return _back(trail, len(left), len(right))
        if steps > MAX_STEPS:
            break
    return []


def _back(trail: list[dict[int, int]], at: int, other: int) -> list[Match]:
    found = list[Match]()
    for edits in range(len(trail) - 1, -1, -1):
        reached, line = trail[edits], at - other
        down = line == -edits or (line != edits and reached[line - 1] < reached[line + 1])
        before = line + 1 if down else line - 1
        start = reached[before] if edits else 0
        least = (start if down else start + 1) if edits else 0
        while at > least:
            at, other = at - 1, other - 1
            found.append((at, other))
        if edits:
            at, other = start, start - before
    return found[::-1]


def merge_lists(base: list[Any], ours: list[Any], theirs: list[Any]) -> tuple[list[Any], list[Clash]]:
    """Both changes made, and the stretches where they contradict each other: each changed the same stretch of the
    ancestor, or stretches that touch, or put something in at the same place, unless both did the same.
    """
    merged, clashes = list[Any](), list[Clash]()
    for old, mine, other in _stretches(base, ours, theirs):
        was, we, they = base[old.start : old.stop], ours[mine.start : mine.stop], theirs[other.start : other.stop]
        if same(we, was):
            merged += they
        elif same(they, was) or same(we, they):
            merged += we
        else:
            clashes.append(Clash(old, not old))
        if old.stop < len(base):
            merged.append(base[old.stop])
    return merged, clashes


def _stretches(base: list[Any], ours: list[Any], theirs: list[Any]) -> Iterator[tuple[range, range, range]]:
    """What stands in each of the three before, between and after the items of the ancestor that stand in all."""
    mine, other = dict(matches(base, ours)), dict(matches(base, theirs))
    was = we = they = 0
    for place in range(len(base)):
        if place in mine and place in other:
            yield range(was, place), range(we, mine[place]), range(they, other[place])
            was, we, they = place + 1, mine[place] + 1, other[place] + 1
    yield range(was, len(base)), range(we, len(ours)), range(they, len(theirs))
