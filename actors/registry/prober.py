"""Finds those that are connected but deaf: their heartbeats come, and what they are given is not done.

An instance that has had room for a second and proved nothing is sent a probe through its agent's own queue. The queue
gives probes to its replicas in turn, so each has one in time. Who does none for `DEAF` seconds stands in the bucket as
suspect, for as long as that holds, where every registry and every client that chooses sees it. Any number of registries
do this side by side: they send one set of probes between them, and the word of one is the word of all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Final, NamedTuple

from actors.registry.catalog import Catalog, Known
from actors.registry.model import PACKED, Suspicion, suspect_key
from bus import codec, events, jetstream, subjects, topology
from bus.connection import Connection
from bus.errors import BusError, NotFoundError, WrongSequenceError
from bus.messages import MSG_ID
from bus.store import Bucket
from bus.wire import Message

log = logging.getLogger(__name__)

LOOK: Final = 0.5
"""Seconds between two looks."""
UNPROVED: Final = 1.0
"""Seconds without a sign from which on an instance is sent probes."""
DEAF: Final = 4.0
"""Seconds without a sign from which on it is deaf: three probes went by."""
ROUND: Final = 1.0
"""Seconds in which an instance is sent one probe."""
HOLDS: Final = 3.0
"""Seconds that a suspicion holds without being said again."""
SLOW: Final = 0.5
"""Seconds that a look may come late before we trust ourselves no more, and begin anew."""


class _Deaf(NamedTuple):
    """One that is deaf."""

    found: float
    """When it was found, by our monotonic clock."""
    done: int
    """How much it had done by then."""
    said: float
    """When we last said so."""


class Prober:
    """Sends the probes, and says who does none."""

    def __init__(self, connection: Connection, catalog: Catalog, instance: str) -> None:
        self._connection = connection
        self._catalog = catalog
        self._instance = instance
        self._bucket = Bucket(connection, subjects.REGISTRY_BUCKET)
        self._did: dict[str, float] = {}
        self._deaf: dict[str, _Deaf] = {}
        """Those that we have found."""
        self._queues: dict[str, float] = {}
        """Agents whose probes have a consumer, and when we saw to that."""
        self._since = time.monotonic()
        self._troubled = False
        connection.on_reconnect(self._begin_anew)

    async def open(self) -> None:
        """Hear who has done a probe."""
        await self._connection.subscribe(subjects.PROBED, self._on_probed)

    async def _begin_anew(self) -> None:
        self._since = time.monotonic()
        self._queues.clear()  # they may have gone with the server

    def _on_probed(self, message: Message) -> None:
        name = message.subject.rpartition(".")[2]
        if self._catalog.get(name) is not None:
            self._did[name] = time.monotonic()

    async def run(self) -> None:
        """Look at all, twice a second."""
        due = time.monotonic()
        while True:
            due += LOOK
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() - due > SLOW:
                due = self._since = time.monotonic()  # it may be we who are slow
            if not self._connection.is_connected:
                continue
            try:
                await self._look()
            except BusError as error:
                # Without probes nobody is taken for deaf; that is no reason to have no registry.
                log.log(logging.DEBUG if self._troubled else logging.WARNING, "probes could not be sent: %s", error)
                self._troubled = True
                await self._begin_anew()
            else:
                self._troubled = False

    async def _look(self) -> None:
        now = time.monotonic()
        wanted: Counter[str] = Counter()
        for known in self._catalog.all():
            silence = self._silence(known, now)
            if silence is None:
                await self._clear(known)
                continue
            if silence > UNPROVED:
                wanted[known.instance.agent] += 1
            asked_since = max(self._since, self._queues.get(known.instance.agent, now))
            if min(silence, now - asked_since) > DEAF or self._is_still_deaf(known):
                await self._suspect(known, silence, now)
            else:
                await self._clear(known)
        await self._send(wanted)
        self._forget()

    def _is_still_deaf(self, known: Known) -> bool:
        """Whether one that was found deaf has proved nothing since. That the server was away is no proof."""
        name, health = known.instance.instance, known.instance.health
        before = self._deaf.get(name)
        if before is None or health is None:
            return False
        return health.done <= before.done and self._did.get(name, 0.0) < before.found

    def _silence(self, known: Known, now: float) -> float | None:
        """Seconds in which an instance could have given a sign and did not; None: it need not."""
        instance = known.instance
        health = instance.health
        if health is None or health.idle is None or instance.state != "ready" or instance.paused:
            return None
        said = health.idle + max(0.0, now - known.seen)
        return min(said, now - self._did.get(instance.instance, -1e9))

    async def _send(self, wanted: Counter[str]) -> None:
        """One probe for each instance that is due, once a round, whoever of the registries is first."""
        this_round = int(time.time() / ROUND)
        await asyncio.gather(*(self._ensure_queue(agent) for agent in wanted.keys() - self._queues.keys()))
        await asyncio.gather(
            *(
                jetstream.store(
                    self._connection,
                    subjects.probe(agent),
                    b"",
                    {MSG_ID: f"{agent}.{this_round}.{number}"},
                    patience=1.0,
                )
                for agent, count in wanted.items()
                for number in range(count)
            )
        )

    async def expect(self, agent: str) -> None:
        """An instance of an agent has come: have a queue for its probes, if that can be had at once."""
        try:
            await self._ensure_queue(agent)
        except BusError as error:
            log.debug("no queue yet for the probes of %s: %s", agent, error)

    async def _ensure_queue(self, agent: str) -> None:
        if agent in self._queues:
            return
        config = topology.probe_consumer(agent, self._connection.settings.replicas)
        body = {"stream_name": subjects.PROBES, "config": config, "action": "create"}
        names = (subjects.PROBES, agent, config["filter_subject"])
        try:
            await jetstream.call(self._connection, "CONSUMER.CREATE", *names, body=body)
        except NotFoundError:
            await topology.create_stream(self._connection, subjects.PROBES)
            await jetstream.call(self._connection, "CONSUMER.CREATE", *names, body=body)
        self._queues[agent] = time.monotonic()

    async def _suspect(self, known: Known, silence: float, now: float) -> None:
        instance = known.instance
        name = instance.instance
        before = self._deaf.get(name)
        if before is not None and now - before.said < HOLDS / 3:
            return
        done = instance.health.done if instance.health is not None else 0
        self._deaf[name] = _Deaf(now, done, now) if before is None else before._replace(said=now)
        reason = f"deaf: it has done nothing from its queue for {silence:.1f} s, nor the probes that it was sent"
        body = codec.encode(Suspicion(reason=reason, by=self._instance).model_dump())
        key = suspect_key(instance.agent, name)
        if before is not None:
            await self._bucket.put(key, body, PACKED, ttl=HOLDS)
            return
        try:
            await self._bucket.create(key, body, PACKED, ttl=HOLDS)
        except WrongSequenceError:
            return  # another registry has found it, too
        log.warning("%s is %s", name, reason)
        await self._tell(known, "deaf", reason=reason)

    async def _clear(self, known: Known) -> None:
        name = known.instance.instance
        if self._deaf.pop(name, None) is None and not self._catalog.suspicion(name):
            return
        if self._catalog.suspicion(name):
            await self._bucket.remove(suspect_key(known.instance.agent, name))
            await self._tell(known, "heard")

    async def _tell(self, known: Known, what: str, **details: str) -> None:
        agent, name = known.instance.agent, known.instance.instance
        await events.tell(self._connection, events.AGENT, name, what, agent=agent, by=self._instance, **details)

    def _forget(self) -> None:
        for name in [name for name in (*self._did, *self._deaf) if self._catalog.get(name) is None]:
            self._did.pop(name, None)
            self._deaf.pop(name, None)
        if len(self._queues) > 2 * len(living := {known.instance.agent for known in self._catalog.all()}) + 10:
            self._queues = {agent: since for agent, since in self._queues.items() if agent in living}
