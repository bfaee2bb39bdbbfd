"""Trace and span ids, and the throw that decides whether a new trace is recorded."""

from __future__ import annotations

import os
import random
from typing import Final

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

_DICE: Final = random.Random()  # noqa: S311  (ids need to differ, they protect nothing)
# Not the module's own: handlers seed that one, and replicas with the same seed would share the ids of their spans.
os.register_at_fork(after_in_child=_DICE.seed)


def recorded(share: float) -> bool:
    """Whether a new trace is one of the `share` (0 to 1) that are recorded."""
    return share >= 1.0 or _DICE.random() < share


def trace_id() -> int:
    """A new one, of 128 bits."""
    return _DICE.getrandbits(128) or 1


def span_id() -> int:
    """A new one, of 64 bits."""
    return _DICE.getrandbits(64) or 1


class Ids(RandomIdGenerator):
    """The same ids for the SDK."""

    def generate_trace_id(self) -> int:
        """A new one, of 128 bits."""
        return trace_id()

    def generate_span_id(self) -> int:
        """A new one, of 64 bits."""
        return span_id()
