"""What differs between two plain values, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from actors.memory.lists import matches
from actors.memory.plain import ABSENT, frozen, place, same

Path = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two values differ."""

    path: str
    """As `stats.runs` or `items[3]`; `.` is the value itself. An item that was removed stood there in the old list; any
    other stands there in the new one."""
    kind: Literal["added", "removed", "changed"]
    old: Any = None
    new: Any = None


def diff(old: Any, new: Any) -> list[Difference]:
    """What has to be done to `old` to have `new`, in the order of their keys and items; either may be `plain.ABSENT`.

    Of a list the items are told that came and went; where as many came as went at one place, they are compared.
    """
    found, waiting = list[Difference](), [((), old, new)]
    while waiting:  # not by recursion: a value may be nested deeper than Python recurses
        path, was, now = waiting.pop()
        if type(was) is type(now) is dict:
            waiting += reversed(list(_maps(path, was, now)))
        elif type(was) is type(now) is list:
            waiting += reversed(list(_lists(path, was, now)))
        elif was is ABSENT and now is not ABSENT:
            found.append(Difference(place(path), "added", new=now))
        elif now is ABSENT and was is not ABSENT:
            found.append(Difference(place(path), "removed", old=was))
        elif not same(was, now):
            found.append(Difference(place(path), "changed", was, now))
    return found


def _maps(path: Path, was: dict[Any, Any], now: dict[Any, Any]) -> Iterator[tuple[Path, Any, Any]]:
    old, new = {frozen(key): key for key in was}, {frozen(key): key for key in now}
    for key, real in {**old, **new}.items():
        yield (*path, real), was[old[key]] if key in old else ABSENT, now[new[key]] if key in new else ABSENT


def _lists(path: Path, was: list[Any], now: list[Any]) -> Iterator[tuple[Path, Any, Any]]:
    since = to = 0
    for at, stands in [*matches(was, now), (len(was), len(now))]:
        gone, come = range(since, at), range(to, stands)
        if len(gone) == len(come):
            yield from (((*path, range(j, j + 1)), was[i], now[j]) for i, j in zip(gone, come, strict=True))
        else:
            yield from (((*path, range(i, i + 1)), was[i], ABSENT) for i in gone)
            yield from (((*path, range(j, j + 1)), ABSENT, now[j]) for j in come)
        since, to = at + 1, stands + 1
