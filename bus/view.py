"""A client's view of the instances of one agent: who may be asked, kept fresh by what their leases say.

It hears every renewal as it is stored, so that choosing costs no round trip. A gap heals itself, for every instance
renews its lease once in a heartbeat. Must not know what a lease is beyond the fields that it reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bus import codec, rpc, subjects
from bus.choosing import STRATEGIES, Candidate, Strategy
from bus.connection import Connection, Subscription
from bus.errors import BusError, DecodeError
from bus.lease import Known
from bus.telemetry import ids
from bus.wire import Message

log = logging.getLogger(__name__)

SUSPECTED: Final = 3.0
"""Seconds for which an instance is suspect that was called so and is not any more."""
LOST: Final = 60.0
"""Seconds for which the queue group may know an instance whose lease ran out: who hangs does not leave it."""
STALE: Final = 3
"""So many lives of a lease after its last renewal, an instance of which nobody says anything is forgotten."""
GRAIN: Final = 0.05
_ASK_REGISTRY: Final = 1.0
_PAGE: Final = 1000


@dataclass(slots=True)
class _Chooser:
    """One strategy for one method. `all` is the same over all that live, for when nobody counts."""

    strategy: Strategy
    all: Strategy | None = None
    made: int = -1


@dataclass(slots=True)
class View:
    """The instances of one agent, as this client knows them. Times are of the monotonic clock."""

    connection: Connection
    agent: str
    _known: dict[str, Known] = field(default_factory=dict)
    _fresh: dict[str, None] = field(default_factory=dict)
    """Who has renewed its lease in time, the longest ago first."""
    _stale: dict[str, float] = field(default_factory=dict)
    """Who has not, and when it is forgotten."""
    _suspects: dict[str, float] = field(default_factory=dict)
    """Until when each is."""
    _lost: dict[str, float] = field(default_factory=dict)
    _out: set[str] = field(default_factory=set)
    """Who would be asked by the queue group and should not be."""
    _shut: dict[str, set[str]] = field(default_factory=dict)
    """By method: whose breaker is open."""
    _choosers: dict[tuple[str, str], _Chooser] = field(default_factory=dict)
    used: float = 0.0
    """When somebody asked by it, or chose."""
    _swept: float = 0.0
    _changes: int = 0
    """Of who lives."""
    _subscriptions: list[Subscription] = field(default_factory=list)

    async def open(self) -> None:
        """Hear of the instances from now on; returns when those are known whom the registry knows. Who cannot hear all
        hears nothing.

        Raises:
            PermissionDeniedError: we may not hear of them.
            TransportError: the connection is lost.
        """
        try:
            for subject in (subjects.lease_news(self.agent), subjects.suspect_news(self.agent)):
                self._subscriptions.append(await self.connection.subscribe(subject, self._on_news))
            try:
                await self._ask_registry()
            except BusError as error:
                log.debug("the instances of %s show up one by one, for no registry says: %s", self.agent, error)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Hear of them no more."""
        ending = self._subscriptions[:]
        self._subscriptions.clear()
        for one in ending:
            await one.drain()

    def back(self) -> None:
        """We were deaf: who lived then is taken to live until it should have renewed its lease."""
        now = time.monotonic()
        for known in self._known.values():
            known.seen = now

    # --- questions --------------------------------------------------------------------------------------------

    @property
    def known(self) -> list[str]:
        """The instances of which is known that they live."""
        return list(self._known)

    def is_troubled(self, method: str, now: float) -> bool:
        """Whether the queue group might choose somebody that should not be asked; known up to `GRAIN` s late."""
        if now > self._swept + GRAIN:
            self._sweep(now)
        return bool(self._out or self._lost or method in self._shut)

    def choose(
        self, method: str, strategy: str, key: str, *, now: float, chance: float, panic: bool = True
    ) -> Candidate | None:
        """Whom to ask: of those that count, or in a panic, where none does, of all that live; None: nobody is known.

        Who counts has renewed its lease in time, is ready and not paused, nobody suspects it, and its breaker for the
        method is not open.
        """
        self._sweep(now)
        chooser = self._choosers.get((method, strategy)) or self._new(method, strategy)
        name = chooser.strategy.choose(key, now=now, chance=chance)
        if not name and panic:
            if chooser.all is None or chooser.made != self._changes:
                chooser.all, chooser.made = _strategy(strategy, method), self._changes
                for known in self._known.values():
                    chooser.all.put(known.candidate)
            name = chooser.all.choose(key, now=now, chance=chance)
        return self._known[name].candidate if name else None

    def began(self, one: Candidate) -> int:
        """It is asked now; see `Candidate.began`."""
        began = one.began()
        self._tell(one.name)
        return began

    def ended(self, one: Candidate, began: int, method: str, took: float, *, good: bool | None, now: float) -> None:
        """It was asked for so many seconds; whether that went well, None where nobody can say."""
        one.ended(began)
        if good is not None:
            for (asked, _), chooser in self._choosers.items():
                if asked == method:
                    chooser.strategy.learn(one, took, good=good, now=now)
        self._tell(one.name)

    def unheard(self, name: str) -> None:
        """It does not listen: it is gone, and the next who says so is its lease; until it renews it it is not asked."""
        known = self._known.get(name)
        if known is not None:
            known.stale, known.ready = True, False
            self._update(name, known)

    # --- what we hear -----------------------------------------------------------------------------------------

    def _on_news(self, message: Message) -> None:
        kind, agent, name = message.subject.split(".")[2:]
        removed = message.header("KV-Operation") in ("DEL", "PURGE")
        expired = bool(message.header("Nats-Marker-Reason"))
        now = time.monotonic()
        try:
            if name.rpartition("-")[0] != agent:
                return  # not the name of one of its instances
            if kind == subjects.SUSPECTS:
                self._on_suspect(name, now, suspect=not (removed or expired))
            elif removed or expired:
                self._on_gone(name, now, hangs=expired)
            else:
                said = codec.decode(message.data, codec.content_type_of(message.headers), subject=message.subject)
                self._on_lease(name, said, now)
        except (DecodeError, TypeError, ValueError, AttributeError) as error:
            log.debug("what is said of %s cannot be read: %s", message.subject, error)

    def _on_lease(self, name: str, said: Mapping[str, Any], now: float) -> None:
        known = self._known.get(name) or Known(Candidate(name), now)
        known.read(said)
        known.seen, known.stale = now, False
        if name not in self._known:
            self._known[name] = known
            self._changes += 1
        for table in (self._fresh, self._stale, self._lost):
            table.pop(name, None)
        self._fresh[name] = None  # renewed last
        self._update(name, known)

    def _on_suspect(self, name: str, now: float, *, suspect: bool) -> None:
        self._suspects.pop(name, None)
        if suspect:
            self._suspects[name] = now + SUSPECTED
        if name in self._known:
            self._update(name, self._known[name])

    def _on_gone(self, name: str, now: float, *, hangs: bool) -> None:
        self._forget(name)
        if hangs:
            self._lost[name] = now + LOST

    async def _ask_registry(self) -> None:
        after, more = "", True
        while more:
            subject = subjects.rpc(subjects.REGISTRY, "list", self.connection.caller)
            query = {"agent": self.agent, "after": after, "limit": _PAGE}
            question = rpc.prepare(self.connection, subject, query, timeout=_ASK_REGISTRY)
            question.headers["traceparent"] = ids.dropped_parent()  # it is no part of what is asked just now
            page = await rpc.exchange(self.connection, question)
            now, more = time.monotonic(), bool(page["more"])
            for said in page["instances"]:
                after = str(said["instance"])
                if after not in self._known:  # else its lease has said more since
                    self._on_lease(after, said, now)
                    if said.get("condition") == "suspect":
                        self._on_suspect(after, now, suspect=True)

    # --- who counts -------------------------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Let go of what was not said again in time. Each table has the longest silent first, so one look will do."""
        self._swept, settings = now, self.connection.settings
        while self._fresh and (known := self._known[name := next(iter(self._fresh))]).seen + settings.lease_late < now:
            del self._fresh[name]
            self._stale[name] = known.seen + STALE * settings.lease_ttl
            known.stale = True
            self._update(name, known)
        while self._stale and self._stale[name := next(iter(self._stale))] < now:
            self._forget(name)
        while self._suspects and self._suspects[name := next(iter(self._suspects))] < now:
            self._on_suspect(name, now, suspect=False)
        while self._lost and self._lost[name := next(iter(self._lost))] < now:
            del self._lost[name]

    def _update(self, name: str, known: Known) -> None:
        """Put it among those that may be asked, or take it out."""
        well = not (known.stale or known.paused or name in self._suspects)
        if known.ready and not well:
            self._out.add(name)
        else:
            self._out.discard(name)
        for method in [method for method, names in self._shut.items() if name in names and method not in known.shut]:
            self._shut[method].discard(name)
            if not self._shut[method]:
                del self._shut[method]
        for method in known.shut:
            self._shut.setdefault(method, set()).add(name)
        for (method, _), chooser in self._choosers.items():
            if known.ready and well and method not in known.shut:
                chooser.strategy.put(known.candidate)
            else:
                chooser.strategy.drop(name)

    def _tell(self, name: str) -> None:
        """What we have in flight to it has changed."""
        known = self._known.get(name)
        if known is not None:
            self._update(name, known)

    def _forget(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            known.ready, known.shut = False, frozenset()
            self._update(name, known)
            self._changes += 1
        for table in (self._fresh, self._stale, self._suspects):
            table.pop(name, None)

    def _new(self, method: str, strategy: str) -> _Chooser:
        chooser = self._choosers[method, strategy] = _Chooser(_strategy(strategy, method))
        for name, known in self._known.items():
            self._update(name, known)
        return chooser


def _strategy(name: str, method: str) -> Strategy:
    made = STRATEGIES[name]()
    made.method = method
    return made
