"""Three-way merges of plain values. Pure: what is merged was read by others, and is stored by others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Merger = Callable[[Any, Any, Any], Any]
"""A function of one's own: `(base, ours, theirs) -> value`, where base is None if there was none."""

F = TypeVar("F", bound=Merger)


@dataclass(frozen=True, slots=True)
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
    """What becomes of `base` when both its changes are made, ours and theirs; each may be `plain.ABSENT`."""
    raise NotImplementedError


def merger(name: str) -> Callable[[F], F]:
    """Register a function `(base, ours, theirs) -> value` as a rule that namespaces can name, in this process."""
    raise NotImplementedError
