"""What a steward does so that a client with many tasks does not starve those with few (`bus.lanes`)."""

from __future__ import annotations

import logging
from typing import Final

from bus import codec, subjects
from bus.backlog import Backlog
from bus.connection import Connection
from bus.control import LanesOrder
from bus.errors import BusError
from bus.heartbeat import Watch
from bus.lanes import Lanes
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.telemetry import Metrics

log = logging.getLogger(__name__)

SAID_AGAIN: Final = 60.0
"""Seconds until it is said again why tasks cannot be moved."""


class Fair:
    """Moves tasks to lanes, and tells the workers which lanes hold something: again at each look, for who was away."""

    def __init__(self, connection: Connection, backlog: Backlog, watch: Watch, metrics: Metrics) -> None:
        self._connection = connection
        self._watch = watch
        self._lanes = lanes = Lanes(connection, backlog)
        self._backlog = backlog
        self._said = 0.0
        what = "Tasks of light clients that went past the many of others."
        metrics.watch("revo_fair_moves", what, lambda: lanes.moved, grows=True)

    async def look(self) -> None:
        """Do what is to be done; `backlog` has just been brought up to date. What cannot be done is left for the next
        time, for nothing but the order of tasks hangs on it.
        """
        try:
            holding = await self._lanes.look(self._watch.serves_lanes)
            if holding:
                order = codec.encode(LanesOrder(lanes=holding).model_dump())
                everyone = subjects.control(subjects.EVERYONE, subjects.EVERYONE, "lanes")
                await self._connection.publish(everyone, order, {CONTENT_TYPE: MSGPACK})
        except BusError as error:
            if self._backlog.server_time > self._said + SAID_AGAIN:
                self._said = self._backlog.server_time
                log.warning("tasks of light clients could not be moved past the many of others: %s", error)
