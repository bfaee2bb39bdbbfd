"""What differs between two plain values, for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two values differ."""

    path: str
    """As `stats.runs` or `items[3]`; `.` is the value itself."""
    kind: Literal["added", "removed", "changed"]
    old: Any = None
    new: Any = None


def diff(old: Any, new: Any) -> list[Difference]:
    """What has to be done to `old` to have `new`, in the order of their keys and items; either may be `plain.ABSENT`."""
    raise NotImplementedError
