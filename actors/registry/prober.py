"""Finds those that are connected but deaf: their heartbeats come, and what they are given is not done.

An instance that had room and heard nothing from its queue for a while is sent probes through it. The queue gives them
to an agent's replicas in turn, so each has one in time. Who says that it had room and heard nothing, while probes went
by, is deaf: it stands in the bucket as suspect for as long as it hears nothing, where every registry and every client
that chooses sees it. What was found stands there alone, so any number of registries do this side by side, and one that
has just begun takes nothing back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from typing import Final

from actors.registry.catalog import Catalog, Known, Suspected
from actors.registry.model import Suspicion, suspect_key
from bus import codec, events, jetstream, subjects, topology
from bus.connection import Connection
from bus.errors import BusError, NotFoundError, WrongSequenceError
from bus.messages import CONTENT_TYPE, MSG_ID, MSGPACK
from bus.store import Bucket
from bus.wire import Message

log = logging.getLogger(__name__)

LOOK: Final = 0.5
"""Seconds between two looks."""
UNPROVED: Final = 0.8
"""Seconds without a sign from which on an instance is sent probes."""
ROUND: Final = 1.0
"""Seconds in which an instance is sent one probe."""
DEAF: Final = 3.0
"""Seconds for which an instance must say that it heard nothing, to be deaf."""
MISSED: Final = 2
"""Rounds of probes that must have gone by it."""
IN_TIME: Final = 0.5
"""Seconds that it had for the last of them."""
HOLDS: Final = 3.0
"""Seconds that a suspicion holds without being said again."""
_PACKED: Final = {CONTENT_TYPE: MSGPACK}


class Prober:
    """Sends the probes, and says who does none."""

    def __init__(self, connection: Connection, catalog: Catalog, instance: str) -> None:
        self._connection = connection
        self._catalog = catalog
        self._instance = instance
        self._bucket = Bucket(connection, subjects.REGISTRY_BUCKET)
        self._did: dict[str, float] = {}
        """When an instance last said that it has done one, by our monotonic clock."""
        self._sent: defaultdict[str, deque[tuple[int, float]]] = defaultdict(lambda: deque(maxlen=16))
        """By agent: the last rounds of probes, and when they were stored."""
        self._queues: set[str] = set()
        """Agents whose probes have a consumer."""
        self._troubled = False
        connection.on_reconnect(self._begin_anew)

    async def open(self) -> None:
        """Hear who has done a probe."""
        await self._connection.subscribe(subjects.PROBED, self._on_probed)

    async def _begin_anew(self) -> None:
        self._sent.clear()  # what was stored before may be gone, and need not have been done
        self._queues.clear()

    def _on_probed(self, message: Message) -> None:
        name = message.subject.rpartition(".")[2]
        if self._catalog.get(name) is not None:
            self._did[name] = time.monotonic()

    async def run(self) -> None:
        """Look at all, twice a second."""
        while True:
            await asyncio.sleep(LOOK)
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
        for known in list(self._catalog.all()):
            suspected = self._catalog.suspected(known.instance.instance)
            if suspected is not None:
                await self._look_again(known, suspected, now)
            elif self._is_deaf(known):
                await self._suspect(known)
            if self._is_due(known, now):
                wanted[known.instance.agent] += 1
        await self._send(wanted)
        self._forget()

    def _is_due(self, known: Known, now: float) -> bool:
        """Whether an instance is to be sent a probe: as far as we know it has room, and has heard nothing lately."""
        idle = _idle(known)
        if idle is None:
            return False
        return min(idle + now - known.seen, now - self._did.get(known.instance.instance, -1e9)) > UNPROVED

    def _is_deaf(self, known: Known) -> bool:
        """Whether it says itself that it had room and heard nothing, while probes went by it. That we have heard
        nothing of it proves nothing: it may have been busy since.
        """
        idle = _idle(known)
        if idle is None or idle < DEAF:
            return False
        since = known.seen - idle
        rounds = self._sent.get(known.instance.agent, ())
        missed = [sent for _, sent in rounds if since <= sent <= known.seen - IN_TIME]
        return len(missed) >= MISSED and self._did.get(known.instance.instance, -1e9) < since

    async def _look_again(self, known: Known, suspected: Suspected, now: float) -> None:
        """Take a suspicion back once its instance has heard something, or need not; else say it again in time."""
        instance = known.instance
        key = suspect_key(instance.agent, instance.instance)
        health = instance.health
        heard = health is None or health.heard != suspected.suspicion.heard
        try:
            if heard or instance.state != "ready" or instance.paused:
                await self._bucket.remove(key, expect=suspected.revision)
                await self._tell(known, "heard")
            elif now - suspected.seen > HOLDS / 3:
                body = codec.encode(suspected.suspicion.model_dump())
                await self._bucket.put(key, body, _PACKED, expect=suspected.revision, ttl=HOLDS)
        except WrongSequenceError:
            return  # another registry was first

    async def _suspect(self, known: Known) -> None:
        instance, health = known.instance, known.instance.health
        assert health is not None
        reason = f"deaf: for {health.idle:.1f} s it has done nothing from its queue, nor the probes that it was sent"
        suspicion = Suspicion(reason=reason, by=self._instance, heard=health.heard)
        key = suspect_key(instance.agent, instance.instance)
        try:
            await self._bucket.create(key, codec.encode(suspicion.model_dump()), _PACKED, ttl=HOLDS)
        except WrongSequenceError:
            return  # another registry has found it, too
        log.warning("%s is %s", instance.instance, reason)
        await self._tell(known, "deaf", reason=reason)

    async def _tell(self, known: Known, what: str, **details: str) -> None:
        agent, name = known.instance.agent, known.instance.instance
        await events.tell(self._connection, events.AGENT, name, what, agent=agent, by=self._instance, **details)

    async def _send(self, wanted: Counter[str]) -> None:
        """One probe for each instance that is due, once a round, whoever of the registries is first."""
        this_round = int(time.time() / ROUND)
        await asyncio.gather(*(self.expect(agent) for agent in wanted.keys() - self._queues))
        agents = wanted.keys() & self._queues
        await asyncio.gather(
            *(
                jetstream.store(
                    self._connection,
                    subjects.probe(agent),
                    b"",
                    {MSG_ID: f"{agent}.{this_round}.{number}"},
                    patience=1.0,
                )
                for agent in agents
                for number in range(wanted[agent])
            )
        )
        for agent in agents:
            rounds = self._sent[agent]
            if not rounds or rounds[-1][0] != this_round:
                rounds.append((this_round, time.monotonic()))

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
        self._queues.add(agent)

    def _forget(self) -> None:
        for name in [name for name in self._did if self._catalog.get(name) is None]:
            del self._did[name]
        if len(self._queues) + len(self._sent) > 2 * len(living := self._catalog.agents()) + 10:
            self._queues &= living
            for agent in self._sent.keys() - living:
                del self._sent[agent]


def _idle(known: Known) -> float | None:
    """For how long an instance had room and heard nothing, by its own word; None: it need not hear anything."""
    instance = known.instance
    if instance.health is None or instance.state != "ready" or instance.paused:
        return None
    return instance.health.idle
