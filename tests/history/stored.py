"""Whether the store still has what it said it has."""

from __future__ import annotations

from collections.abc import Iterator

from tests.history.records import History, Op, Violation

RULE = "kept"


def violations(history: History) -> Iterator[Violation]:
    """Every write that was answered, and is neither there nor pushed out by newer ones; histories out of order."""
    for key, versions in history.final.items():
        numbers = [seen.version for seen in versions]
        if numbers != sorted(set(numbers), key=lambda number: number or 0):
            yield Violation(RULE, f"the history of {key} is out of order: {numbers}")
    for op in history.ops:
        if op.writes and op.outcome == "done" and op.seen is not None and op.seen.version is not None:
            yield from _lost(op, op.seen.version, history)


def _lost(op: Op, version: int, history: History) -> Iterator[Violation]:
    kept = history.final.get(op.key, ())
    for seen in kept:
        if seen.version == version:
            if seen.value != op.value:
                yield Violation(RULE, f"version {version} is {seen.value} by now\n  {op}")
            return
    newer = [seen for seen in kept if seen.version is not None and seen.version > version]
    if len(newer) < history.depth:
        yield Violation(RULE, f"version {version} is lost, and only {len(newer)} newer ones are there\n  {op}")
