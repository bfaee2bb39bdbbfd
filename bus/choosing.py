"""Which of the instances that may be asked is asked. Pure: time and chance are handed in, nothing is sent.

Each strategy keeps what it needs up to date as instances come, go and change, so that choosing one of 1,000 costs a few
microseconds. All choose among those that they were given by `put`; who counts at all is not their business.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bus.errors import ConfigError


@dataclass(slots=True)
class Candidate:
    """An instance, as the lease of it and our own asks have it."""

    name: str
    concurrency: int = 1
    load: int = 0
    """Messages that it handles or that wait in it, by its lease."""
    cpu: float = 0.0
    """Cores."""
    memory: int = 0
    """Bytes."""
    lag: float = 0.0
    """Seconds that its event loop was late at worst."""
    error_rate: float = 0.0
    latency: dict[str, float] = field(default_factory=dict)
    """How long the last requests took, in seconds, by method; one that is not in it is not known."""
    ours: int = 0
    """Asks of ours in flight to it that the lease does not count yet."""
    renewals: int = 0

    def began(self) -> int:
        """It is asked from now on; give what this returns to `ended`."""
        self.ours += 1
        return self.renewals

    def ended(self, began: int) -> None:
        """That ask has ended. If the lease was renewed meanwhile, the lease counts it."""
        if began == self.renewals:
            self.ours -= 1
        else:
            self.load = max(0, self.load - 1)

    def renewed(self) -> None:
        """What it says of itself is new, and counts what we asked before."""
        self.renewals += 1
        self.ours = 0


class Strategy(ABC):
    """One way to choose, for one `method`: how an instance does another says nothing of it."""

    method = ""

    @abstractmethod
    def put(self, one: Candidate) -> None:
        """It may be chosen from now on; or what is known of it has changed."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """It may be chosen no more. One that could not be before is left out."""

    @abstractmethod
    def choose(self, key: str, *, now: float, chance: float) -> str:
        """One of them; empty, if there is none. `chance` is from 0 up to but not 1, `now` seconds of any clock."""

    def learn(self, one: Candidate, took: float, *, good: bool, now: float) -> None:  # noqa: B027  (most do not)
        """An ask of ours has ended, after so many seconds."""


class Random(Strategy):
    """Any of them, each as likely."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._at: dict[str, int] = {}

    def put(self, one: Candidate) -> None:
        if one.name not in self._at:
            self._at[one.name] = len(self._names)
            self._names.append(one.name)

    def drop(self, name: str) -> None:
        at = self._at.pop(name, None)
        if at is None:
            return
        last = self._names.pop()
        if last != name:
            self._names[at], self._at[last] = last, at

    def choose(self, key: str, *, now: float, chance: float) -> str:
        return self._names[int(chance * len(self._names))] if self._names else ""


class RoundRobin(Strategy):
    """Each in its turn. Who comes has the last turn of this round."""

    def __init__(self) -> None:
        self._turns: deque[str] = deque()
        self._in: set[str] = set()

    def put(self, one: Candidate) -> None:
        if one.name not in self._in:
            self._in.add(one.name)
            self._turns.append(one.name)

    def drop(self, name: str) -> None:
        if name in self._in:
            self._in.remove(name)
            self._turns.remove(name)

    def choose(self, key: str, *, now: float, chance: float) -> str:
        self._turns.rotate(-1)
        return self._turns[-1] if self._turns else ""


class Sticky(Random):
    """For a key always the same one, in every process: rendezvous hashing. When it goes, its keys are shared out among
    all others, and no other key moves; when one comes, keys move to it alone.

    An instance's score is a byte by tabulation hashing, computed for all of them by a few calls of C, and among those
    with the highest a hash of both names: 9 us for one of 1,000 and a key that is new.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first = bytearray()
        self._second = bytearray()
        """Two bytes of a hash of each name: what is looked up in a key's tables."""

    def put(self, one: Candidate) -> None:
        if one.name not in self._at:
            super().put(one)
            first, second = hashlib.blake2b(one.name.encode(), digest_size=2).digest()
            self._first.append(first)
            self._second.append(second)

    def drop(self, name: str) -> None:
        at = self._at.get(name)
        if at is None:
            return
        super().drop(name)  # which moves the last one to its place
        first, second = self._first.pop(), self._second.pop()
        if at < len(self._first):
            self._first[at], self._second[at] = first, second

    def choose(self, key: str, *, now: float, chance: float) -> str:
        if len(self._names) < 2:
            return self._names[0] if self._names else ""
        said = key.encode(errors="replace")
        tables = hashlib.shake_128(said).digest(512)
        one = int.from_bytes(self._first.translate(tables[:256]), "little")
        other = int.from_bytes(self._second.translate(tables[256:]), "little")
        scores = (one ^ other).to_bytes(len(self._names), "little")
        top = 255
        while (at := scores.find(top)) < 0:
            top -= 1
        best, name = b"", ""
        while at >= 0:
            score = hashlib.blake2b(self._names[at].encode() + b" " + said, digest_size=8).digest()
            best, name = max((best, name), (score, self._names[at]))
            at = scores.find(top, at + 1)
        return name


