"""In which condition an instance is, from what it says and what others have found. Pure: no clock, no network.

| condition | means |
|---|---|
| starting | it has registered and does not work yet |
| idle | it works, and has nothing to do |
| busy | it works |
| degraded | it works, and not as it should |
| paused | somebody told it to take nothing |
| draining | it finishes what it has and leaves |
| suspect | it may be gone, or does not hear its queue |
| error | it lives, and cannot work |
| dead | its lease ran out |

Who is idle, busy or degraded is found; nobody should choose another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from actors.registry.model import Condition, Instance
from bus.settings import LATE

FOUND: Final[frozenset[Condition]] = frozenset({"idle", "busy", "degraded"})
"""Who is in one of these is found, by those who look for somebody to do something."""


class Finding(NamedTuple):
    """A condition, and why."""

    condition: Condition
    reason: str = ""


def find(instance: Instance, *, suspicion: str, age: float, heartbeat: float, pauses: Mapping[str, str]) -> Finding:
    """In which condition an instance is. The worst that can be said of it counts.

    `suspicion` is what others have found, empty for nothing; `age` is seconds since its lease was renewed, which should
    be done every `heartbeat` seconds; `pauses` says which capabilities are paused, and why.
    """
    if age > LATE * heartbeat:
        return Finding("suspect", f"its lease was not renewed for {age:.1f} s")
    if suspicion:
        return Finding("suspect", suspicion)
    if instance.state != "ready":
        return Finding(instance.state)
    if instance.paused:
        return Finding("paused", instance.paused)
    stopped = [name for name in instance.capabilities if name in pauses]
    if stopped and len(stopped) == len(instance.capabilities):
        return Finding("paused", "; ".join(f"{name} is paused: {pauses[name]}" for name in sorted(stopped)))
    return _at_work(instance, stopped, pauses)


def _at_work(instance: Instance, stopped: list[str], pauses: Mapping[str, str]) -> Finding:
    health = instance.health
    if health is not None and health.error:
        return Finding("error", health.error)
    reasons = list(health.degraded) if health is not None else []
    reasons += [f"the breaker of {name} is {state}" for name, state in sorted(instance.breakers.items())]
    if reasons:
        return Finding("degraded", "; ".join(reasons))
    why = "; ".join(f"{name} is paused: {pauses[name]}" for name in sorted(stopped))
    return Finding("busy" if instance.running or instance.waiting else "idle", why)
