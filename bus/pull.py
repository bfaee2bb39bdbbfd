"""Standing pulls on shared consumers: tasks come as soon as there is one, only while there is room for it.

A consumer is idle, or has one pull standing with the server. Nothing is polled: an empty consumer costs one message
every `EXPIRES` seconds. Must not know what a task is.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bus import jetstream, subjects
from bus.connection import Connection, Subscription
from bus.errors import BusError, NotFoundError, TransportError
from bus.turns import KEPT, turn
from bus.wire import Message

log = logging.getLogger(__name__)

EXPIRES: Final = 20.0
"""Seconds after which the server ends a pull that found nothing, and we stand a new one."""
EXPIRES_UNSEEN: Final = 3.0
"""The same in a cluster, for who has an account of its own. The leader then sees that a server listens for such
accounts, not whether a client of it still does (nats-server 2.15): the pulls of a dead worker take tasks until they
end, and each of those comes again after its ack deadline. Measured: 5 to 15 s of wait after a kill with pulls of 20 s.
"""
HEARTBEAT: Final = 2.5
"""Seconds between two signs of the server that a pull stands. With a leader that dies it is gone without a word."""
LINGER: Final = 0.01
"""Seconds that pulls outlive the last free slot: after a short task they are still there, before a long one they go."""
DIGESTED: Final = 0.01
"""Seconds within which the server answers a pull that it can answer. An inbox that goes meanwhile may take with it what
is just being sent, for the server notes a delivery before it looks for who wants it: measured with nats-server 2.15.1,
1 of 75 when the inbox goes 0.1 ms after the pull, none of 3,000 later. That task waits for its ack deadline.
"""
BUSY: Final = 0.05
"""Seconds within which a pull is used up where tasks keep coming."""
RESTART_FIRST: Final = 0.1
RESTART_MAX: Final = 2.0
PATIENCE: Final = 30
"""Refused pulls after which a consumer is taken for gone that we may not look at; a minute, at the longest pause."""

_NS: Final = 1_000_000_000


class ConsumerGoneError(BusError):
    """A consumer was deleted while we pulled from it."""

    def __init__(self, consumer: str, reason: str) -> None:
        super().__init__(consumer, reason)
        self.consumer = consumer
        self.reason = reason

    def __str__(self) -> str:
        return f"consumer {self.consumer} is gone: {self.reason}"


class Source(NamedTuple):
    """One consumer to pull from."""

    key: str
    """`capability.priority`, as in a delivery's subject, or the whole of a shorter subject."""
    consumer: str
    """Its durable name."""
    rank: int
    """The lowest is the most urgent."""
    stream: str = subjects.TASKS
    needed: bool = True
    """Whether the worker cannot go on without it."""
    lane: bool = False
    """Whether it is the lane beside the queue that comes next among the sources."""

    @property
    def address(self) -> str:
        """The capability, or the agent as `@name`."""
        return self.key.split(".", 1)[0] if self.lane else self.key.rpartition(".")[0]


@dataclass(slots=True)
class _Pull:
    """One consumer and what may still come of the pull that stands on it."""

    index: int
    source: Source
    outstanding: int = 0
    backlog: int = 0
    """How many messages the consumer still had when it last delivered one."""
    busy: bool = False
    """Whether its last pull was used up as soon as it stood."""
    sent: float = 0.0
    failures: int = 0
    heard: float = 0.0
    """When the server last spoke of it, by the loop's clock."""
    timer: asyncio.TimerHandle | None = None
    other: _Pull | None = None
    """Of a queue its lane, of a lane its queue."""
    last: bool = False
    """Whether of the two it was the last to be pulled from first."""
    brief: bool = False
    """Whether its last pull ends at once when there is nothing: what is known of a backlog may be long untrue, and the
    other one waits for it.
    """


class Generation:
    """The pulls that share one inbox. Dropping the inbox ends them all on the server."""

    def __init__(self, inbox: str, sources: Sequence[Source], *, unseen: bool = False) -> None:
        self.inbox = inbox
        self.pulls = [_Pull(index, source) for index, source in enumerate(sources)]
        self.by_key = {pull.source.key: pull for pull in self.pulls}
        self.only = self.pulls[0] if len(self.pulls) == 1 else None
        """Whose every delivery is, whatever its subject."""
        for lane, queue in itertools.pairwise(self.pulls):
            if lane.source.lane:
                lane.other, queue.other = queue, lane
        self.idle = sum(source.needed for source in sources)
        """On how many of the consumers that are needed no pull stands."""
        self.subscription: Subscription | None = None
        self.expires = EXPIRES_UNSEEN if unseen else EXPIRES


