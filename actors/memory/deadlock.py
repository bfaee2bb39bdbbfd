"""Circles of those that wait for each other. Pure: it is told who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


class Wait(NamedTuple):
    """That an owner waits for others."""

    owner: str
    table: str
    """The key of the table in which it waits."""
    id: str
    place: int
    """The revision with which it began to wait; whoever has the highest came last."""
    for_: frozenset[str]
    """The owners of what is in its way."""


def circle(start: str, waits: Callable[[str], Sequence[Wait]]) -> list[Wait]:
    """The waits that lead from an owner back to itself; empty where none do. `waits` says what an owner waits for.

    Everybody is asked once, however many ways lead to him, and nobody but whom a way leads to.
    """
    way: list[Wait] = []
    open_: list[Iterable[tuple[Wait, str]]] = [iter(_steps(waits(start)))]
    seen: set[str] = set()
    while open_:
        step = next(iter(open_[-1]), None)
        if step is None:
            open_.pop()
            if way:
                way.pop()
            continue
        wait, owner = step
        if owner == start:
            return [*way, wait]
        if owner in seen:
            continue
        seen.add(owner)
        way.append(wait)
        open_.append(iter(_steps(waits(owner))))
    return []


def _steps(waits: Iterable[Wait]) -> Iterable[tuple[Wait, str]]:
    return [(wait, owner) for wait in waits for owner in sorted(wait.for_)]


def youngest(circle_: Iterable[Wait]) -> Wait:
    """Whoever joined a circle last, and is to leave it."""
    return max(circle_, key=lambda wait: (wait.place, wait.table, wait.id))
