"""What becomes of a write, by the strategy of its namespace. Pure: the caller reads before and stores after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.memory.backend import Author, Outcome, Write
from actors.memory.model import Alternative, Entry, Namespace
from bus.errors import BusError


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be stored as the next version, on the condition that what stood there still does; or `refused`."""

    outcome: Outcome = "written"
    value: Any = None
    deleted: bool = False
    ttl: float = 0.0
    rank: int = 0
    merged: int = 0
    """The version that stood there and was merged with the write; 0: none."""
    alternatives: tuple[Alternative, ...] = ()
    """The whole conflict set of the next version."""
    refused: BusError | None = None
    """Nothing is to be stored, and this is to be raised."""


def decide(
    how: Namespace,
    write: Write,
    author: Author,
    standing: Entry | None,
    *,
    ancestor: Entry | None = None,
    known: bool = True,
    at: float,
) -> Decision:
    """What becomes of `write` where `standing` is the newest version (None: nothing was ever written).

    `ancestor` is the version that the write is based on; `known` is false where it is no longer kept. Neither matters
    but for `merge`, and there only where the write is based on a version that is not the newest. `at` is the writer's
    clock, unix seconds. That the base is a version that the key has had is the caller's to see to.
    """
    raise NotImplementedError
