"""What is done to a good history so that it is not good any more; each returns None where there is nothing to spoil."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from tests.history.records import History, Hold, Op, Seen, Shown

Spoil = Callable[[History, Random], History | None]
T = TypeVar("T")


def stale_read(history: History, dice: Random) -> History | None:
    """Somebody reads what was overwritten before he asked."""
    found = [
        (read, older)
        for read in _reads(history)
        for older in _stored(history, read.key)
        if older.value and any(_version(older) < _version(newer) for newer in _before(read, history))
    ]
    return _swap(history, dice, [(read, replace(read, seen=Seen(_version(old), old.value))) for read, old in found])


def lost_in_reads(history: History, dice: Random) -> History | None:
    """Somebody finds nothing where something was written before and nothing was deleted since."""
    found = []
    for read in _reads(history):
        deletes = [op for op in history.ops if op.kind == "delete" and op.key == read.key and op.outcome != "refused"]
        before = [op for op in _before(read, history) if op.kind == "put"]
        if before and not any(one.end > before[-1].start and one.start < read.end for one in deletes):
            found.append((read, replace(read, seen=Seen(None, None))))
    return _swap(history, dice, found)


def read_of_the_future(history: History, dice: Random) -> History | None:
    """Somebody reads what is written after he was answered."""
    found = [
        (read, replace(read, seen=later.seen and Seen(later.seen.version, later.value)))
        for read in _reads(history)
        for later in _stored(history, read.key)
        if later.value and later.start > read.end
    ]
    return _swap(history, dice, found)


def lost_write(history: History, dice: Random) -> History | None:
    """A write that was answered is not there at the end."""
    found = [(op.key, seen) for op in _stored(history) for seen in history.final[op.key] if seen == op.seen]
    if not found:
        return None
    key, lost = dice.choice(found)
    return replace(history, final={**history.final, key: tuple(one for one in history.final[key] if one != lost)})


def lost_and_overwritten(history: History, dice: Random) -> History | None:
    """What stands under a version is not what was written."""
    found = [(op.key, seen) for op in _stored(history) for seen in history.final[op.key] if seen == op.seen]
    if not found:
        return None
    key, lost = dice.choice(found)
    other = tuple(Seen(one.version, "another") if one == lost else one for one in history.final[key])
    return replace(history, final={**history.final, key: other})


def twice_from_one_base(history: History, dice: Random) -> History | None:
    """Of two that compare and swap from one version, both succeed."""
    found = [op for op in _stored(history) if op.base and op.value]  # a delete may have come between two of base 0
    if not found:
        return None
    op = dice.choice(found)
    twin = replace(op, client="twin", value=f"{op.value}.twin", seen=Seen(_version(op) + 1, f"{op.value}.twin"))
    final = {**history.final, op.key: _with(history.final[op.key], twin, history.depth)}
    return replace(history, ops=(*history.ops, twin), final=final)


def refused_and_stored(history: History, dice: Random) -> History | None:
    """Who was told that his write is refused finds it stored."""
    found = [op for op in history.ops if op.outcome == "refused" and op.value and history.final[op.key]]
    if not found:
        return None
    op = dice.choice(found)
    kept = history.final[op.key]
    more = (*kept, Seen((kept[-1].version or 0) + 1, op.value))[-history.depth :]
    return replace(history, final={**history.final, op.key: more})


def refused_for_nothing(history: History, dice: Random) -> History | None:
    """Somebody's write is refused although what he named stands there."""
    found = [op for op in _stored(history) if op.base and op.value]
    pairs = []
    for op in found:
        stood = next((one for one in _stored(history, op.key) if _version(one) == op.base and one.value), None)
        beside = [one for one in history.ops if one.writes and one.key == op.key and one not in {op, stood}]
        if stood is not None and not any(one.start < op.end and one.end > stood.start for one in beside):
            refused = replace(op, start=stood.end, end=op.start, outcome="refused", value="refused", seen=stood.seen)
            pairs.append(replace(refused, client="refused"))
    return replace(history, ops=(*history.ops, dice.choice(pairs))) if pairs else None


def two_holders(history: History, dice: Random) -> History | None:
    """A lock is granted to a second one while it is held."""
    if not history.holds:
        return None
    hold = dice.choice(history.holds)
    start = dice.uniform(hold.start, (hold.start + hold.end) / 2)
    other = replace(hold, client="thief", token=hold.token + 1, start=start, end=hold.end)
    return replace(history, holds=(*history.holds, other))


