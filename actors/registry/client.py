"""Asks the registry. Whichever replica answers, it knows at least what this client has seen before."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from actors.registry.errors import NoRegistryError, RefusedError
from actors.registry.messages import (
    MAX_PAGE,
    Capabilities,
    CapabilitySummary,
    Details,
    Find,
    Lease,
    Name,
    Page,
    Query,
    Registered,
    Registration,
    Removed,
)
from actors.registry.model import Definition, Instance
from bus import rpc, subjects
from bus.errors import BusError, NoRespondersError, NotFoundError, RemoteError, TransportError
from bus.mesh import Mesh

M = TypeVar("M", bound=BaseModel)

PATIENCE: Final = 1.0
"""Seconds to wait for a registry to be there: one that was killed is back within that."""


class RegistryClient:
    """Who lives on a mesh, and what they can do."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._known = 0

    async def instances(self, agent: str = "", *, dead: bool = False) -> list[Instance]:
        """All instances that live, or those of one agent, by name; with `dead` also those whose lease ran out in the
        last minute.

        Raises:
            NoRegistryError: no registry runs.
            TransportError: no answer.
        """
        found: list[Instance] = []
        while True:
            after = found[-1].instance if found else ""
            query = Query(agent=agent, after=after, limit=MAX_PAGE, known=self._known, dead=dead)
            page = await self._ask("list", query, Page)
            found += [Instance.model_validate(one) for one in page.instances]
            if not page.more:
                return found

    async def find(self, capability: str, labels: dict[str, str] | None = None) -> list[Instance]:
        """All instances that work, have the capability and all of the labels, by name. Work does who is `idle`, `busy`
        or `degraded` (`docs/health.md`).

        Raises:
            NoRegistryError: no registry runs.
            TransportError: no answer.
        """
        found: list[Instance] = []
        while True:
            after = found[-1].instance if found else ""
            query = Find(capability=capability, labels=labels or {}, after=after, limit=MAX_PAGE, known=self._known)
            page = await self._ask("find", query, Page)
            found += [Instance.model_validate(one) for one in page.instances]
            if not page.more:
                return found

    async def get(self, instance: str) -> Details:
        """One instance, and what its capabilities are.

        Raises:
            NotFoundError: none of that name lives.
            NoRegistryError, TransportError: as in `instances`.
        """
        return await self._ask("get", Name(instance=instance, known=self._known), Details)

    async def capabilities(self) -> list[CapabilitySummary]:
        """What can be done here, and by whom.

        Raises:
            NoRegistryError, TransportError: as in `instances`.
        """
        return (await self._ask("capabilities", None, Capabilities)).capabilities

    async def definition(self, capability: str) -> Definition | None:
        """What a capability is; None: nobody has said so yet.

        Raises:
            NoRegistryError, TransportError: as in `instances`.
        """
        return (await self._ask("find", Find(capability=capability, limit=1, known=self._known), Page)).definition

    async def register(self, registration: Registration) -> Registered:
        """Register somebody who then keeps the lease by writing it anew; see `docs/registry.md`.

        Raises:
            RefusedError: what it says of itself cannot be used, or contradicts somebody who lives; nothing was changed.
            NoRegistryError, TransportError: as in `instances`; registering again is safe.
        """
        return await self._ask("register", registration, Registered)

    async def deregister(self, agent: str, instance: str, secret: str) -> Removed:
        """Give a lease up.

        Raises:
            RefusedError: the lease is somebody else's; nothing was changed.
            NoRegistryError, TransportError: as in `instances`; doing it again is safe.
        """
        return await self._ask("deregister", Lease(agent=agent, instance=instance, secret=secret), Removed)

    async def _ask(self, method: str, message: BaseModel | None, reply: type[M]) -> M:
        loop = asyncio.get_running_loop()
        started, pause = loop.time(), 0.02
        while True:
            try:
                answer: dict[str, Any] = await rpc.call(
                    self._mesh.connection, self._mesh.telemetry, subjects.REGISTRY, method, message
                )
            except RemoteError as error:
                if not error.retryable:
                    raise _refusal(error) from error
                failure: BusError = error
            except NoRespondersError as error:
                failure = NoRegistryError()
                failure.__cause__ = error
            except TransportError as error:
                failure = error
            else:
                revision = answer.get("revision", 0)
                self._known = max(self._known, revision if isinstance(revision, int) else 0)
                return reply.model_validate(answer)
            if loop.time() - started > PATIENCE:
                raise failure
            await asyncio.sleep(pause)
            pause *= 2


def _refusal(error: RemoteError) -> BusError:
    if error.code == "not_found":
        what, _, reason = error.message.partition(": ")
        return NotFoundError(what, reason)
    return RefusedError(error.code, error.message)
