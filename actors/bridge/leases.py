"""The leases of foreign agents in the registry: any bridge that hears an agent renews the lease, so it needs no secret.

A lease that no bridge renews runs out, and the registry tells of it as of any other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Final

from actors.bridge.foreigners import Foreign
from actors.registry.catalog import Catalog
from actors.registry.model import PACKED, Instance
from bus import codec, events, subjects
from bus.connection import Connection
from bus.errors import BusError, PermissionDeniedError, TransportError, WrongSequenceError
from bus.store import Bucket

log = logging.getLogger(__name__)

_DUE: Final = (0.6, 0.9)
"""Of a heartbeat: when a lease is renewed that nobody else has renewed. The spread leaves it to one of the bridges."""


class Leases:
    """Keeps the leases of those that live."""

    def __init__(self, connection: Connection, catalog: Catalog, by: str) -> None:
        """`by` is the instance of the bridge, which stands in events."""
        self._connection = connection
        self._catalog = catalog
        self._by = by
        self._bucket = Bucket(connection, subjects.REGISTRY_BUCKET)
        self._heartbeat = connection.settings.lease_heartbeat
        self._ttl = connection.settings.lease_ttl
        self._due: dict[str, float] = {}
        """By name, the age at which we renew it."""
        self._refused: set[str] = set()

    async def hold(self, foreigners: list[Foreign], natives: dict[str, str]) -> None:
        """Renew the leases that are due. `natives` says, by agent, whose name it is if not the foreign one's."""
        await asyncio.gather(*(self._hold(one, natives.get(one.agent, "")) for one in foreigners))
        self._due = {one.name: self._due[one.name] for one in foreigners if one.name in self._due}

    async def _hold(self, one: Foreign, native: str) -> None:
        standing = self._catalog.get(one.name)
        wanted = _instance(one, native, standing.instance if standing is not None else None)
        body = codec.encode(wanted.model_dump())
        due = self._due.setdefault(one.name, random.uniform(*_DUE) * self._heartbeat)  # noqa: S311
        if standing is not None and standing.body == body and time.monotonic() - standing.seen < due:
            return
        self._due.pop(one.name)
        try:
            if standing is None:
                await self._take(wanted, body)
            else:
                key, expect = wanted.key, standing.revision
                await self._bucket.put(key, body, PACKED, expect=expect, ttl=self._ttl, patience=0.0)
                if native and standing.instance.state == "ready":
                    await self._tell(wanted, "shadowed", native=native)
        except WrongSequenceError:
            pass  # another bridge has just renewed it
        except TransportError as error:
            log.debug("lease of %s: %s", one.name, error)
        except PermissionDeniedError as error:
            if one.agent not in self._refused:
                self._refused.add(one.agent)
                log.warning("%s; `revo keys add %s --role foreign` lets it in", error, one.agent)

    async def _take(self, wanted: Instance, body: bytes) -> None:
        revision = await self._bucket.create(wanted.key, body, PACKED, ttl=self._ttl)
        self._refused.discard(wanted.agent)
        await self._tell(wanted, "registered", f"registered.{revision}", **wanted.labels)
        native = wanted.labels.get("name_of", "")
        if native:
            await self._tell(wanted, "shadowed", native=native)

    async def _tell(self, wanted: Instance, what: str, once: str = "", **details: str) -> None:
        name, agent = wanted.instance, wanted.agent
        if what == "shadowed":
            log.warning("foreign agent %s is given no tasks: its name is that of %s", name, details["native"])
        try:
            await events.tell(
                self._connection,
                events.AGENT,
                name,
                what,
                agent=agent,
                by=self._by,
                once=f"{name}.{once or what}",
                foreign=True,
                **details,
            )
        except BusError as error:
            log.warning("event of %s: %s", name, error)


def _instance(one: Foreign, native: str, standing: Instance | None) -> Instance:
    """What a lease says. All bridges say the same, whoever of them met the agent first."""
    now = time.time()
    info = one.info
    labels = {"owner": info.owner[:256], "session": info.session[:256], "protocol": info.protocol_version[:16]}
    if native:
        labels["name_of"] = native
    return Instance(
        agent=one.agent,
        instance=one.name,
        foreign=True,
        version=info.version[:256],
        started_at=standing.started_at if standing is not None else now,
        registered_at=standing.registered_at if standing is not None else now,
        concurrency=0,
        labels=labels,
        state="draining" if native else "ready",
    )
