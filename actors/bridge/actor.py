"""The bridge: a system actor, any number of replicas, none with a state that the others lack.

It meets the foreign agents, those that speak the Synadia Agent Protocol and are not ours, keeps them in the registry
for as long as their heartbeats come, and does the tasks that are sent to them by name: by prompting them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import logging
import time
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from actors.actor import Actor, rpc
from actors.bridge.foreigners import Foreign, Foreigners
from actors.bridge.leases import Leases
from actors.bridge.leftovers import Leftovers
from actors.bridge.work import courier
from actors.loading import default_policy
from actors.registry.catalog import Catalog
from bus import subjects, topology
from bus.errors import BusError, NotFoundError, TransportError
from bus.prompts import MAX_SILENCE
from bus.store import Entry
from bus.worker import Capability, Handler, Worker

log = logging.getLogger(__name__)

LOOKS: Final = 4
"""In each heartbeat of a lease: how often is looked whether one is due."""
AGAIN: Final = 15.0
"""Seconds after which an agent whose tasks we may not do, or must not, is looked at again."""


class BridgeSettings(BaseModel):
    """The table `[system.bridge]` of a mesh file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(4, ge=1, le=1000, description="prompts for one foreign agent at once, by each bridge")
    time_limit: float = Field(600.0, gt=0, description="seconds that one attempt may take")
    forget: float = Field(
        3600.0, gt=0, description="seconds after which a name that is gone is forgotten, if no task waits"
    )
    inactivity: float = Field(2 * MAX_SILENCE, gt=0, description="seconds without a sign of life in an answer")


class Known(BaseModel):
    """An instance of a foreign agent, as the bridge that is asked knows it."""

    agent: str
    instance: str
    owner: str
    session: str
    prompt: str
    description: str
    interval: float
    native: str = ""
    """Whose name it is, if it is not the foreign one's: it is given no tasks then."""


