"""What clients of shared memory did and saw, as the checks take it. Times are of one machine's monotonic clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["get", "put", "delete"]
Outcome = Literal["done", "refused", "unknown"]
"""`refused`: the store said no, and nothing was to be changed. `unknown`: no answer came; it may have happened at any
time after its start, or never."""


class Seen(NamedTuple):
    """One version of a key, as somebody saw it."""

    version: int | None
    """None: what was seen says nothing of it, as a `get` that finds nothing."""
    value: str | None
    """None: there is nothing, or it is deleted. No two writes write the same value."""


class Shown(NamedTuple):
    """The fence that a write showed."""

    lock: str
    token: int


@dataclass(frozen=True)
class Op:
    """One call of one client."""

    client: str
    kind: Kind
    key: str
    start: float
    end: float = math.inf
    outcome: Outcome = "done"
    value: str | None = None
    """What is to be written; None for a delete."""
    base: int | None = None
    """What must stand there: that version, or nothing for 0; None: whatever."""
    seen: Seen | None = None
    """What a `get` found, the version that a write made, or what stood in its way; None: nothing is known of it."""
    fence: Shown | None = None

    @property
    def writes(self) -> bool:
        return self.kind != "get"

    def __str__(self) -> str:
        what = f"{self.kind}({self.key}" + (f", {self.value}" if self.value else "")
        what += f", base={self.base}" if self.base is not None else ""
        saw = f" {self.seen.value}@{self.seen.version}" if self.seen else ""
        return f"{self.client}: {what}) {self.outcome}{saw} [{self.start:.4f}, {self.end:.4f}]"


@dataclass(frozen=True)
class Hold:
    """One lock in one client's hands: from when he knew of it until he gave it back, or his lease ended by what he
    knew of its last renewal, whichever was earlier.
    """

    client: str
    lock: str
    mode: str
    token: int
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.client}: {self.mode} {self.lock}, token {self.token} [{self.start:.4f}, {self.end:.4f}]"


class Change(NamedTuple):
    """What a watcher was told, and when."""

    key: str
    seen: Seen
    at: float


@dataclass(frozen=True)
class Watcher:
    """One watcher, and all that it was told, in this order."""

    name: str
    prefix: str
    changes: tuple[Change, ...]
    complete: bool = True
    """Whether it was there until the end, and had the time to hear all of it."""
    replay: bool = False
    """Whether it asked for what stands there and what follows; else for all that is still kept."""


@dataclass(frozen=True)
class History:
    """All of it. `final` is what the store holds of each key at the end, the oldest version first."""

    ops: tuple[Op, ...] = ()
    holds: tuple[Hold, ...] = ()
    watchers: tuple[Watcher, ...] = ()
    final: dict[str, tuple[Seen, ...]] = field(default_factory=dict)
    depth: int = 16
    """Versions of a key that the store keeps."""

    def evidence(self) -> Iterator[tuple[str, Seen]]:
        """Whatever anybody saw of any key, with what he saw of it."""
        for op in self.ops:
            if op.seen is not None:
                what = Seen(op.seen.version, op.value) if op.writes and op.outcome == "done" else op.seen
                yield op.key, what
        for watcher in self.watchers:
            yield from ((change.key, change.seen) for change in watcher.changes)
        for key, versions in self.final.items():
            yield from ((key, seen) for seen in versions)

    def seen(self) -> dict[str, list[Seen]]:
        """The same, by key."""
        found: dict[str, list[Seen]] = {}
        for key, seen in self.evidence():
            found.setdefault(key, []).append(seen)
        return found

    def versions(self) -> dict[str, dict[int, str | None]]:
        """All versions that anybody saw, by key."""
        found: dict[str, dict[int, str | None]] = {}
        for key, seen in self.evidence():
            if seen.version:
                found.setdefault(key, {})[seen.version] = seen.value
        return found


@dataclass(frozen=True)
class Violation:
    """One thing that must not be."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


def by_key(ops: Iterable[Op]) -> dict[str, list[Op]]:
    """Calls by the key that they are about."""
    found: dict[str, list[Op]] = {}
    for op in ops:
        found.setdefault(op.key, []).append(op)
    return found
