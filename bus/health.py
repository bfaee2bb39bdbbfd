"""How a process is: what it took, what failed, how late its loop was, what it costs. Read at every heartbeat.

Must not know what is done in the process, nor who is told. Any thread may read; the event loop's alone writes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psutil

HALF_LIFE: Final = 20.0
"""Seconds after which what happened counts half as much."""
REMEMBERED: Final = 256
"""How many of the last durations the quantiles are of."""
WEIGHT: Final = 1 / 16
"""Of the last request in the mean of its method."""
METHODS: Final = 64
"""So many methods are told apart."""
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Cost:
    """What the process has taken since it was last asked."""

    cpu: float
    """Processor time, in cores."""
    memory: int
    """Resident, in bytes."""


class Meter:
    """Counts what came to an end, well or not, the recent counting more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._requests: dict[str, tuple[int, float]] = {}
        """Of each method: how many requests, and how long they took in the mean, the recent ones counting more."""
        self._at = clock()
        self._ended = 0.0
        self._failed = 0.0
        self.done = 0
        """How many there were."""

    def ended(self, took: float, *, failed: bool, method: str = "") -> None:
        """Something came to an end after so many seconds; `method`: a request for that one."""
        now = self._clock()
        if now - self._at > HALF_LIFE / 50:
            decay = math.exp2((self._at - now) / HALF_LIFE)
            self._at = now
            self._ended *= decay
            self._failed *= decay
        self._ended += 1.0
        if failed:
            self._failed += 1.0
        self._took.append(took)
        self.done += 1
        if method:
            count, mean = self._requests.get(method, (0, 0.0))
            if count or len(self._requests) < METHODS:
                self._requests[method] = (count + 1, mean + (took - mean) * max(WEIGHT, 1 / (count + 1)))

    @property
    def error_rate(self) -> float:
        """The share that failed, from 0 to 1."""
        return min(1.0, self._failed / self._ended) if self._ended else 0.0

    @property
    def weight(self) -> float:
        """How many ends that share stands for by now: an old one stands for little."""
        return self._ended * math.exp2((self._at - self._clock()) / HALF_LIFE)

    def latency(self) -> dict[str, float]:
        """Quantiles, in seconds; empty before the first end."""
        for _ in range(3):
            try:
                took = sorted(self._took)
                break
            except RuntimeError:
                continue  # another thread than the loop's asks, and one was added meanwhile
        else:
            return {}
        return {name: round(took[int(share * (len(took) - 1))], 6) for name, share in QUANTILES.items()} if took else {}

    def requests(self) -> dict[str, float]:
        """How long the last requests took in the mean, in seconds, by method."""
        return {method: round(mean, 6) for method, (_, mean) in self._requests.copy().items()}


class Body:
    """The process itself."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._at, self._used = time.monotonic(), time.process_time()
        self._cost = Cost(0.0, self._process.memory_info().rss)

    def cost(self) -> Cost:
        """What it takes; asked again within 50 ms it is the same."""
        now, used = time.monotonic(), time.process_time()
        if now - self._at >= 0.05:
            self._cost = Cost(round((used - self._used) / (now - self._at), 4), self._process.memory_info().rss)
            self._at, self._used = now, used
        return self._cost


class Lag:
    """How late the loop is. `turn` is called when a timer fires that was due at a time of the loop's clock."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._turned = time.monotonic()
        self._worst = 0.0

    def late(self, seconds: float) -> None:
        """The loop was so late."""
        self._turned = time.monotonic()
        self._worst = max(self._worst, seconds)

    def worst(self) -> float:
        """At worst since this was last asked, in seconds; while the loop is blocked, for how long it has been."""
        worst, self._worst = self._worst, 0.0
        return round(max(worst, time.monotonic() - self._turned - self._every, 0.0), 6)