class Bridge(Actor):
    """Keeps foreign agents in the registry, and has them do tasks: those that speak the Synadia Agent Protocol."""

    name = subjects.BRIDGE
    concurrency = 8
    Settings = BridgeSettings
    settings: BridgeSettings

    async def on_start(self) -> None:
        """Know who is ours, and meet who is not."""
        connection = self.mesh.connection
        self._wake = asyncio.Event()
        self._numbers = itertools.count(1)
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._natives: dict[str, str] = {}
        """By agent, whose name it is if not the foreign one's."""
        self._withheld: dict[str, tuple[float, str]] = {}
        """Agents whose tasks are not done: until when that is not looked at again, and whose they are."""
        self._catalog = Catalog(connection, on_gone=_nothing, spawn=self.spawn)
        self._foreigners = Foreigners(connection, self._catalog, spawn=self.spawn, changed=self._wake.set)
        self._leftovers = Leftovers(connection, self.settings.forget)
        self._leases = Leases(connection, self._catalog, self.mesh.telemetry.instance)
        metrics = self.mesh.telemetry.metrics
        metrics.watch("revo_foreign_agents", "Instances of foreign agents that live.", lambda: len(self._alive()))
        metrics.watch("revo_foreign_agents_served", "Foreign agents that tasks are done for.", self._workers.__len__)
        await self._catalog.open()
        await self._foreigners.open()
        self.spawn(self._look())

    async def on_stop(self) -> None:
        """Take no more tasks; what is in hand is finished, or goes to another replica."""
        for agent in list(self._workers):
            self._let_go(agent)
        await asyncio.gather(*self._leaving)
        await self._catalog.close()

    @rpc("foreign")
    async def foreign(self) -> list[Known]:
        """The foreign agents that this replica knows."""
        return [
            Known(
                agent=one.agent,
                instance=one.name,
                owner=one.info.owner,
                session=one.info.session,
                prompt=one.info.prompt,
                description=one.info.description,
                interval=one.interval,
                native=self._natives.get(one.agent, ""),
            )
            for one in self._alive()
        ]

    def _alive(self) -> list[Foreign]:
        return self._foreigners.alive()

    async def _look(self) -> None:
        """See to leases and workers: by the clock, for silence announces itself to nobody, and when somebody comes."""
        pause, late = self.mesh.connection.settings.lease_heartbeat / LOOKS, 0.0
        while True:
            self._foreigners.forget_the_silent(late)
            try:
                await self._look_once()
                await self._leftovers.look(self._names())
            except TransportError as error:
                log.debug("foreign agents: %s; trying again", error)
            due = time.monotonic() + pause
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass  # which is the usual case
            late = time.monotonic() - due
            self._wake.clear()

    def _names(self) -> set[str]:
        """The agents that anybody here knows."""
        living = {one.instance.agent for one in self._catalog.all()}
        return living | {one.agent for one in self._alive()} | self._workers.keys()

    async def _look_once(self) -> None:
        alive = self._alive()
        agents = {one.agent for one in alive}
        if not agents and not self._workers:
            return
        living = {one.instance.agent for one in self._catalog.all() if not one.instance.foreign}
        now = asyncio.get_running_loop().time()
        self._withheld = {agent: held for agent, held in self._withheld.items() if agent in agents and held[0] > now}
        for agent in agents - living - self._workers.keys() - self._withheld.keys():
            await self._serve(agent, now)
        self._natives = {agent: owner for agent, (_, owner) in self._withheld.items() if owner}
        self._natives |= {agent: f"agent {agent} of this mesh" for agent in agents & living}
        for agent in self._workers.keys() - (agents - living):
            self._let_go(agent)
        await self._leases.hold(alive, self._natives)

    # --- their tasks ------------------------------------------------------------------------------------------

    async def _serve(self, agent: str, now: float) -> None:
        """Do the tasks of an agent from now on, unless its name is, or was, that of one of ours: then the consumers are
        its own, and it may only be away.
        """
        connection, address = self.mesh.connection, subjects.agent_address(agent)
        policy = dataclasses.replace(default_policy(connection.settings), time_limit=self.settings.time_limit)
        try:
            owner = await self._owner_of(address)
            if owner not in ("", self.name):
                self._withheld[agent] = now + AGAIN, f"agent {owner} of this mesh, which is away"
                return
            standing, conflict = await topology.ensure_capability(connection, address, policy, self.name)
        except BusError as error:
            if error.retryable:
                raise
            self._withheld[agent] = now + AGAIN, ""
            log.warning("foreign agent %s is given no tasks: %s", agent, error)
            return
        if conflict is not None:
            log.warning("%s; what %s set up holds", conflict, conflict.theirs)

        worker = self._worker_for(agent, Capability(address, self._courier(agent), standing))
        self._workers[agent] = worker, self.spawn(self._watch(worker))
        worker.start()
        log.info("tasks for foreign agent %s are done from now on", agent)

    def _courier(self, agent: str) -> Handler:
        async def nobody() -> None:
            await self._foreigners.look_after(agent)

        return courier(
            self.mesh.connection,
            self.mesh.telemetry,
            agent,
            inactivity=self.settings.inactivity,
            places=lambda: self._foreigners.of(agent),
            nobody=nobody,
        )

    def _worker_for(self, agent: str, capability: Capability) -> Worker:
        """One for each agent: who is slow keeps nobody else's tasks waiting."""
        digest = hashlib.blake2b(agent.encode(), digest_size=4).hexdigest()
        return Worker(
            self.mesh.connection,
            self.mesh.telemetry,
            [capability],
            agent=self.name,
            instance=f"{self.mesh.telemetry.instance}_{digest}_{next(self._numbers)}",
            concurrency=self.settings.concurrency,
        )

    async def _owner_of(self, address: str) -> str:
        """The agent that set up the consumers of an address; empty where there are none."""
        try:
            return (await topology.standing_policy(self.mesh.connection, address))[1]
        except NotFoundError:
            return ""

    async def _watch(self, worker: Worker) -> None:
        """A worker that cannot go on ends the process, so that a new one takes over."""
        raise await worker.failed

    def _let_go(self, agent: str) -> None:
        """Do no more tasks of an agent: they wait for it, or for ours of its name."""
        worker, watching = self._workers.pop(agent)
        watching.cancel()
        leaving = asyncio.get_running_loop().create_task(worker.drain())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._left)
        log.info("tasks for foreign agent %s are done no more", agent)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_result(error)


def _nothing(_name: str, _entry: Entry) -> None:
    """The registry tells of the dead."""
