"""How lists differ, and three-way merges of them (diff3). Pure."""

from __future__ import annotations

import itertools
from collections import Counter
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
    than `MAX_EDITS` (or are long, and by nearly as much). Of equal items the first that can be is taken, in both lists,
    so that one change looks the same whatever else was changed.
    """
    left, right = [frozen(item) for item in old], [frozen(item) for item in new]
    shorter = min(len(left), len(right))
    head = next((i for i in range(shorter) if left[i] != right[i]), shorter)
    tail = next((i for i in range(shorter - head) if left[-1 - i] != right[-1 - i]), shorter - head)
    inner = _inner(left[head : len(left) - tail], right[head : len(right) - tail])
    found = [(i, i) for i in range(head)]
    found += [(head + one, head + other) for one, other in inner]
    found += [(len(left) - i, len(right) - i) for i in range(tail, 0, -1)]
    items = [left[i] for i, _ in found]
    return list(zip(_first(items, left), _first(items, right), strict=True))


def _first(items: list[Any], within: list[Any]) -> Iterator[int]:
    """The first places at which items stand in a list that has all of them in this order."""
    at = -1
    for item in items:
        at = within.index(item, at + 1)
        yield at


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
    for old, mine, other in _pieces(base, ours, theirs):
        part = (base[old.start : old.stop], ours[mine.start : mine.stop], theirs[other.start : other.stop])
        items, found = _merge_piece(*part)
        merged += items
        clashes += [
            Clash(range(old.start + one.place.start, old.start + one.place.stop), one.inserted) for one in found
        ]
        if old.stop < len(base):
            merged.append(base[old.stop])
    return merged, clashes


def _pieces(base: list[Any], ours: list[Any], theirs: list[Any]) -> Iterator[tuple[range, range, range]]:
    """What stands between the items that each of the three has once, and in the same order to all others of this kind.

    Between two of them nothing else is looked at, so that a change that both made is one wherever they changed more.
    """
    sides = [[frozen(item) for item in side] for side in (base, ours, theirs)]
    places = [{item: place for place, item in enumerate(side)} for side in sides]
    counts = [Counter(side) for side in sides]
    fixed = [item for item in sides[0] if all(count[item] == 1 for count in counts)]
    kept = [True] * len(fixed)
    for place in places[1:]:
        order = [place[item] for item in fixed]
        before = itertools.accumulate(order, max)
        after = list(itertools.accumulate(reversed(order), min))[::-1]
        kept = [now and most == at == least for now, most, at, least in zip(kept, before, order, after, strict=True)]
    starts = [0, 0, 0]
    for item in itertools.compress(fixed, kept):
        ends = [place[item] for place in places]
        yield range(starts[0], ends[0]), range(starts[1], ends[1]), range(starts[2], ends[2])
        starts = [end + 1 for end in ends]
    yield range(starts[0], len(base)), range(starts[1], len(ours)), range(starts[2], len(theirs))


def _merge_piece(base: list[Any], ours: list[Any], theirs: list[Any]) -> tuple[list[Any], list[Clash]]:
    if same(ours, theirs):
        return ours, []
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
