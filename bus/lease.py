"""What a client reads of a lease in the registry: whether its holder may be asked, and how it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bus.choosing import Candidate


@dataclass(slots=True)
class Known:
    """An instance, as its lease has it."""

    candidate: Candidate
    seen: float
    """When its lease was last renewed, by our monotonic clock."""
    ready: bool = False
    paused: bool = False
    """It takes nothing, or says that it cannot work."""
    shut: frozenset[str] = frozenset()
    """The methods whose breaker it says is open."""
    stale: bool = False
    """It has not renewed its lease in time, or did not answer where it said that it listens."""

    def read(self, said: Mapping[str, Any]) -> None:
        """Take what matters of its lease.

        Raises:
            TypeError, ValueError, AttributeError: it is none.
        """
        one, health = self.candidate, said.get("health") or {}
        one.concurrency = max(1, int(said.get("concurrency", 1)))
        one.load = max(0, int(said.get("running", 0)) + int(said.get("waiting", 0)))
        one.cpu = float(health.get("cpu", 0.0))
        one.memory = int(health.get("memory", 0))
        one.lag = float(health.get("lag", 0.0))
        one.error_rate = min(1.0, max(0.0, float(health.get("error_rate", 0.0))))
        took = health.get("requests") or {}
        one.latency = {str(method): max(0.0, float(seconds)) for method, seconds in took.items()}
        one.renewed()
        self.ready = said.get("state") == "ready"
        self.paused = bool(said.get("paused") or health.get("error"))
        self.shut = frozenset(str(name) for name, state in said.get("breakers", {}).items() if state == "open")
