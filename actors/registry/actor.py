"""The registry: a system actor, any number of replicas, none with a state that the others lack.

All that it knows stands in the bucket REGISTRY: a lease for each instance, which the instance renews itself, and what
each capability is. Without a registry nobody new comes in and nobody is found; who was found works on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

from actors.actor import Actor, rpc
from actors.registry import condition, schemas
from actors.registry.catalog import BehindError, Catalog, Known
from actors.registry.definitions import TRIES, Definitions
from actors.registry.errors import DefinitionConflictError, LeaseTakenError, NotYourLeaseError, NotYoursError
from actors.registry.messages import (
    Agents,
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
    Which,
)
from actors.registry.model import PACKED, Instance, lease_key, owner_of, owns
from actors.registry.prober import Prober
from actors.registry.topics import Topics
from bus import codec, events, subjects
from bus.dial import RECONNECT_MAX
from bus.errors import ConfigError, NotFoundError, WrongSequenceError
from bus.rpc import CALLER
from bus.store import Bucket, Entry

log = logging.getLogger(__name__)


class Registry(Actor):
    """Who lives, what they can do, and where."""

    name = subjects.REGISTRY
    concurrency = 64

    async def on_start(self) -> None:
        """Know the bucket, and tell of those whose lease runs out."""
        connection = self.mesh.connection
        self._settings = connection.settings
        self._bucket = Bucket(connection, subjects.REGISTRY_BUCKET)
        self._gone: asyncio.Queue[tuple[float, str, Entry]] = asyncio.Queue()
        self._catalog = Catalog(connection, on_gone=self._on_gone, spawn=self.spawn)
        self._all_back = time.monotonic() + RECONNECT_MAX
        """By when everybody is back who lost the server when we did."""
        connection.on_reconnect(self._on_reconnect)
        await self._catalog.open()
        self._definitions = Definitions(self._catalog, self._bucket)
        self._topics = Topics(self._catalog, self._bucket)
        self._prober = Prober(connection, self._catalog, self.mesh.telemetry.instance)
        await self._prober.open()
        self.spawn(self._tell_of_the_dead())
        self.spawn(self._prober.run())

    async def on_stop(self) -> None:
        """Follow the bucket no more."""
        await self._catalog.close()

    # --- who comes and goes -----------------------------------------------------------------------------------

    @rpc("register")
    async def register(self, registration: Registration) -> Registered:
        """Give an instance its lease. Asked again by the same instance it is the same lease.

        Raises:
            InvalidSubjectError, SchemaError, ConfigError: what it says of itself cannot be used.
            DefinitionConflictError: somebody who lives means something else by one of its capabilities, and is not
                another version of the same agent.
            LeaseTakenError: somebody else lives under its name.
            NotYoursError: its credentials are of another agent.
        """
        if CALLER.get() not in ("", registration.agent):
            raise NotYoursError(registration.agent, CALLER.get())
        key = lease_key(registration.agent, registration.instance)
        if not owns(registration.agent, registration.instance):
            reason = f"an instance of {registration.agent} is called {registration.agent}-, and what has no hyphen"
            raise ConfigError(f"instance {registration.instance}", reason)
        declared = self._definitions.check(registration)
        owner = owner_of(registration.secret)
        standing = self._catalog.get(registration.instance)
        if standing is not None:
            registered = self._held(standing.instance, owner, standing.revision)
            await self._topics.settle(registration)
            return registered
        replaced = [await self._definitions.define(capability, registration) for capability in declared.values()]
        instance = Instance(
            **registration.model_dump(exclude={"secret", "capabilities"}),
            capabilities={name: schemas.digest(capability) for name, capability in declared.items()},
            registered_at=time.time(),
            owner=owner,
        )
        body = codec.encode(instance.model_dump())
        try:
            revision = await self._bucket.create(key, body, PACKED, ttl=self._settings.lease_ttl)
        except WrongSequenceError:
            entry = await self._bucket.get(key)
            if entry is None or not entry.live:
                raise BehindError(0, self._catalog.revision) from None  # it has just run out: once more
            held = codec.read(Instance, entry.headers, entry.body, subject=key)
            return self._held(held, owner, entry.revision)
        await self._catalog.reached(revision)
        known = self._catalog.get(registration.instance)
        if known is not None and known.conflict:  # of two that came at once, this one was second
            await self._bucket.remove(known.instance.key, expect=known.revision)
            await self._definitions.restore(replaced)
            names, moment = ", ".join(declared), "both came at the same moment"
            raise DefinitionConflictError(names, registration.agent, known.conflict, moment, registration.version)
        await self._topics.settle(registration)
        if registration.kind == "agent":
            await self._prober.expect(registration.agent)
        self.spawn(self._tell(instance.agent, instance.instance, "registered", f"registered.{revision}", instance))
        return self._registered(instance, revision)

    def _held(self, standing: Instance, owner: str, revision: int) -> Registered:
        if standing.owner != owner:
            raise LeaseTakenError(standing.instance, _holder(standing))
        return self._registered(standing, revision)

    def _registered(self, instance: Instance, revision: int) -> Registered:
        return Registered(
            instance=instance.instance,
            revision=revision,
            ttl=self._settings.lease_ttl,
            registered_at=instance.registered_at,
        )

    @rpc("deregister")
    async def deregister(self, lease: Lease) -> Removed:
        """Give a lease up. An instance of ours does it by itself; this is for those that cannot write to the bucket.

        Raises:
            NotYourLeaseError: the secret is not its holder's.
        """
        key = lease_key(lease.agent, lease.instance)
        for _ in range(TRIES):
            entry = await self._bucket.get(key)
            if entry is None or not entry.live:
                return Removed(instance=lease.instance, removed=False)
            held = codec.read(Instance, entry.headers, entry.body, subject=key)
            if held.owner != owner_of(lease.secret):
                raise NotYourLeaseError(lease.instance, _holder(held))
            try:
                revision = await self._bucket.remove(key, expect=entry.revision)
            except WrongSequenceError:
                continue  # it was renewed meanwhile
            self.spawn(self._tell(lease.agent, lease.instance, "left", f"left.{revision}", held))
            return Removed(instance=lease.instance, removed=True)
        raise BehindError(0, self._catalog.revision)

    async def _on_reconnect(self) -> None:
        self._all_back = time.monotonic() + RECONNECT_MAX

    def _on_gone(self, name: str, entry: Entry) -> None:
        if entry.expired:
            due = max(time.monotonic(), self._all_back) + self._settings.lease_heartbeat / 2
            self._gone.put_nowait((due, name, entry))

    async def _tell_of_the_dead(self) -> None:
        """A moment after its lease ran out, for it may have been the server that was away; then it is back by now."""
        while True:
            due, name, entry = await self._gone.get()
            await asyncio.sleep(due - time.monotonic())
            agent = entry.key.split(".")[1]
            if self._catalog.get(name) is None and subjects.is_token(name) and subjects.is_token(agent):
                log.warning("%s is dead: its lease ran out", name)
                await self._tell(agent, name, "dead", f"dead.{entry.revision}")

    async def _tell(self, agent: str, name: str, what: str, once: str, instance: Instance | None = None) -> None:
        details = {} if instance is None else {"host": instance.host, "pid": instance.pid}
        connection, by = self.mesh.connection, self.mesh.telemetry.instance
        await events.tell(connection, events.AGENT, name, what, agent=agent, by=by, once=f"{name}.{once}", **details)

    # --- questions --------------------------------------------------------------------------------------------

    @rpc("list")
    async def list_(self, query: Query) -> Page:
        """The instances that live, or those of one agent, by name, in pages."""
        await self._catalog.reached(query.known)
        found = self._catalog.all(query.after)
        if query.agent:
            found = (known for known in found if known.instance.agent == query.agent)
        page = self._page(list(itertools.islice(found, query.limit + 1)), query.limit)
        if query.dead and not page.more:
            page.instances += [
                {"agent": agent, "instance": name, "condition": "dead", "reason": f"its lease ran out {ago:.0f} s ago"}
                for name, ago in self._catalog.lately_dead().items()
                if (agent := name.rpartition("-")[0]) and query.agent in ("", agent)
            ]
        return page

    @rpc("find")
    async def find(self, query: Find) -> Page:
        """The instances that work and have a capability, by name, in pages; and what the capability is."""
        await self._catalog.reached(query.known)
        wanted, counts = query.labels.items(), self._hears if query.names else self._works
        found = (
            known
            for known in self._catalog.having(query.capability, query.after)
            if counts(known) and wanted <= known.instance.labels.items()
        )
        page = self._page(list(itertools.islice(found, query.limit + 1)), query.limit)
        if query.names:
            page.instances = [{"instance": one["instance"]} for one in page.instances]
        elif query.capability in self._catalog.definitions:
            page.definition = self._catalog.definitions[query.capability][0]
        return page

    def _works(self, known: Known) -> bool:
        return self._catalog.condition(known).condition in condition.FOUND

    def _hears(self, known: Known) -> bool:
        """Whether it answers what is meant for all: also who is in error, and whose lease is late, may."""
        instance = known.instance
        return instance.state == "ready" and not instance.paused and not self._catalog.suspicion(instance.instance)

    def _page(self, found: list[Known], limit: int) -> Page:
        return Page(
            instances=[self._catalog.plain(known) for known in found[:limit]],
            pauses=dict(self._catalog.pauses),
            more=len(found) > limit,
            revision=self._catalog.revision,
        )

    @rpc("get")
    async def get(self, name: Name) -> Details:
        """One instance, and what its capabilities are.

        Raises:
            NotFoundError: none of that name lives.
        """
        await self._catalog.reached(name.known)
        known = self._catalog.get(name.instance)
        if known is None:
            raise NotFoundError(f"instance {name.instance}", "none of that name lives")
        definitions = [self._catalog.definitions[one][0] for one in known.instance.capabilities]
        found = self._catalog.condition(known)
        instance = known.instance.model_copy(update={"condition": found.condition, "reason": found.reason})
        return Details(instance=instance, definitions=definitions, revision=self._catalog.revision)

    @rpc("agents")
    async def agents(self, which: Which) -> Agents:
        """The agents that subscribe to a topic, whether they run or not; or those that run and have a capability."""
        await self._catalog.reached(which.known)
        found = self._topics.subscribers(which.topic) if which.topic else self._topics.having(which.capability)
        return Agents(agents=found, revision=self._catalog.revision)

    @rpc("capabilities")
    async def capabilities(self) -> Capabilities:
        """What can be done here, and by whom."""
        found = []
        for capability in self._catalog.capabilities():
            agents = [known.instance.agent for known in self._catalog.having(capability)]
            if agents:
                names = sorted(set(agents))
                found.append(CapabilitySummary(capability=capability, agents=names, instances=len(agents)))
        return Capabilities(capabilities=found, revision=self._catalog.revision)


def _holder(instance: Instance) -> str:
    return f"{instance.agent} on {instance.host or 'a host without a name'} (process {instance.pid})"
