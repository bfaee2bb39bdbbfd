"""Follows a stream, or a part of it, in order and without a gap: across reconnects, restarts and lost consumers.

Reads by a push consumer of its own with a name, so that permissions can speak of it, and a sign of life every half a
second: nats-py's own watch was blind for 19 s after a restart of the server (trap 5).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus import jetstream, subjects
from bus.connection import Connection, Subscription
from bus.errors import BusError, InvalidSubjectError, NotFoundError, TransportError
from bus.wire import Message, OnMessage

log = logging.getLogger(__name__)

HEARTBEAT: Final = 0.5
"""Seconds between two signs of life of a consumer that has nothing to deliver."""
TWICE: Final = 0.3
"""Seconds within which nothing on one subject is expected to change twice: leases are renewed less often."""
SILENT: Final = 3 * HEARTBEAT
"""After so many seconds without any the consumer is taken for lost, and made anew."""
_NS: Final = 1_000_000_000

LATEST: Final[dict[str, Any]] = {"deliver_policy": "last_per_subject"}
"""Begin with the newest message of every subject: what a bucket holds."""
NEW: Final[dict[str, Any]] = {"deliver_policy": "new"}
"""Begin with what is stored from now on."""


class Watch:
    """Hands every message on `subject` to `on_message`, in the stream's order, each once."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subject: str,
        on_message: Callable[[jetstream.StoredMessage], None],
        *,
        start: dict[str, Any] = LATEST,
        on_reset: Callable[[], None] | None = None,
        bodies: bool = True,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`start` says where to begin. `on_reset` hears that the stream was made anew, and that all of it comes again.
        Without `bodies` the messages have none: who needs the headers alone has less to take. `spawn` runs a coroutine;
        should it raise, the stream is gone or refused.
        """
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._on_message = on_message
        self._start = start
        self._on_reset = on_reset
        self._bodies = bodies
        self._spawn = spawn
        self._name = ""
        self._created = ""
        self._subscription: Subscription | None = None
        self._dropping = ""
        self._delivered = 0
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._renewing = False
        self._one_by_one = asyncio.Lock()
        self._closed = False
        self._target = 0
        """The stream's sequence that catching up has to reach."""
        self._reached = asyncio.Event()
        self.sequence = 0
        """The stream's sequence up to which all is known."""
        self.began = 0
        """The stream's last sequence as it was first followed; what comes after it is news."""
        self.current = asyncio.Event()
        """Set while nothing that stands in the stream is still to come, as far as is known."""
        connection.on_reconnect(self._back)

    async def open(self) -> None:
        """Follow from now on; returns when what stood in the stream has been handed over.

        Raises:
            NotFoundError, ServerError: the stream is not there, or refuses us.
            TransportError: no answer.
        """
        await self._follow()
        self._look()
        async with asyncio.timeout(self._connection.settings.publish_timeout):
            await self.current.wait()

    async def close(self) -> None:
        """Follow no more. May be repeated."""
        self._closed = True
        self._connection.forget(self._back)
        if self._timer is not None:
            self._timer.cancel()
        await self._drop()

    # --- one consumer after the other -------------------------------------------------------------------------

    async def _follow(self) -> None:
        async with self._one_by_one:  # whoever opens it and finds the connection lost may come while we renew it
            await self._follow_anew()

    async def _follow_anew(self) -> None:
        self.current.clear()
        known = self.sequence  # what comes while we ask is not in the answer
        info = await jetstream.call(self._connection, "STREAM.INFO", self._stream)
        last, created = int(info["state"]["last_seq"]), str(info["created"])
        if not self._created:
            self.began = last
        elif self._created != created or last < known:  # not the stream that we knew
            self.sequence, self.began = 0, last
            if self._on_reset is not None:
                self._on_reset()
        self._created = created
        await self._drop()
        self._name, self._delivered = f"watch-{secrets.token_hex(8)}", 0
        inbox = self._connection.client.new_inbox()
        start = self._start
        if self.sequence:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self.sequence + 1}
        config = {
            "name": self._name,
            "deliver_subject": inbox,
            "filter_subject": self._subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "idle_heartbeat": int(HEARTBEAT * _NS),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5 * _NS,
            "headers_only": not self._bodies,
            **start,
        }
        self._subscription = await self._connection.subscribe(inbox, self._receiver(self._name))
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        made = await jetstream.call(
            self._connection, "CONSUMER.CREATE", self._stream, self._name, self._subject, body=body
        )
        self._heard = asyncio.get_running_loop().time()
        if not int(made["num_pending"]) and not int(made["delivered"]["consumer_seq"]):
            self.sequence = max(self.sequence, last)
        self._target, self._reached = last, asyncio.Event()
        self._look_whether_reached()
        self._spawn(self._catch_up(self._name, self._reached))

    def _look_whether_reached(self) -> None:
        if self.sequence >= self._target:
            self._reached.set()

    async def _catch_up(self, name: str, reached: asyncio.Event) -> None:
        """Set `current` when nothing that stood in the stream is still to come.

        To have come as far as the stream had was when the consumer was made is not enough: what stood there may have
        been replaced by a newer message on its subject before it was our turn, and that one stands further on. So the
        stream is asked again, until a look and all that it named took less time than a subject takes to change twice.
        """
        while True:
            began = asyncio.get_running_loop().time()
            await reached.wait()
            if name != self._name:
                return  # another consumer has taken over
            try:
                info = await jetstream.call(self._connection, "STREAM.INFO", self._stream)
            except (TransportError, NotFoundError) as error:
                log.debug("catching up with %s: %s", self._stream, error)
                if name == self._name:
                    self._renew()
                return
            if name != self._name:
                return
            self._target = int(info["state"]["last_seq"])
            reached.clear()
            self._look_whether_reached()
            await reached.wait()
            if name == self._name and asyncio.get_running_loop().time() - began < TWICE:
                self.current.set()
                return

    async def _drop(self) -> None:
        subscription, name = self._subscription, self._name or self._dropping
        self._name, self._dropping = "", name
        self._reached.set()  # whoever catches up by this consumer has nothing more to wait for
        if subscription is None:
            return
        try:
            await subscription.drain()
        except asyncio.CancelledError:
            subscription.forget()  # nobody comes back for it
            raise
        if self._subscription is subscription:
            self._subscription = None
        if not self._connection.is_connected:
            return  # it goes by itself
        try:
            await jetstream.call(self._connection, "CONSUMER.DELETE", self._stream, name)
        except BusError as error:
            log.debug("consumer %s goes by itself: %s", name, error)

    def _receiver(self, name: str) -> OnMessage:
        def receive(message: Message) -> None:
            if name == self._name:  # otherwise it is of a consumer that we have given up
                self._receive(message)

        return receive

    def _receive(self, message: Message) -> None:
        self._heard = asyncio.get_running_loop().time()
        headers = message.headers
        if headers.get("Status") == "100":
            if int(headers.get("Nats-Last-Consumer", 0)) != self._delivered:
                self._renew()
            else:
                self.sequence = max(self.sequence, self._target)  # nothing up to there is left
                self._nothing_is_left()
                self._look_whether_reached()
            return
        try:
            ack = subjects.parse_ack(message.reply)
        except InvalidSubjectError:
            log.warning("something on %s that no stream delivered is left out", message.subject)
            return
        if ack.consumer_sequence != self._delivered + 1:
            self._renew()
            return
        self._delivered = ack.consumer_sequence
        self.sequence = ack.sequence
        stored = jetstream.StoredMessage(message.subject, ack.sequence, headers, message.data, ack.stored_at_ns)
        self._on_message(stored)
        if not ack.pending:
            self._nothing_is_left()
        self._look_whether_reached()

    def _nothing_is_left(self) -> None:
        """The consumer says so, of what is ours in the stream: how far others get in it meanwhile does not matter."""
        if not self._renewing:
            self.current.set()

    # --- when it was lost -------------------------------------------------------------------------------------

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HEARTBEAT, self._look)
        if loop.time() - self._heard > SILENT and self._connection.is_connected:
            self._renew()

    async def _back(self) -> None:
        if self._heard:
            self._renew()

    def _renew(self) -> None:
        self.current.clear()
        if not self._renewing and not self._closed:
            self._renewing = True
            self._spawn(self._again())

    async def _again(self) -> None:
        pause = 0.05
        try:
            while not self._closed:
                try:
                    await self._follow()
                except (TransportError, NotFoundError) as error:
                    # Not found: JetStream comes up a moment after the server, or the stream is being made anew.
                    log.debug("following %s: %s; trying again", self._stream, error)
                    await asyncio.sleep(pause)
                    pause = min(1.0, pause * 2)
                else:
                    return
        finally:
            self._renewing = False
