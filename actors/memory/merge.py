"""Three-way merges of plain values. Pure: what is merged was read by others, and is stored by others."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from actors.memory import rules as _rules
from actors.memory.lists import merge_lists
from actors.memory.plain import ABSENT, frozen, place, same
from bus import codec, subjects
from bus.errors import ConfigError, EncodeError
from bus.messages import MSGPACK

Merger = Callable[[Any, Any, Any], Any]
"""A function of one's own: `(base, ours, theirs) -> value`, where base is None if there was none."""

F = TypeVar("F", bound=Merger)

MAX_DEPTH: Final = 100
"""Maps within maps that are merged key by key; what is deeper is changed as a whole."""

_MERGERS: Final[dict[str, Merger]] = {}


@dataclass(frozen=True, slots=True, order=True)
class Contradiction:
    """What cannot be merged."""

    path: str
    """Where, as `stats.runs` or `items[3]`; `.` is the value itself."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a merge: a value, or contradictions."""

    value: Any = None
    """Of no meaning where there are contradictions; `plain.ABSENT`: both let it be deleted."""
    contradictions: tuple[Contradiction, ...] = ()

    @property
    def reason(self) -> str:
        """The contradictions, for people; the first few of many."""
        shown = "; ".join(map(str, self.contradictions[:5]))
        return f"{shown}; and {len(self.contradictions) - 5} more" if len(self.contradictions) > 5 else shown


def merge(base: Any, ours: Any, theirs: Any, rules: Mapping[str, str] | None = None) -> Merged:
    """What becomes of `base` when both its changes are made, ours and theirs; each of the three may be `plain.ABSENT`.

    Maps are merged key by key, lists stretch by stretch against the ancestor (diff3), and anything else is changed as a
    whole. What the two changed differently, or one deleted and the other changed, is a contradiction. Nothing is lost
    that nobody deleted. `rules` say for places (`actors.memory.rules`) that numbers there are counters, lists are sets
    or are appended to, or which registered function merges; what is of another type there is merged as elsewhere.

    Whose change is called ours makes no difference but to the order of a map's keys and of a set's items, of what is
    appended (what stands there, theirs, is first), and to functions of one's own. Both changes made alike are one, but
    for counters and for what is appended. The values are plain and are left as they are; parts of them are parts of
    the result.
    """
    run = _Run(_rules.compiled(rules or {}))
    try:
        value = run.merge((), base, ours, theirs)
    except RecursionError:
        return Merged(contradictions=(Contradiction(".", "it is nested too deeply to be compared"),))
    return Merged(contradictions=tuple(sorted(run.found))) if run.found else Merged(value)


def merger(name: str) -> Callable[[F], F]:
    """Register a function `(base, ours, theirs) -> value` as a rule that namespaces can name, in this process.

    It is called where both changed a value, be it alike, with copies; base is None where there was none. What it raises
    is a contradiction, as is a value without a wire form.

    Raises:
        ConfigError: another function has that name, or it is awaited.
        InvalidSubjectError: no rule can be called so.
    """
    if subjects.token(name, "rule") in _rules.BUILT_IN:
        raise ConfigError(f"merger {name}", "this rule comes with Revo; call yours otherwise")

    def register(function: F) -> F:
        if inspect.iscoroutinefunction(function):
            raise ConfigError(f"merger {name}", "it must be a plain function: nothing can be awaited in a merge")
        known = _MERGERS.get(name, function)
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ConfigError(f"merger {name}", f"{known.__module__}.{known.__qualname__} has that name already")
        _MERGERS[name] = function
        return function

    return register


Path = tuple[Any, ...]


