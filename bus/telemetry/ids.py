"""Trace and span ids, and the throw that decides whether a new trace is recorded."""

from __future__ import annotations

import os
import random
from typing import Final

_DICE: Final = random.Random()  # noqa: S311  (ids need to differ, they protect nothing)
# Not the module's own: handlers seed that one, and replicas with the same seed would share the ids of their spans.
os.register_at_fork(after_in_child=_DICE.seed)


def recorded(share: float) -> bool:
    """Whether a new trace is one of the `share` (0 to 1) that are recorded."""
    return share >= 1.0 or _DICE.random() < share


def dropped_parent() -> str:
    """The `traceparent` of a new trace that is not recorded."""
    return f"00-{trace_id():032x}-{span_id():016x}-00"


def trace_id() -> int:
    """A new one, of 128 bits."""
    return _DICE.getrandbits(128) or 1


def span_id() -> int:
    """A new one, of 64 bits."""
    return _DICE.getrandbits(64) or 1