def token_that_does_not_grow(history: History, dice: Random) -> History | None:
    """A later holder has a smaller token."""
    pairs = [(one, other) for one in history.holds for other in history.holds if one.end < other.start]
    pairs = [(one, other) for one, other in pairs if one.client != other.client]
    if not pairs:
        return None
    one, other = dice.choice(pairs)
    small = replace(other, token=one.token - 1)
    return replace(history, holds=tuple(small if hold == other else hold for hold in history.holds))


def stale_fenced_write(history: History, dice: Random) -> History | None:
    """Who holds a lock no more writes under it, and it is stored, although another was granted it."""
    pairs = [
        (op, one)
        for op in _stored(history)
        for one, other in _in_turn(history.holds)
        if op.key.startswith(one.lock) and one.token < other.token < _version(op)
    ]
    changes = [(op, replace(op, fence=Shown(one.lock, one.token))) for op, one in pairs]
    return _swap(history, dice, changes)


def last_not_told(history: History, dice: Random) -> History | None:
    """A watcher misses the last change of a key."""
    found = []
    for place, watcher in enumerate(history.watchers):
        for key, kept in history.final.items():
            mine = [change for change in watcher.changes if change.key == key]
            if mine and kept and mine[-1].seen == kept[-1] and (kept[-1].value or not watcher.replay):
                found.append((place, mine[-1]))
    return _untold(history, dice, found)


def skipped(history: History, dice: Random) -> History | None:
    """A watcher is not told a version between two that it is told."""
    found = []
    for place, watcher in enumerate(history.watchers):
        for key in history.final:
            mine = [change for change in watcher.changes if change.key == key]
            if len(mine) <= history.depth:  # otherwise it might have been pushed out
                found += [(place, change) for change in mine[1:-1]]
    return _untold(history, dice, found)


def out_of_order(history: History, dice: Random) -> History | None:
    """A watcher is told one of two that follow each other too late."""
    found = [(place, one) for place, watcher in enumerate(history.watchers) for one in range(len(watcher.changes) - 1)]
    if not found:
        return None
    place, one = dice.choice(found)
    watcher = history.watchers[place]
    changes = list(watcher.changes)
    changes[one], changes[one + 1] = changes[one + 1], changes[one]
    return _watchers(history, place, changes)


def _untold(history: History, dice: Random, found: Sequence[tuple[int, object]]) -> History | None:
    if not found:
        return None
    place, lost = dice.choice(found)
    return _watchers(history, place, [change for change in history.watchers[place].changes if change != lost])


def _watchers(history: History, place: int, changes: Sequence[object]) -> History:
    told = replace(history.watchers[place], changes=tuple(changes))  # type: ignore[arg-type]
    return replace(history, watchers=(*history.watchers[:place], told, *history.watchers[place + 1 :]))


def _swap(history: History, dice: Random, found: Sequence[tuple[Op, Op]]) -> History | None:
    if not found:
        return None
    old, new = dice.choice(found)
    return replace(history, ops=tuple(new if op is old else op for op in history.ops))


def _reads(history: History) -> list[Op]:
    return [op for op in history.ops if op.kind == "get"]


def _stored(history: History, key: str = "") -> list[Op]:
    """The writes that were answered."""
    return [op for op in history.ops if op.writes and op.outcome == "done" and (not key or op.key == key)]


def _before(read: Op, history: History) -> list[Op]:
    """The writes to its key that were answered before it was asked."""
    return sorted((op for op in _stored(history, read.key) if op.end < read.start), key=_version)


def _version(op: Op) -> int:
    assert op.seen is not None
    return op.seen.version or 0


def _in_turn(holds: Sequence[Hold]) -> list[tuple[Hold, Hold]]:
    ordered = sorted(holds, key=lambda hold: hold.token)
    return list(itertools.pairwise(ordered))


def _with(kept: Sequence[Seen], op: Op, depth: int) -> tuple[Seen, ...]:
    assert op.seen is not None
    return tuple(sorted((*kept, op.seen), key=lambda seen: seen.version or 0)[-depth:])


SPOILS: dict[Spoil, str] = {
    stale_read: "linearizable",
    lost_in_reads: "linearizable",
    read_of_the_future: "linearizable",
    twice_from_one_base: "linearizable",
    refused_and_stored: "linearizable",
    refused_for_nothing: "linearizable",
    lost_write: "kept",
    lost_and_overwritten: "kept",
    two_holders: "alone",
    token_that_does_not_grow: "alone",
    stale_fenced_write: "fenced",
    last_not_told: "told",
    skipped: "told",
    out_of_order: "told",
}
"""Each with the rule that it breaks."""