@dataclass(slots=True)
class _Run:
    """One merge: its rules, and the contradictions found so far."""

    rules: _rules.Rules
    found: list[Contradiction] = field(default_factory=list)

    def merge(self, path: Path, base: Any, ours: Any, theirs: Any) -> Any:
        was = {} if base is ABSENT else base
        if type(was) is type(ours) is type(theirs) is dict and len(path) < MAX_DEPTH and not self._is_custom(path):
            return self._maps(path, was, ours, theirs)  # not compared first: that would be done anew on every level
        if same(ours, base):
            return theirs
        if same(theirs, base):
            return ours
        if ours is ABSENT or theirs is ABSENT:
            both = ours is theirs
            return ABSENT if both else self._clash(path, "one deleted it, and the other changed it")
        return self._both(path, base, ours, theirs)

    def _is_custom(self, path: Path) -> bool:
        return self.rules.custom and self.rules.of(path) not in {"", *_MAKERS}

    def _maps(self, path: Path, base: dict[Any, Any], ours: dict[Any, Any], theirs: dict[Any, Any]) -> dict[Any, Any]:
        merged = dict[Any, Any]()
        was, we, they = _by_type(base), _by_type(ours), _by_type(theirs)
        for key, real in {**they, **we}.items():
            sides = ((base, was), (ours, we), (theirs, they))
            three = (side[keys[key]] if key in keys else ABSENT for side, keys in sides)
            value = self.merge((*path, real), *three)
            if real in merged:
                self._clash(path, "no map has two keys that are equal and of two types, such as 1 and True")
            if value is not ABSENT:
                merged[real] = value
        return merged

    def _both(self, path: Path, base: Any, ours: Any, theirs: Any) -> Any:
        """Both changed it, and have something there."""
        kind = self.rules.of(path)
        if kind and kind not in _MAKERS:
            return self._custom(path, kind, base, ours, theirs)
        made = _MAKERS[kind](base, ours, theirs) if kind else None
        if isinstance(made, str):
            return self._clash(path, made)
        if made is not None:
            return made[0]
        if same(ours, theirs):
            return ours
        was = [] if base is ABSENT else base
        if type(was) is type(ours) is type(theirs) is list:
            merged, clashes = merge_lists(was, ours, theirs)
            for clash in clashes:
                at = clash.place
                if clash.inserted:
                    self._clash(path, f"both put something in at place {at.start}, and not the same")
                else:
                    self._clash((*path, at), "both changed it, and not to the same")
            return merged
        word = "put something there" if base is ABSENT else "changed it"
        return self._clash(path, f"both {word}, and not the same")

    def _custom(self, path: Path, kind: str, base: Any, ours: Any, theirs: Any) -> Any:
        function = _MERGERS.get(kind)
        if function is None:
            return self._clash(path, f"no function is registered as {kind} in the process that merges")
        try:
            made = function(*copy.deepcopy((None if base is ABSENT else base, ours, theirs)))
            return codec.decode(codec.encode(made, subject=kind), MSGPACK)
        except EncodeError as error:
            return self._clash(path, f"what {kind} returned cannot be stored: {error.reason}")
        except Exception as error:  # noqa: BLE001  (whatever somebody else's function raises)
            return self._clash(path, f"{kind} raised {type(error).__name__}: {error}"[:300])

    def _clash(self, path: Path, reason: str) -> None:
        self.found.append(Contradiction(place(path), reason))


def _by_type(value: dict[Any, Any]) -> dict[Any, Any]:
    """The keys by what tells them apart."""
    return {frozen(key): key for key in value}


# --- rules that come with Revo: a value in a tuple, a reason against it, or None: not of its type ---------------

_Made = tuple[Any] | str | None


def _counter(base: Any, ours: Any, theirs: Any) -> _Made:
    numbers = (0 if base is ABSENT else base, ours, theirs)
    if not all(type(one) is int or (type(one) is float and math.isfinite(one)) for one in numbers):
        return None
    total = numbers[2] + numbers[1] - numbers[0]
    fits = math.isfinite(total) if type(total) is float else -(2**63) <= total < 2**64
    return (total,) if fits else f"counted together it is {total}, more than a number can be"


def _set(base: Any, ours: Any, theirs: Any) -> _Made:
    was = [] if base is ABSENT else base
    if not type(was) is type(ours) is type(theirs) is list:
        return None
    old, we, they = ({frozen(item): item for item in items} for items in (was, ours, theirs))
    removed = (old.keys() - we.keys()) | (old.keys() - they.keys())
    return ([item for key, item in {**they, **we}.items() if key not in removed],)


def _append(base: Any, ours: Any, theirs: Any) -> _Made:
    was = [] if base is ABSENT else base
    if not type(was) is type(ours) is type(theirs) is list:
        return None
    if all(same(items[: len(was)], was) for items in (ours, theirs)):
        return (theirs + ours[len(was) :],)
    return (ours,) if same(ours, theirs) else "one of them did more than append"


_MAKERS: Final[dict[str, Callable[[Any, Any, Any], _Made]]] = {
    _rules.COUNTER: _counter,
    _rules.SET: _set,
    _rules.APPEND: _append,
}