class Puller:
    """Pulls from `consumers` (most urgent first) as much as `want` says, and hands every delivery to `on_task`."""

    def __init__(
        self,
        connection: Connection,
        sources: Sequence[Source],
        on_task: Callable[[Message], None],
        *,
        spare: Callable[[int], int] | None = None,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        fail: Callable[[BusError], None],
        on_quiet: Callable[[], None],
        on_refused: Callable[[], None] | None = None,
    ) -> None:
        """Nothing is pulled before the first `want`.

        `spare` says how many more messages of a rank there is use for although nothing is wanted, or more
        urgent ones wait. `spawn` runs a coroutine, `fail` ends the worker, `on_quiet` hears that nothing stands and
        nothing is on its way.
        """
        self._spare = spare or _none
        self._connection = connection
        self._sources = list(sources)
        self._left_out: frozenset[str] = frozenset()
        self._on_task = on_task
        self._spawn = spawn
        self._fail = fail
        self._on_quiet = on_quiet
        self._on_refused = on_refused or _nobody
        for source in self._sources:
            if not source.needed:
                subject = subjects.api("CONSUMER.MSG.NEXT", source.stream, source.consumer)
                connection.excuse(subject, functools.partial(self._refused, source))
        self._lanes: dict[str, float] = {}
        """When we were last told of each lane, by the loop's clock."""
        self._refused_lanes: set[str] = set()
        self._known: dict[str, tuple[int, bool]] = {}
        """Of lanes and their queues, when no pull stands: what the last one knew of the backlog and of the turn."""
        self._generation: Generation | None = None
        self._wanted = 0
        self._ahead = False
        self._linger: asyncio.TimerHandle | None = None
        self._opening = False
        self._endings: set[asyncio.Task[None]] = set()
        self._stopped = False
        connection.on_disconnect(self._lost)
        connection.on_reconnect(self._back)

    @property
    def quiet(self) -> bool:
        """Whether no pull stands and nothing is on its way to us."""
        return self._generation is None and not self._opening and not self._endings

    @property
    def settled(self) -> bool:
        """Whether a pull stands on every consumer that is needed, for as long as nothing else is said."""
        return self._generation is not None and not self._generation.idle and self._linger is None

    def want(self, tasks: int, *, ahead: bool = False, now: bool = False) -> None:
        """Take up to `tasks` more tasks, the most urgent first, and a few of each further rank; 0: none.

        With `ahead` it is no matter if it is that many from every consumer, for none of them waits long; and what is
        more urgent than all that is in hand is wanted, too, when nothing else is.
        With 0 the pulls stand for another `LINGER` seconds unless `now`, for a slot may be free again by then.
        """
        self._wanted, self._ahead = tasks, ahead
        if tasks > 0 or ahead:
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            if self._generation is None or self._generation.idle:
                self._pull()
        elif now:
            self._retire()
        elif self._generation is not None and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER, self._retire)

    def _refused(self, source: Source) -> None:
        """The server does not let us pull from one that we can do without."""
        if source in self._sources:
            log.warning("consumer %s on %s may not be pulled from; it is left alone", source.consumer, source.stream)
            self._sources.remove(source)
            if source.lane:
                self._refused_lanes.add(source.key)
            else:
                self._on_refused()
            self._retire()
            self.want(self._wanted, ahead=self._ahead)

    def serve_lanes(self, lanes: Iterable[str]) -> None:
        """Pull from these lanes, as `capability.priority`, in turn with their queues, where we pull from those; each
        until nobody has told of it for a while and it is found empty.
        """
        now, new, told = asyncio.get_running_loop().time(), False, set(lanes)
        for queue in self._sources[:]:
            if queue.key in told and not queue.lane and queue.stream == subjects.TASKS:
                key = f"{queue.key}.{subjects.FAIR}"
                if key not in self._lanes and key not in self._refused_lanes:
                    self._add_lane(queue, key)
                    new = True
                self._lanes[key] = now
        if new:
            self._retire()
            self.want(self._wanted, ahead=self._ahead)

    @property
    def serves_lanes(self) -> bool:
        """Whether the server has let us pull from all lanes that we were told of."""
        return not self._refused_lanes

    def _add_lane(self, queue: Source, key: str) -> None:
        consumer = f"{queue.consumer}-{subjects.FAIR}"
        lane = Source(key, consumer, queue.rank, needed=False, lane=True)
        self._sources.insert(self._sources.index(queue), lane)
        self._connection.excuse(
            subjects.api("CONSUMER.MSG.NEXT", subjects.TASKS, consumer), functools.partial(self._refused, lane)
        )

    def _found_empty(self, lane: Source) -> None:
        if lane in self._sources and asyncio.get_running_loop().time() > self._lanes[lane.key] + KEPT:
            self._sources.remove(lane)
            del self._lanes[lane.key]
            self._retire()

    def stand(self) -> None:
        """Stand the pulls that are wanted and do not stand, as of a consumer that is not needed."""
        if self._wanted or self._ahead:
            self._pull()

    def leave_out(self, addresses: frozenset[str]) -> None:
        """Pull nothing for these capabilities, or agents as `@name`, until it is said otherwise; what is on its way
        still comes. Pulls end with their inbox only, so all of them are stood anew.
        """
        if addresses != self._left_out:
            self._left_out = addresses
            self._retire()
            self.want(self._wanted, ahead=self._ahead)

    async def stop(self) -> None:
        """End every pull; returns when all that was on its way has been handed to `on_task`."""
        self._stopped = True
        self._connection.forget(self._lost, self._back)
        self._wanted = 0
        generation, self._generation = self._generation, None
        if self._linger is not None:
            self._linger.cancel()
        if generation is not None:
            await self._drain(generation)
        if self._endings:
            await asyncio.wait(self._endings)  # of what earlier ones were sent none must come later either

    # --- pulls --------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        if self._stopped or not self._connection.is_connected:
            return  # the reconnect pulls
        if self._generation is None:
            if not self._opening:
                self._opening = True
                self._spawn(self._open())
            return
        room = self._wanted - sum(pull.outstanding - 1 for pull in self._generation.pulls if pull.outstanding > 1)
        urgent = False
        for pull in self._generation.pulls:
            other = pull.other
            if pull.outstanding == 0 and pull.timer is None:
                # One to see whether there is any; as many as there is room for where they keep coming, unless more
                # urgent ones wait.
                batch = 1
                if urgent or self._wanted <= 0:
                    batch = self._spare(pull.source.rank)
                elif pull.busy:
                    batch = self._wanted if self._ahead else max(1, room)
                    room -= batch
                in_turn = other is not None and other.backlog > 0 and pull.backlog > 0 and not self._ahead
                if other is not None and in_turn:
                    batch = _in_turn(pull, other, self._spare(pull.source.rank) if urgent else max(1, self._wanted))
                if batch > 0:
                    self._send(self._generation, pull, batch, brief=in_turn)
            # A lane and its queue are as urgent as one another.
            urgent = urgent or (
                not pull.source.lane and (pull.backlog > 0 or (other is not None and other.backlog > 0))
            )

    async def _open(self) -> None:
        connection = self._connection
        unseen = connection.restricted and connection.clustered
        left_out, sources = self._left_out, self._sources[:]
        wanted = [source for source in self._sources if source.address not in left_out]
        generation = Generation(connection.client.new_inbox(), wanted, unseen=unseen)

        def on_message(message: Message) -> None:
            self._on_message(generation, message)

        try:
            generation.subscription = await self._connection.subscribe(f"{generation.inbox}.*", on_message)
        finally:
            self._opening = False
        if self._stopped or not (self._wanted or self._ahead):
            await self._drain(generation)
            return
        if left_out != self._left_out or sources != self._sources:  # a lane came meanwhile
            await self._drain(generation)
            self._pull()
            return
        for pull in generation.pulls:
            pull.backlog, pull.last = self._known.pop(pull.source.key, (0, False))
        self._generation = generation
        self._pull()

    def _send(self, generation: Generation, pull: _Pull, batch: int, *, brief: bool = False) -> None:
        loop = asyncio.get_running_loop()
        subject = subjects.api("CONSUMER.MSG.NEXT", pull.source.stream, pull.source.consumer)
        pull.outstanding, pull.brief = batch, brief
        generation.idle -= pull.source.needed
        pull.heard = pull.sent = loop.time()
        pull.timer = loop.call_later(2 * HEARTBEAT, self._listen, generation, pull)
        expires = generation.expires
        heartbeat = min(HEARTBEAT, expires / 2)  # no more than half, or the server refuses the pull
        request = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (batch, expires * _NS, heartbeat * _NS)
        if brief:
            request = b'{"batch":%d,"no_wait":true}' % batch
        try:
            self._connection.send(subject, request, reply=f"{generation.inbox}.{pull.index}")
        except TransportError:
            log.debug("pull from %s not sent: the connection is lost", pull.source.consumer)

    def _listen(self, generation: Generation, pull: _Pull) -> None:
        """Stand a new pull when the server has been silent about this one for two heartbeats."""
        loop = asyncio.get_running_loop()
        left = pull.heard + 2 * HEARTBEAT - loop.time()
        if left > 0:
            pull.timer = loop.call_later(left, self._listen, generation, pull)
        else:
            self._expired(generation, pull)

    def _on_message(self, generation: Generation, message: Message) -> None:
        if not message.reply.startswith("$JS.ACK."):
            self._on_status(generation, message, message.headers.get("Status", ""))
            return
        pull = generation.only
        if pull is None:
            parts = message.subject.split(".")
            key = f"{parts[2]}.{parts[3]}" if len(parts) > 3 else message.subject
            pull = generation.by_key.get(key if len(parts) < 6 else f"{key}.{parts[5]}")
        if pull is not None:
            pull.failures = 0
            pull.heard = asyncio.get_running_loop().time()
            pull.backlog = int(message.reply.rpartition(".")[2]) if message.reply.count(".") == 8 else 1
            if pull.outstanding:
                pull.outstanding -= 1
                if not pull.outstanding:
                    pull.busy = pull.heard - pull.sent < BUSY
                    self._ended(generation, pull)
        self._on_task(message)

    def _on_status(self, generation: Generation, message: Message, status: str) -> None:
        pull = generation.pulls[int(message.subject.rpartition(".")[2])]
        description = message.headers.get("Description", "")
        if status == "100":
            pull.heard = asyncio.get_running_loop().time()
            return
        _disarm(pull)
        if pull.outstanding:
            self._ended(generation, pull)
        pull.backlog, pull.busy = 0, False
        source = pull.source
        if source.lane:
            self._found_empty(source)
        if status == "409" and "consumer deleted" in description.lower() and source.needed:
            self._fail(ConsumerGoneError(source.consumer, description))
        elif status in ("408", "404"):
            pull.failures = 0
            self.want(self._wanted, ahead=self._ahead)
        else:
            # 503: JetStream is starting. 409: a new leader, a server that stops. Not at once, for it may last.
            pull.failures += 1
            pause = min(RESTART_MAX, RESTART_FIRST * 2.0 ** min(pull.failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
            pull.timer = asyncio.get_running_loop().call_later(pause, self._expired, generation, pull)
            if not source.needed:
                return
            if pull.failures == 5:
                log.warning("consumer %s does not answer: %s %s", source.consumer, status, description)
                if not self._connection.restricted:
                    self._spawn(self._check(source))
            elif pull.failures == PATIENCE and self._connection.restricted:
                self._fail(ConsumerGoneError(source.consumer, "it does not answer"))  # a new process asks a steward

    async def _check(self, source: Source) -> None:
        """Tell a consumer that is away for now from one that is gone."""
        try:
            await jetstream.call(self._connection, "CONSUMER.INFO", source.stream, source.consumer)
        except NotFoundError as error:
            self._fail(ConsumerGoneError(source.consumer, str(error)))
        except TransportError as error:
            log.debug("no answer about %s: %s", source.consumer, error)

    def _ended(self, generation: Generation, pull: _Pull) -> None:
        """No more will come of this pull."""
        pull.outstanding = 0
        generation.idle += pull.source.needed
        _disarm(pull)

    def _expired(self, generation: Generation, pull: _Pull) -> None:
        pull.timer = None
        if pull.outstanding:
            self._ended(generation, pull)
        if generation is self._generation and (self._wanted or self._ahead):
            self._pull()

    # --- ending pulls -------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """End the pulls that stand; what the server has sent by then still comes."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        generation, self._generation = self._generation, None
        if generation is not None:
            pairs = [pull for pull in generation.pulls if pull.other is not None]
            self._known = {pull.source.key: (pull.backlog, pull.last) for pull in pairs}
            ending = self._spawn(self._retire_now(generation))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def _retire_now(self, generation: Generation) -> None:
        try:
            await self._drain(generation)
        finally:
            ending = asyncio.current_task()
            assert ending is not None
            self._endings.discard(ending)
        self.want(self._wanted, ahead=self._ahead)
        if self.quiet:
            self._on_quiet()

    async def _drain(self, generation: Generation) -> None:
        for pull in generation.pulls:
            _disarm(pull)
        sent = max((pull.sent for pull in generation.pulls if pull.outstanding), default=0.0)
        if (young := sent + DIGESTED - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(young)
        if generation.subscription is not None:
            await generation.subscription.drain()
        for pull in generation.pulls:
            _disarm(pull)

    def _lost(self) -> None:
        """The pulls are gone with the connection; a new inbox keeps what was on its way from being counted twice."""
        self._retire()

    async def _back(self) -> None:
        self.want(self._wanted, ahead=self._ahead)


def _in_turn(pull: _Pull, other: _Pull, room: int) -> int:
    """How many to pull from a queue, or its lane, where both have something."""
    on_its_way = other.outstanding if other.brief else 0
    lane = pull.source.lane
    batch = turn(room, lane=lane, last_was_lane=(pull if lane else other).last, other_on_its_way=on_its_way)
    if batch and not on_its_way:
        pull.last, other.last = True, False
    return batch


def _disarm(pull: _Pull) -> None:
    if pull.timer is not None:
        pull.timer.cancel()
        pull.timer = None


def _nobody() -> None:
    """Who hears of refusals where nothing can be refused."""


def _none(_rank: int) -> int:
    return 0
