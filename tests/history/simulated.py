"""Histories of a store that does what it should, made up: what the checks must let pass, and what tests then spoil.

Each call happens at one moment between its call and its answer. Some are never answered, and happen at any time later,
or never. Holders of the lock freeze and find their lease gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random

from tests.history.records import Change, History, Hold, Op, Seen, Shown, Watcher
from tests.history.watchers import under

KEYS = ("a", "a/b", "c")
LOCK = "a"
LEASE = 3.0
LOST = 0.1
"""Share of the answers that do not come."""


@dataclass
class _Client:
    name: str
    free: float = 0.0
    known: dict[str, int] = field(default_factory=dict)
    hold: Hold | None = None


class _World:
    """The store and its clients, as time goes by."""

    def __init__(self, seed: int, clients: int, depth: int) -> None:
        self.dice = Random(seed)  # noqa: S311
        self.now = 0.0
        self.depth = depth
        self.clients = [_Client(f"client-{number}") for number in range(clients)]
        self.log: list[tuple[float, str, Seen]] = []
        self.ops: list[Op] = []
        self.holds: list[Hold] = []
        self._late: list[tuple[float, Op]] = []
        self._sequence = 0
        self._holder: Hold | None = None

    def step(self) -> None:
        """Somebody who has the time does something."""
        self.now += self.dice.expovariate(4)
        for moment, op in [late for late in self._late if late[0] <= self.now]:
            self._late.remove((moment, op))
            self._write(op)
        client = self.dice.choice(self.clients)
        if client.free < self.now:
            start = self.dice.uniform(max(client.free, self.now - 1), self.now)
            client.free = end = self.now + self.dice.expovariate(3)
            if not (client.name in {"client-0", "client-1"} and self._lock(client, start, end)):
                self._call(client, start, end)

    def _lock(self, client: _Client, start: float, end: float) -> bool:
        """Take the lock, give it back, or forget of it."""
        holder = self._holder
        if holder is not None and self.now > holder.start + LEASE:
            self._holder = holder = None  # a lease is counted from the grant, and the store is the last to know
        if client.hold is not None and self.dice.random() < 0.3:
            self.holds.append(replace(client.hold, end=min(start, client.hold.start + LEASE)))
            self._holder = None if holder == client.hold else holder
            client.hold = None
            return True
        if client.hold is None and holder is None:
            self._holder = client.hold = Hold(client.name, LOCK, "exclusive", self._next(), self.now, math.inf)
            client.free = self.now
            return True
        return False

    def _call(self, client: _Client, start: float, end: float) -> None:
        key = self.dice.choice(KEYS)
        op = Op(client.name, self.dice.choice(("get", "put", "put", "delete")), key, start, end)
        if op.writes:
            value = f"{client.name}.{len(self.ops)}" if op.kind == "put" else None
            base = client.known.get(key, 0) if self.dice.random() < 0.5 else None
            fence = Shown(LOCK, client.hold.token) if client.hold and key.startswith(LOCK) else None
            op = replace(op, value=value, base=base, fence=fence)
        if self.dice.random() < LOST:
            if op.writes:
                op = replace(op, end=math.inf, outcome="unknown")
                self._late.append((self.now + self.dice.expovariate(0.3), op))
                self.ops.append(op)
            return
        op = self._write(op) if op.writes else replace(op, seen=self._read(key))
        self.ops.append(op)
        if op.seen is not None and op.seen.version is not None:
            client.known[key] = op.seen.version

    def _read(self, key: str) -> Seen:
        stands = self._stands(key)
        return stands if stands.value else Seen(None, None)

    def _write(self, op: Op) -> Op:
        stands = self._stands(op.key)
        if op.fence and not (self._holder and self._holder.token == op.fence.token):
            return replace(op, outcome="refused")
        if op.base is not None and not (stands.value is None if op.base == 0 else op.base == stands.version):
            return replace(op, outcome="refused", seen=stands)
        seen = Seen(self._next(), op.value)
        self.log.append((self.now, op.key, seen))
        return replace(op, seen=seen)

    def _stands(self, key: str) -> Seen:
        return next((seen for _, where, seen in reversed(self.log) if where == key), Seen(0, None))

    def _next(self) -> int:
        self._sequence += self.dice.randint(2, 5)
        return self._sequence

    def watched(self, number: int) -> Watcher:
        """What a watcher is told: from the beginning, or from some moment on after what stands there."""
        replay, prefix = bool(number % 2), ("", "a", "c")[number % 3]
        since = self.dice.uniform(0, self.now) if replay else 0.0
        stood: dict[str, Change] = {}
        later: list[Change] = []
        for at, key, seen in self.log:
            if under(key, prefix):
                if at < since:
                    stood.pop(key, None)
                    stood[key] = Change(key, seen, since)
                else:
                    later.append(Change(key, seen, at + 0.01))
        return Watcher(f"watcher-{number}", prefix, (*stood.values(), *later), replay=replay)


def history(seed: int, *, clients: int = 5, steps: int = 80, depth: int = 4) -> History:
    """One such history."""
    world = _World(seed, clients, depth)
    for _ in range(steps):
        world.step()
    held = [replace(client.hold, end=client.hold.start + LEASE) for client in world.clients if client.hold]
    return History(
        ops=tuple(world.ops),
        holds=(*world.holds, *held),
        watchers=tuple(world.watched(number) for number in range(4)),
        final={key: tuple(seen for _, where, seen in world.log if where == key)[-depth:] for key in KEYS},
        depth=depth,
    )
