"""Stores the tasks of one client, and tells it of those for which nobody is there yet."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from bus import beside, jetstream, stewards, subjects, tasks, topology
from bus.blobs import is_large
from bus.budgets import Budget
from bus.errors import (
    BusError,
    ConfigError,
    NoStewardError,
    NotFoundError,
    PermissionDeniedError,
    QueueFullError,
)
from bus.estimates import Room
from bus.family import FAMILY
from bus.handle import Client, Handle
from bus.messages import MSG_ID
from bus.settings import MIB
from bus.topics import Doing

log = logging.getLogger(__name__)

_WINDOW: Final = 1000
"""Messages of `submit_many` that are on their way to the server at once."""
_WINDOW_BYTES: Final = 4 * MIB
"""And their bytes, which stand in memory a few times over: as encoded, and in the buffers of the connection."""


class _Sent(NamedTuple):
    handle: Handle
    sealed: tasks.Sealed
    storing: jetstream.Storing


def _size(sent: _Sent | BusError) -> int:
    return len(sent.storing.body) if isinstance(sent, _Sent) else 0


class Submitter:
    """Submits, and remembers what is served."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._connection = client.connection
        self._telemetry = client.telemetry
        self._room = Room(client.connection, client.telemetry)
        self._served: set[str] = set()
        self._warned: set[str] = set()
        self._looking = asyncio.Lock()

    async def submit(
        self,
        capability: str,
        message: BaseModel | dict[str, Any],
        *,
        agent: str | None,
        priority: str,
        deadline: float | None,
        detached: bool,
        budget: Budget | None = None,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        by_content: bool = False,
    ) -> Handle:
        """See `bus.mesh.Mesh.submit`."""
        if not self._client.arrivals.listening:
            await self._client.arrivals.listen()
        chosen = self.chosen_id(message, task_id, idempotency_key, by_content=by_content)
        work = "" if agent is None else subjects.token(capability, "capability")
        if agent is not None:
            capability = subjects.agent_address(agent)
        order = tasks.Order(capability, self._client.name, priority, deadline, detached, work, budget)
        sealed = tasks.seal(self._connection, order, message, chosen)
        handle = Handle(self._client, capability, sealed.task_id, new=sealed.new)
        try:
            if sealed.family is None:
                handle._stored(await tasks.submit(self._connection, self._telemetry, sealed))  # noqa: SLF001
            else:
                await self._submit_child(sealed, handle)
        except QueueFullError as error:
            raise await self._full(error, order) from error
        if capability not in self._served:
            handle.warning = await self._check_served(capability)
        return handle

    async def _submit_child(self, sealed: tasks.Sealed, handle: Handle) -> None:
        """Store a child, unless an earlier run of its parent's attempt did."""
        try:
            if not await self._stands(sealed, handle):
                if sealed.family is not None and sealed.family.wallet is not None:
                    await sealed.family.wallet.charge(sealed.headers[MSG_ID])
                handle._stored(await tasks.submit(self._connection, self._telemetry, sealed))  # noqa: SLF001
        except (BusError, asyncio.CancelledError):
            sealed.lost()
            raise

    async def _stands(self, sealed: tasks.Sealed, handle: Handle) -> bool:
        """Whether an earlier run of the parent's attempt has submitted this child: then it waits, runs or has ended.
        One that somebody named is the same wherever it comes from; it is looked for only where it would cost again.

        Raises:
            TransportError: nobody could be asked.
        """
        family = sealed.family
        if family is None or not family.again or (sealed.child is None and family.wallet is None):
            return False
        capability, task_id, arrival = handle.capability, handle.task_id, handle._arrival  # noqa: SLF001
        async with self._looking:
            if family.standing is None:
                # In this order: what has left the queue before we saw it has its result by then.
                family.standing = await self._children(family.parent)
        sequence = family.standing.get(f"{capability}.{task_id}", 0)
        if not sequence and not arrival.done:
            await self._client.arrivals.look(capability, task_id, arrival)
        if sequence or arrival.done:
            handle._stored(jetstream.Stored(subjects.TASKS, sequence, True))  # noqa: SLF001
        return handle.duplicate

    async def _children(self, parent: str) -> dict[str, int]:
        """Where children of a task that are ours stand in TASKS, by capability and task id."""
        found: dict[str, int] = {}
        message = {"parent": parent, "client": self._client.name, "after": 0}
        while True:
            try:
                some = await stewards.ask(self._connection, self._telemetry, "children", message)
            except (NoStewardError, PermissionDeniedError) as error:  # or credentials of an earlier version
                log.warning("children of %s that wait may be submitted again: %s", parent, error)
                return found
            found |= some["standing"]
            if not some["more"]:
                return found
            message["after"] = max(some["standing"].values())

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

    def chosen_id(
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
        """What became of each message, with as many on their way as the windows allow."""
        family = None if order.detached else FAMILY.get()
        if family is not None and (family.again or family.wallet is not None):
            async for end in self._submit_children(order, messages):
                yield end
            return
        sent: deque[_Sent | BusError] = deque()
        size = 0
        for message in messages:
            sent.append(await self._begin(order, message))
            size += _size(sent[-1])
            while len(sent) >= _WINDOW or size > _WINDOW_BYTES:
                size -= _size(sent[0])
                yield await self._stored(sent.popleft())
        while sent:
            yield await self._stored(sent.popleft())

    async def _begin(self, order: tasks.Order, message: BaseModel | dict[str, Any]) -> _Sent | BusError:
        sealed = self._seal(order, message)
        if isinstance(sealed, BusError):
            return sealed
        handle = Handle(self._client, order.capability, sealed.task_id, new=sealed.new)
        try:
            storing = await tasks.begin(self._connection, self._telemetry, sealed)
        except BusError as error:
            sealed.lost()
            return error
        # What stands beside its message by now is needed no more.
        return _Sent(handle, sealed if storing.body else sealed._replace(body=b""), storing)

    async def _submit_children(
        self, order: tasks.Order, messages: Iterable[BaseModel | dict[str, Any]]
    ) -> AsyncIterator[Handle | BusError]:
        """The same for children that may have to be looked for, or that cost: as many as are sent at once, together."""
        for some in self._batches(order, messages):
            for end in await asyncio.gather(*map(self._send, some)):
                yield end

    def _batches(
        self, order: tasks.Order, messages: Iterable[BaseModel | dict[str, Any]]
    ) -> Iterator[list[tasks.Sealed | BusError]]:
        """They, as many as are sent at once, and of large ones never two. It is the same list each time."""
        some: list[tasks.Sealed | BusError] = []
        size = 0
        for message in messages:
            sealed = self._seal(order, message)
            some.append(sealed)
            of_it = len(sealed.body) if isinstance(sealed, tasks.Sealed) else 0
            size += of_it
            del message, sealed  # nothing holds what has been sent
            if len(some) >= _WINDOW or size > _WINDOW_BYTES or is_large(self._connection, of_it):
                yield some
                some.clear()
                size = 0
        if some:
            yield some

    def _seal(self, order: tasks.Order, message: BaseModel | dict[str, Any]) -> tasks.Sealed | BusError:
        try:
            return tasks.seal(self._connection, order, message)
        except BusError as error:
            return error

    async def _send(self, sealed: tasks.Sealed | BusError) -> Handle | BusError:
        if isinstance(sealed, BusError):
            return sealed
        handle = Handle(self._client, sealed.order.capability, sealed.task_id, new=sealed.new)
        try:
            await self._submit_child(sealed, handle)
        except QueueFullError as error:
            return await self._full(error, sealed.order)
        except BusError as error:
            return error
        return handle

    async def _stored(self, sent: _Sent | BusError) -> Handle | BusError:
        if isinstance(sent, BusError):
            return sent
        try:
            stored = await beside.finish(self._connection, self._telemetry, sent.sealed.place, sent.storing)
            sent.handle._stored(stored)  # noqa: SLF001
        except BusError as error:
            sent.sealed.lost()
            return await self._full(error, sent.sealed.order) if isinstance(error, QueueFullError) else error
        return sent.handle

    async def _full(self, error: QueueFullError, order: tasks.Order) -> QueueFullError:
        """The error with a word on when there is room again, as far as anybody knows."""
        return await self._room.told(error, order.capability, order.priority, order.client)

    async def _is_served(self, capability: str) -> bool:
        if not self._connection.restricted:
            return await topology.has_workers(self._connection, capability)
        try:
            await stewards.ask(self._connection, self._telemetry, "policy", {"name": capability})
        except NotFoundError:
            return False
        return True

    async def warning(self, capability: str) -> str:
        """What a submitter should know of a capability, or `@<agent>`; empty: it has workers."""
        return "" if capability in self._served else await self._check_served(capability)

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
