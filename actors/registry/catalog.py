"""All that the registry knows: a view of the bucket REGISTRY that follows it, the same in every replica.

Made from the bucket alone, so nothing of it is lost with a replica. Must not write.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from actors.registry import condition
from actors.registry.model import DEFINITIONS, LEASES, Definition, Instance, Pause, Subscription, Suspicion, Word, owns
from bus import codec, subjects
from bus.connection import Connection
from bus.errors import DecodeError, TransportError
from bus.jetstream import StoredMessage
from bus.store import Entry, entry_of
from bus.topology import server_time
from bus.watch import Watch

log = logging.getLogger(__name__)

REMEMBERED: Final = 60.0
"""Seconds for which the dead are shown."""
MANY_DEAD: Final = 1000
"""So many of them at the most."""
_CATCH_UP: Final = 2.0
"""Seconds that a question waits until this replica knows what the asker knows."""


class BehindError(TransportError):
    """This replica does not know yet what the asker knows; another one may, or this one in a moment."""

    def __init__(self, known: int, revision: int) -> None:
        super().__init__(known, revision)
        self.known = known
        self.revision = revision

    def __str__(self) -> str:
        return f"this registry knows revision {self.revision} and was asked for {self.known}; ask again"


@dataclass(slots=True)
class Known:
    """An instance as it was last heard of."""

    instance: Instance
    body: bytes
    revision: int
    seen: float
    """When its lease was last renewed, by our monotonic clock."""
    conflict: str = ""
    """The agent of an instance whose word contradicted this one's when it came."""
    plain: dict[str, Any] | None = None
    """The instance as it is told, once somebody has asked."""


class Suspected(NamedTuple):
    """What stands of an instance that may not be chosen."""

    suspicion: Suspicion
    revision: int
    seen: float
    """When it was last said, by our monotonic clock."""


