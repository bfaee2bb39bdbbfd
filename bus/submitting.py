"""Stores the tasks of one client, and tells it of those for which nobody is there yet."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from pydantic import BaseModel

from bus import jetstream, stewards, subjects, tasks, topology
from bus.errors import BusError, ConfigError, NotFoundError, QueueFullError
from bus.estimates import Room
from bus.handle import Client, Handle
from bus.topics import Doing

log = logging.getLogger(__name__)

_WINDOW: Final = 1000
"""Messages of `submit_many` that are on their way to the server at once."""


class Submitter:
    """Submits, and remembers what is served."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._connection = client.connection
        self._telemetry = client.telemetry
        self._room = Room(client.connection, client.telemetry)
        self._served: set[str] = set()
        self._warned: set[str] = set()

    async def submit(
        self,
        capability: str,
        message: BaseModel | dict[str, Any],
        *,
        agent: str | None,
        priority: str,
        deadline: float | None,
        detached: bool,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        by_content: bool = False,
    ) -> Handle:
        """See `bus.mesh.Mesh.submit`."""
        if not self._client.arrivals.listening:
            await self._client.arrivals.listen()
        chosen = self._chosen_id(message, task_id, idempotency_key, by_content=by_content)
        work = "" if agent is None else subjects.token(capability, "capability")
        if agent is not None:
            capability = subjects.agent_address(agent)
        handle = Handle(self._client, capability, chosen or tasks.new_task_id(), new=chosen is None)
        order = tasks.Order(capability, self._client.name, priority, deadline, detached, work)
        try:
            stored = await tasks.submit(
                self._connection, self._telemetry, order, message, task_id=handle.task_id, fresh=chosen is None
            )
        except QueueFullError as error:
            raise await self._room.told(error, order.capability, order.priority, order.client) from error
        handle._stored(stored)  # noqa: SLF001
        if capability not in self._served:
            handle.warning = await self._check_served(capability)
        return handle

    async def submit_to(
        self, there: list[Doing], message: BaseModel | dict[str, Any], **how: Any
    ) -> dict[str, Handle | BusError]:
        """Submit the same to each of these agents; return what became of it, by agent."""

        async def one(to: Doing) -> Handle | BusError:
            try:
                return await self.submit(to.capability, message, agent=to.agent, **how)
            except BusError as error:
                return error

        async with asyncio.TaskGroup() as group:
            stored = {to.agent: group.create_task(one(to)) for to in there}
        return {agent: task.result() for agent, task in stored.items()}

    def _chosen_id(
        self, message: BaseModel | dict[str, Any], task_id: str | None, idempotency_key: str | None, *, by_content: bool
    ) -> str | None:
        """The id that the caller chose in one of the three ways; None when it is to be random."""
        if (task_id is not None) + (idempotency_key is not None) + by_content > 1:
            raise ConfigError("submit", "give one of task_id, idempotency_key and by_content, for each names the task")
        if task_id is not None:
            return subjects.token(task_id, "task id")
        if idempotency_key is not None:
            return tasks.task_id_of_key(idempotency_key, self._connection.secret)
        return tasks.task_id_of_content(message, self._connection.secret) if by_content else None

    async def submit_many(
        self,
        capability: str,
        messages: Iterable[BaseModel | dict[str, Any]],
        *,
        agent: str | None,
        priority: str,
        deadline: float | None,
        detached: bool,
    ) -> list[Handle | BusError]:
        """See `bus.mesh.Mesh.submit_many`."""
        work = "" if agent is None else subjects.token(capability, "capability")
        address = capability if agent is None else subjects.agent_address(agent)
        subjects.task(address, priority, self._client.name)
        if not self._client.arrivals.listening:
            await self._client.arrivals.listen()
        order = tasks.Order(address, self._client.name, priority, deadline, detached, work)
        found = [end async for end in self._submit_all(order, messages)]
        first = next((end for end in found if isinstance(end, Handle)), None)
        if first is not None and address not in self._served:
            first.warning = await self._check_served(address)
        return found

    async def _submit_all(
        self, order: tasks.Order, messages: Iterable[BaseModel | dict[str, Any]]
    ) -> AsyncIterator[Handle | BusError]:
        """What became of each message, with up to `_WINDOW` of them on their way."""
        sent: deque[tuple[Handle, jetstream.Storing] | BusError] = deque()
        for message in messages:
            handle = Handle(self._client, order.capability, tasks.new_task_id(), new=True)
            try:
                task_id = handle.task_id
                storing = tasks.begin(self._connection, self._telemetry, order, message, task_id=task_id, fresh=True)
                sent.append((handle, storing))
            except BusError as error:
                sent.append(error)
            if len(sent) >= _WINDOW:
                yield await self._stored(sent.popleft(), order)
        while sent:
            yield await self._stored(sent.popleft(), order)

    async def _stored(self, sent: tuple[Handle, jetstream.Storing] | BusError, order: tasks.Order) -> Handle | BusError:
        if isinstance(sent, BusError):
            return sent
        handle, storing = sent
        try:
            handle._stored(await jetstream.finish(self._connection, storing))  # noqa: SLF001
        except QueueFullError as error:
            return await self._room.told(error, order.capability, order.priority, order.client)
        except BusError as error:
            return error
        return handle

    async def _is_served(self, capability: str) -> bool:
        if not self._connection.restricted:
            return await topology.has_workers(self._connection, capability)
        try:
            await stewards.ask(self._connection, self._telemetry, "policy", {"name": capability})
        except NotFoundError:
            return False
        return True

    async def _check_served(self, capability: str) -> str:
        try:
            if await self._is_served(capability):
                self._served.add(capability)
                return ""
        except BusError as error:
            log.debug("cannot tell whether %s has workers: %s", capability, error)
            if self._connection.restricted:
                self._served.add(capability)  # once is enough
            return ""
        what = f"been called {capability[1:]}" if capability.startswith("@") else f"had the capability {capability}"
        warning = f"no agent has {what} yet; the task waits for one until its deadline"
        if capability not in self._warned:
            self._warned.add(capability)
            log.warning("%s", warning)
        return warning
