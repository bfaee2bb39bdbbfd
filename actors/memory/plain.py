"""Plain values (maps, lists, scalars) as they are compared and named. Must not know how they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

SHOWN: Final = 64
"""Characters of a key that are shown."""


class _Absent:
    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final[Any] = _Absent()
"""There is no value, which is something else than None. It has no wire form, so none is ever stored."""

Step: TypeAlias = Any
"""The key of a map, or a `range` of places in a list."""


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are the same and of the same types: True is not 1, 1 is not 1.0, -0.0 is not 0.0; not a
    number is itself. The order of a map's keys says nothing.
    """
    pairs = [(one, other)]
    while pairs:  # not by recursion: a value may be nested deeper than Python recurses
        left, right = pairs.pop()
        if left is right:
            continue
        if type(left) is not type(right):
            return False
        if isinstance(left, dict):
            keys = {frozen(key): key for key in right}
            if len(left) != len(right) or any(frozen(key) not in keys for key in left):
                return False
            pairs += [(value, right[keys[frozen(key)]]) for key, value in left.items()]
        elif isinstance(left, list):
            if len(left) != len(right):
                return False
            pairs += zip(left, right, strict=True)
        elif frozen(left) != frozen(right):
            return False
    return True


def frozen(value: Any) -> Any:
    """Something hashable that is equal for values that are `same`, and for no others.

    Raises:
        RecursionError: the value is nested deeper than Python recurses.
    """
    if isinstance(value, dict):
        return ("map", frozenset((frozen(key), frozen(inner)) for key, inner in value.items()))
    if isinstance(value, list):
        return ("list", tuple(frozen(item) for item in value))
    return (type(value), repr(value) if isinstance(value, float) else value)


def place(path: Sequence[Step]) -> str:
    """A place within a value, for people: `stats.runs`, `items[3]`; `.` is the value itself."""
    text = ""
    for step in path:
        if isinstance(step, range):
            text += f"[{step.start}]" if len(step) == 1 else f"[{step.start}:{step.stop}]"
        else:
            text += f".{name(step)}"
    return text.removeprefix(".") or "."


def name(key: Any) -> str:
    """The key of a map, for people: as it is where it is a text that could be nothing else."""
    shown = key if isinstance(key, str) and key and key.isprintable() and not set(key) & set(".[]\"' ") else repr(key)
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