class Catalog:
    """Who lives and what the capabilities are."""

    def __init__(
        self,
        connection: Connection,
        *,
        on_gone: Callable[[str, Entry], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`on_gone` hears of every lease that ran out or was given up, with the instance's name."""
        self._connection = connection
        self._ttl = connection.settings.lease_ttl
        self._on_gone = on_gone
        self._known: dict[str, Known] = {}
        self._names: list[str] = []
        self._having: dict[str, list[str]] = {}
        self._words: dict[str, Counter[Word]] = {}
        self.definitions: dict[str, tuple[Definition, int]] = {}
        """By capability: what it is, and the revision of that."""
        self._suspected: dict[str, Suspected] = {}
        self.topics: dict[str, dict[str, Subscription]] = {}
        """By topic and agent."""
        self.pauses: dict[str, str] = {}
        """By capability: why it is paused."""
        self.dead: dict[str, float] = {}
        """Instances whose lease ran out lately, and when, in unix seconds."""
        self._clock = 0.0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        bucket = subjects.REGISTRY_BUCKET
        self._watch = Watch(
            connection,
            subjects.bucket(bucket),
            subjects.entry(bucket, ">"),
            self._on_message,
            on_reset=self._forget,
            spawn=spawn,
        )

    async def open(self) -> None:
        """Know all that stands in the bucket, and follow it."""
        self._clock = await server_time(self._connection, subjects.bucket(subjects.REGISTRY_BUCKET)) - time.monotonic()
        await self._watch.open()

    async def close(self) -> None:
        """Follow no more."""
        await self._watch.close()

    @property
    def revision(self) -> int:
        """Up to which revision of the bucket all is known."""
        return self._watch.sequence

    async def reached(self, revision: int) -> None:
        """Return once all up to a revision is known.

        Raises:
            BehindError: it takes too long.
        """
        if self.revision >= revision:
            return
        waiter = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, (revision, waiter), key=lambda pair: pair[0])
        try:
            async with asyncio.timeout(_CATCH_UP):
                await waiter
        except TimeoutError:
            raise BehindError(revision, self.revision) from None

    # --- questions --------------------------------------------------------------------------------------------

    def get(self, name: str) -> Known | None:
        """An instance that lives."""
        known = self._known.get(name)
        return known if known is not None and self._lives(known) else None

    def suspicion(self, name: str) -> str:
        """What others have found of an instance; empty: nothing."""
        suspected = self._suspected.get(name)
        return suspected.suspicion.reason if suspected is not None else ""

    def suspected(self, name: str) -> Suspected | None:
        """The same, as it stands in the bucket."""
        return self._suspected.get(name)

    def agents(self) -> set[str]:
        """The agents of all that are known."""
        return {known.instance.agent for known in self._known.values()}

    def plain(self, known: Known) -> dict[str, Any]:
        """What is told of an instance, with the condition that it is in now."""
        if known.plain is None:
            known.plain = known.instance.model_dump(exclude={"owner"})
        found = self.condition(known)
        return {**known.plain, "condition": found.condition, "reason": found.reason}

    def condition(self, known: Known) -> condition.Finding:
        """In which condition an instance is now."""
        return condition.find(
            known.instance,
            suspicion=self.suspicion(known.instance.instance),
            age=time.monotonic() - known.seen,
            heartbeat=self._connection.settings.lease_heartbeat,
            pauses=self.pauses,
        )

    def having(self, capability: str, after: str = "") -> Iterator[Known]:
        """Those that have a capability, by name."""
        return self._living(self._having.get(capability, []), after)

    def against(self, capability: str, word: Word) -> Instance | None:
        """An instance that contradicts this word: one that lives, or else one whose lease still stands."""
        if not any(other.contradicts(word) for other in self._words.get(capability, ())):
            return None
        having = (self._known[name].instance for name in self._having[capability])
        against = [instance for instance in having if instance.word(capability).contradicts(word)]
        return next((instance for instance in against if self.get(instance.instance)), against[0])

    def all(self, after: str = "") -> Iterator[Known]:
        """All that live, by name."""
        return self._living(self._names, after)

    def capabilities(self) -> list[str]:
        """What somebody who is known can do."""
        return sorted(name for name, instances in self._having.items() if instances)

    def _living(self, names: list[str], after: str) -> Iterator[Known]:
        for index in range(bisect.bisect_right(names, after) if after else 0, len(names)):
            known = self._known[names[index]]
            if self._lives(known):
                yield known

    def _lives(self, known: Known) -> bool:
        """The server takes a lease away up to 0.3 s late. What has not been renewed in time is gone for us, unless we
        are deaf ourselves.
        """
        return time.monotonic() - known.seen <= self._ttl or not self._watch.current.is_set()

    # --- what the bucket says ---------------------------------------------------------------------------------

    def _on_message(self, stored: StoredMessage) -> None:
        entry = entry_of(subjects.REGISTRY_BUCKET, stored)
        kind, _, rest = entry.key.partition(".")
        try:
            if kind == LEASES:
                self._on_lease(entry, rest.rpartition(".")[2])
            elif kind == subjects.SUSPECTS:
                self._on_suspicion(entry, rest.rpartition(".")[2])
            elif kind == subjects.PAUSES:
                self.pauses.pop(rest, None)
                if entry.live:
                    self.pauses[rest] = codec.read(Pause, entry.headers, entry.body, subject=entry.key).reason
            elif kind == subjects.TOPICS:
                self._on_topic(rest, entry)
            elif kind == DEFINITIONS and entry.live:
                definition = codec.read(Definition, entry.headers, entry.body, subject=stored.subject)
                self.definitions[rest] = (definition, entry.revision)
        except DecodeError as error:
            log.warning("what stands in the registry's bucket at %s cannot be read: %s", entry.key, error)
        while self._waiting and self._waiting[0][0] <= entry.revision:
            _, waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(None)

    def _on_suspicion(self, entry: Entry, name: str) -> None:
        self._suspected.pop(name, None)
        if entry.live:
            suspicion = codec.read(Suspicion, entry.headers, entry.body, subject=entry.key)
            self._suspected[name] = Suspected(suspicion, entry.revision, entry.stored_at - self._clock)

    def _on_topic(self, rest: str, entry: Entry) -> None:
        topic, _, agent = rest.partition(".")
        self.topics.get(topic, {}).pop(agent, None)
        if entry.live:
            said = codec.read(Subscription, entry.headers, entry.body, subject=entry.key)
            self.topics.setdefault(topic, {})[agent] = said

    def _on_lease(self, entry: Entry, name: str) -> None:
        agent = entry.key.split(".")[1]
        if not owns(agent, name):
            raise DecodeError(entry.key, f"the name of an instance of {agent} is {agent}-, and what has no hyphen")
        known = self._known.get(name)
        seen = entry.stored_at - self._clock
        if not entry.live:
            if known is not None:
                self._remove(name, known)
            if entry.expired:
                self._bury(name, entry.stored_at)
            self._on_gone(name, entry)
        elif known is not None and known.body == entry.body:
            known.revision, known.seen = entry.revision, seen
        else:
            instance = codec.read(Instance, entry.headers, entry.body, subject=entry.key)
            if entry.key != instance.key:
                raise DecodeError(entry.key, f"it is the lease of {instance.instance}")
            self.dead.pop(name, None)
            fresh = Known(instance, entry.body, entry.revision, seen)
            if known is not None and known.instance.capabilities == instance.capabilities:
                fresh.conflict = known.conflict
                self._known[name] = fresh
            else:
                if known is not None:
                    self._remove(name, known)
                self._add(name, fresh)

    def _add(self, name: str, known: Known) -> None:
        for capability in known.instance.capabilities:
            word = known.instance.word(capability)
            against = self.against(capability, word)
            if against is not None:
                known.conflict = known.conflict or against.agent
            self._words.setdefault(capability, Counter())[word] += 1
            bisect.insort(self._having.setdefault(capability, []), name)
        self._known[name] = known
        bisect.insort(self._names, name)

    def _remove(self, name: str, known: Known) -> None:
        del self._known[name]
        _discard(self._names, name)
        for capability in known.instance.capabilities:
            self._words[capability] -= Counter([known.instance.word(capability)])  # which forgets what nobody says
            _discard(self._having[capability], name)

    def _bury(self, name: str, at: float) -> None:
        self.dead[name] = at
        while self.dead and (next(iter(self.dead.values())) < at - REMEMBERED or len(self.dead) > MANY_DEAD):
            del self.dead[next(iter(self.dead))]

    def lately_dead(self) -> dict[str, float]:
        """Instances whose lease ran out in the last minute, and how many seconds ago; also those of whom the server has
        not yet said so.
        """
        now = time.monotonic()
        told = {name: now + self._clock - at for name, at in self.dead.items()}
        found = {name: ago for name, ago in told.items() if ago <= REMEMBERED}
        return found | {
            name: now - known.seen - self._ttl for name, known in self._known.items() if not self._lives(known)
        }

    def _forget(self) -> None:
        tables = (self._known, self._names, self._having, self._words, self.definitions, self._suspected, self.pauses)
        for table in (*tables, self.topics, self.dead):
            table.clear()


def _discard(names: list[str], name: str) -> None:
    index = bisect.bisect_left(names, name)
    if index < len(names) and names[index] == name:
        del names[index]
