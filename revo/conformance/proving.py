"""How a check is declared: a function by the name of its requirement, in the part of a run that it belongs to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, Literal, TypeVar

from revo.conformance.bench import Bench
from revo.conformance.requirements import BY_NAME

Part = Literal["running", "killed", "left", "back", "full", "restarted", "afterwards"]
Check = Callable[[Bench], Coroutine[Any, Any, None] | AsyncGenerator[None, None]]
"""A coroutine, or a generator that yields where it waits for what happens in its part, and perhaps in a later one: the
worker is killed and started (killed), is told to leave (left), is started (back), the server is killed and started
(restarted).
"""
PARTS: Final[tuple[Part, ...]] = ("running", "killed", "left", "back", "full", "restarted", "afterwards")
"""In this order; the checks of one part are made side by side."""
NEED_COMMAND: Final = frozenset[Part]({"killed", "left", "back"})
NEED_SERVER: Final = frozenset[Part]({"full", "restarted"})

CHECKS: Final[dict[str, tuple[Part, Check]]] = {}
"""By the name of the requirement."""

C = TypeVar("C", bound=Check)


def proves(name: str, part: Part) -> Callable[[C], C]:
    """Declare the check of a requirement."""
    assert name in BY_NAME, f"no requirement is called {name}"
    assert name not in CHECKS, f"{name} has a check"

    def keep(check: C) -> C:
        CHECKS[name] = (part, check)
        return check

    return keep
