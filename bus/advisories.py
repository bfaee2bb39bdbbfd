"""Takes the server's advisories of tasks that it delivers no more, kept in stream ADVISORIES until they are acted on.

Our own consumers deliver without a limit, so there are none unless somebody gave a consumer one. They are no more than
a help: the server sends none when no pull stands, and what no advisory tells of ends at its deadline all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.early import Ender
from bus.errors import BusError, NotFoundError, ServerError
from bus.outcomes import Settle
from bus.pull import Puller, Source
from bus.wire import Message

log = logging.getLogger(__name__)

_KEY: Final = "ADVISORY.CONSUMER"
"""The third and fourth token of an advisory's subject."""
_WAIT: Final = 5_000_000_000


class Advisories:
    """One member of the stewards that share the advisories."""

    def __init__(
        self, connection: Connection, ender: Ender, *, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        """`spawn` runs a coroutine; should it fail, the process ends."""
        self._connection = connection
        self._ender = ender
        self._spawn = spawn
        self._puller = Puller(
            connection,
            [Source(_KEY, subjects.STEWARD, 0, subjects.ADVISORIES)],
            self._on_message,
            spawn=spawn,
            fail=self._fail,
            on_quiet=_nothing,
        )

    async def open(self) -> None:
        """Make the consumer that all stewards share and pull from it."""
        config = {
            "durable_name": subjects.STEWARD,
            "description": "advisories of tasks that are delivered no more",
            "ack_policy": "explicit",
            "ack_wait": _WAIT,
            "max_deliver": -1,
            "num_replicas": self._connection.settings.replicas,
        }
        body = {"stream_name": subjects.ADVISORIES, "config": config, "action": "create"}
        try:
            await jetstream.call(self._connection, "CONSUMER.INFO", subjects.ADVISORIES, subjects.STEWARD)
        except NotFoundError:
            try:
                await jetstream.call(
                    self._connection, "CONSUMER.CREATE", subjects.ADVISORIES, subjects.STEWARD, body=body
                )
            except ServerError as error:
                if error.api_code not in jetstream.CONSUMER_EXISTS:
                    raise  # otherwise another steward made it between our two calls
        self._puller.want(1)

    async def close(self) -> None:
        """Pull no more."""
        await self._puller.stop()

    def _on_message(self, message: Message) -> None:
        self._spawn(self._act(message))

    async def _act(self, message: Message) -> None:
        try:
            told = json.loads(message.data)
            sequence, deliveries = int(told["stream_seq"]), int(told["deliveries"])
        except (ValueError, KeyError, TypeError) as error:
            log.warning("an advisory that cannot be read is put aside: %s", error)
            await self._connection.publish(message.reply, Settle.TERM.value)
            return
        try:
            ended = await self._ender.give_up(sequence, deliveries)
        except BusError as error:
            log.warning("task at %d, delivered %d times, is not ended yet: %s", sequence, deliveries, error)
            return  # its ack deadline passes, and it comes again
        finally:
            self._puller.want(1)
        if ended is not None:
            log.warning("task %s was delivered %d times and ends as %s", ended.task_id, deliveries, ended.status)
        await self._connection.publish(message.reply, Settle.ACK.value)

    def _fail(self, error: BusError) -> None:
        self._spawn(_raise(error))


async def _raise(error: BusError) -> None:
    raise error


def _nothing() -> None:
    """Nobody waits for the pulls to be quiet."""
