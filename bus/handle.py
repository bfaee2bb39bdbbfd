"""A task that was submitted, to who submitted it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from bus import estimates, following, stewards
from bus.arrivals import Arrival, Arrivals, closed
from bus.connection import Connection
from bus.errors import ResultTimeoutError, TaskFailedError
from bus.estimates import Estimate
from bus.jetstream import Stored
from bus.messages import Cancelled, Result
from bus.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Client:
    """Who submits, and where the results of its tasks arrive."""

    name: str
    connection: Connection
    telemetry: Telemetry
    arrivals: Arrivals


class Handle:
    """A submitted task. Its result may be awaited as often as one likes, from as many places."""

    def __init__(self, client: Client, capability: str, task_id: str, *, new: bool = False) -> None:
        """With `new`, the id is of nobody's choosing: no result of it can stand from before."""
        self._client = client
        self.capability = capability
        self.task_id = task_id
        self.sequence = 0
        """Where the task stands in TASKS."""
        self.duplicate = False
        """Whether the same task was submitted before; then this handle is of that one."""
        self.warning = ""
        """What the submitter should know, such as that no agent has the capability yet."""
        self._known_before = not new
        self._arrival = client.arrivals.of(capability, task_id)

    def _stored(self, stored: Stored) -> None:
        """It stands; whether it is new is known now."""
        self.sequence, self.duplicate = stored.sequence, stored.duplicate
        self._known_before |= stored.duplicate

    async def outcome(self, timeout: float | None = None) -> Result:
        """Wait for the task's end, however it ends, and return its result.

        `timeout` is seconds; None waits until the task has ended, which its deadline bounds.

        Raises:
            ResultTimeoutError: there is no result yet, or its large value is not here yet. The task goes on.
            BusClosedError: the mesh was closed meanwhile.
            DamagedBlobError, PayloadTooLargeError: its large value cannot be had (`docs/payloads.md`).
            TransportError: its large value could not be read now; waiting again reads it again.
        """
        client, arrival = self._client, self._arrival
        until = None if timeout is None else time.monotonic() + timeout
        ended = await self._ended(timeout)
        if ended.blob is None:
            return ended
        try:
            async with asyncio.timeout(None if until is None else until - time.monotonic()):
                return await arrival.filled(client.connection)
        except TimeoutError:
            assert timeout is not None
            raise ResultTimeoutError(self.task_id, timeout) from None

    async def _ended(self, timeout: float | None = None) -> Result:
        """As `outcome`, but a value that is large still stands beside it."""
        client, arrival = self._client, self._arrival
        arrivals = client.arrivals
        if not arrivals.listening:
            await arrivals.listen()
        if self._known_before and not arrival.done:
            await arrivals.look(self.capability, self.task_id, arrival)  # it may have been stored before we listened
        if not arrival.done and not await arrival.wait(client.connection, timeout):
            assert timeout is not None
            raise ResultTimeoutError(self.task_id, timeout)
        if arrival.result is None:
            raise await closed(client.connection)
        return arrival.result

    @property
    def arrival(self) -> Arrival:
        """Where its result arrives."""
        return self._arrival

    @property
    def known_before(self) -> bool:
        """Whether its result may have been stored before anybody listened for it."""
        return self._known_before

    async def estimate(self) -> Estimate:
        """When the task will start, as far as a steward can tell: from what waits before it, and how long such tasks
        have taken.

        Raises:
            NotFoundError: it has ended.
            NoStewardError, TransportError: as in `cancel`.
        """
        client = self._client
        return await estimates.ask(
            client.connection, client.telemetry, self.capability, task_id=self.task_id, client=client.name
        )

    def follow(self, after: int = 0) -> AsyncGenerator[following.Item, None]:
        """What the task's handler says, from the number behind `after` on: each `Progress` and `Chunk` once and in
        order, until the task has ended and all is given. `result` says how it ended.

        Numbers run from 1 on over all attempts, so whoever stops, or starts late, or in another process, goes on where
        he likes; for an hour, or until `progress_max_bytes` newer ones are stored. What is gone is a `Lost`. However
        slow the reader is, the worker does not wait for him. Close it (`contextlib.aclosing`) to leave before its end.

        Raises:
            ConfigError: `after` is no number from 0 on.
            NoStewardError, TransportError: what was not heard cannot be read; following again goes on.
            BusClosedError: the mesh was closed meanwhile.
        """
        client = self._client
        name = (client.name, self.capability, self.task_id)
        return following.follow(client.connection, client.telemetry, name, self._ended, after)

    async def cancel(self) -> Cancelled:
        """Cancel the task, and the children that its handler submitted; see `bus.mesh.Mesh.cancel`."""
        client = self._client
        return await stewards.cancel(
            client.connection,
            client.telemetry,
            self.task_id,
            by=client.name,
            capability=self.capability,
            client=client.name,
            sequence=self.sequence,
        )

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the task's end and return its value: plain data, as the handler's model dumps it.

        Raises:
            TaskFailedError: the task failed, expired or was cancelled; says why.
            ResultTimeoutError: there is no result yet. The task goes on.
        """
        outcome = await self.outcome(timeout)
        if outcome.status != "succeeded":
            error = outcome.error
            code = error.code if error else "unknown"
            message = error.message if error else ""
            raise TaskFailedError(self.task_id, outcome.status, code, message, error.details if error else None)
        return outcome.value
