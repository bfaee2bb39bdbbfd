"""Shared memory: entries with versions, conflicts and locks, which agents can trust.

All of it stands in the bucket MEMORY, so that no coordinator has a state that the others lack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.memory.actor import Coordinator

__all__ = ["Coordinator"]


def __getattr__(name: str) -> Any:
    """The coordinator is loaded where one runs: who only uses shared memory need not wait for it."""
    if name == "Coordinator":
        from actors.memory.actor import Coordinator  # noqa: PLC0415

        return Coordinator
    raise AttributeError(f"module 'actors.memory' has no attribute {name!r}")