class _Lowest(Strategy):
    """The one of the lowest cost, and by chance among equals, or all clients would take the same one."""

    def __init__(self) -> None:
        self._rows: dict[float, Random] = {}
        self._cost: dict[str, float] = {}

    @abstractmethod
    def cost(self, one: Candidate) -> float:
        """What it costs to ask it, in steps: the fewer different costs there are, the quicker the choice is."""

    def put(self, one: Candidate) -> None:
        cost = self.cost(one)
        if self._cost.get(one.name) != cost:
            self.drop(one.name)
            self._cost[one.name] = cost
            self._rows.setdefault(cost, Random()).put(one)

    def drop(self, name: str) -> None:
        cost = self._cost.pop(name, None)
        if cost is not None:
            row = self._rows[cost]
            row.drop(name)
            if not row.choose("", now=0.0, chance=0.0):
                del self._rows[cost]

    def choose(self, key: str, *, now: float, chance: float) -> str:
        return self._rows[min(self._rows)].choose(key, now=now, chance=chance) if self._rows else ""


class LeastBusy(_Lowest):
    """The one of whose slots the least share is taken, by its lease and by what we asked of it since."""

    def cost(self, one: Candidate) -> float:
        return (one.load + one.ours) / one.concurrency


class ResourceBased(_Lowest):
    """The one that uses the least: a busy core weighs as much as 4 GiB, or as 100 ms that the loop is late. What we
    asked of it since it said so is taken to use its slots' share of a core.
    """

    def cost(self, one: Candidate) -> float:
        return round(10 * (one.cpu + one.memory / 2**32 + 10 * one.lag + one.ours / one.concurrency))


class Performance(_Lowest):
    """The one that will answer soonest, by how it did lately: how long it took, and how often it failed.

    What others saw of the method stands in its lease, and counts as `PRIOR` asks of our own, so that who has just
    started knows, too. Our own count half after `HALF_LIFE`. A share `EXPLORED` of the asks goes to those that had none
    for `REST` seconds, the longest unasked first, so that a bad start is not for ever.
    """

    PRIOR: Final = 2.0
    HALF_LIFE: Final = 30.0
    EXPLORED: Final = 0.05
    REST: Final = 1.0
    LEAST: Final = 0.0005
    """Seconds: what is quicker is as quick."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[str, float] = {}
        """When each was asked last, the longest ago first."""
        self._seen: dict[str, list[float]] = {}
        """Of each: how many of our asks, how many of them good, their seconds together, and when the last one ended."""

    def put(self, one: Candidate) -> None:
        self._asked.setdefault(one.name, -math.inf)
        super().put(one)

    def choose(self, key: str, *, now: float, chance: float) -> str:
        if chance >= self.EXPLORED:
            name = super().choose(key, now=now, chance=(chance - self.EXPLORED) / (1 - self.EXPLORED))
        else:
            name = self._unasked(now) or super().choose(key, now=now, chance=chance / self.EXPLORED)
        if name:
            self._asked.pop(name)
            self._asked[name] = now
        return name

    def _unasked(self, now: float) -> str:
        while self._asked:
            name = next(iter(self._asked))
            if name in self._cost:
                return name if now - self._asked[name] >= self.REST else ""
            del self._asked[name]  # it may be chosen no more
        return ""

    def learn(self, one: Candidate, took: float, *, good: bool, now: float) -> None:
        seen = self._seen.setdefault(one.name, [0.0, 0.0, 0.0, now])
        left = 0.5 ** (max(0.0, now - seen[3]) / self.HALF_LIFE)
        seen[:] = [seen[0] * left + 1, seen[1] * left + good, seen[2] * left + took, now]
        if len(self._seen) > 2 * len(self._asked) + 100:
            self._seen = {name: seen for name, seen in self._seen.items() if name in self._asked}

    def cost(self, one: Candidate) -> float:
        """Seconds until a good answer, as far as can be told, in steps of a fifth."""
        asks, good, seconds, _ = self._seen.get(one.name, (0.0, 0.0, 0.0, 0.0))
        latency = one.latency.get(self.method, 0.0)
        known = self.PRIOR if latency or not asks else 0.0
        took = max(self.LEAST, (seconds + known * latency) / (asks + known))
        well = max(0.05, (good + self.PRIOR * (1 - one.error_rate)) / (asks + self.PRIOR))
        return round(math.log(took * (1 + one.ours / one.concurrency) / well**2, 1.2))


STRATEGIES: Final[dict[str, Callable[[], Strategy]]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_busy": LeastBusy,
    "resource_based": ResourceBased,
    "performance": Performance,
    "sticky": Sticky,
}


def check(strategy: str) -> str:
    """Return `strategy` if there is one of that name.

    Raises:
        ConfigError: when there is none.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"choose {strategy!r}", f"is none; there are {', '.join(STRATEGIES)}")
    return strategy
