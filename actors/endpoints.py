"""Where one actor takes its work: it answers requests, it is prompted, and it pulls tasks."""

from __future__ import annotations

import asyncio
import logging

from actors.actor import Actor, Agent, Handler, prompted_by
from actors.loading import default_policy
from actors.mailbox import Mailbox
from actors.registry.registrar import Registrar
from actors.runtime import Threads, broadcast_handler, prompt_service, rpc_handler, task_handler
from actors.selfreport import SelfReport
from bus import stewards, subjects, topology
from bus.outcomes import Policy
from bus.prompts import PromptService
from bus.rpc import Service
from bus.worker import Capability, Worker

log = logging.getLogger(__name__)


class Endpoints:
    """The endpoints of one actor, which has its mesh by now."""

    def __init__(
        self,
        actor: Actor,
        handlers: list[Handler],
        mailbox: Mailbox,
        threads: Threads,
        *,
        report: SelfReport,
        registrar: Registrar,
    ) -> None:
        self._actor = actor
        self._handlers = handlers
        self._mailbox = mailbox
        self._threads = threads
        self._report = report
        self._registrar = registrar
        mesh, description = actor.mesh, (type(actor).__doc__ or "").strip().partition("\n")[0]
        self._service = Service(
            mesh.connection,
            mesh.telemetry,
            actor.name,
            mesh.telemetry.instance,
            actor.version,
            description,
            meter=report.meter,
        )
        self._prompts: PromptService | None = None
        self._turning = asyncio.Lock()
        self.worker: Worker | None = None
        """What does its tasks and its probes, and hears the orders to it; None of an actor that is no agent."""

    async def open(self) -> None:
        """Take work from now on: requests first, then prompts, then tasks."""
        actor, mailbox, threads = self._actor, self._mailbox, self._threads
        capabilities = []
        for handler in self._handlers:
            if handler.kind == "rpc":
                answer = rpc_handler(actor, handler, mailbox, threads)
                self._service.endpoint(handler.name, answer, scoped=handler.scoped)
            else:
                at_once = broadcast_handler(actor, handler, mailbox, threads)
                self._service.on_broadcast(handler.name, at_once)
                for topic in handler.topics:
                    self._service.endpoint(subjects.topic_method(topic), at_once)
                policy = await self._policy(handler.name, handler)
                call = task_handler(actor, handler, mailbox, threads)
                capabilities.append(Capability(handler.name, call, policy, saves=handler.saves is not None))
        await self._service.start()
        if (prompted := prompted_by(type(actor))) is not None:
            instance, meter = actor.mesh.telemetry.instance, self._report.meter
            self._prompts = prompt_service(actor, prompted, mailbox, threads, instance, meter=meter)
            await self._prompts.start()
        if isinstance(actor, Agent):
            await self._take_tasks(actor, capabilities)

    async def _take_tasks(self, actor: Agent, capabilities: list[Capability]) -> None:
        """Take tasks, and orders. An agent that does none, for it only answers, is probed and paused as others are."""
        connection, telemetry = actor.mesh.connection, actor.mesh.telemetry
        named = await self._policy(subjects.agent_address(actor.name), None) if capabilities else None
        self.worker = Worker(
            connection,
            telemetry,
            capabilities,
            agent=actor.name,
            instance=telemetry.instance,
            concurrency=actor.concurrency,
            named=named,
            pulse=self._registrar.pulse,
            signs=self._report,
            on_pause=self._on_pause,
        )
        self._report.know(connection, self.worker)
        self.worker.start()

    def _on_pause(self, reason: str) -> None:
        """Take no work, or go on; requests go to others meanwhile."""
        self._report.pause(reason)
        self._actor.spawn(self._turn())

    async def _turn(self) -> None:
        """Have requests and prompts go to others before anybody reads that we are paused. One order after the other,
        and as the last of them said.
        """
        async with self._turning:
            for door in (self._service, self._prompts):
                if door is not None:
                    await (door.pause() if self._report.paused else door.resume())
        self._registrar.renew_soon()

    async def _policy(self, address: str, handler: Handler | None) -> Policy:
        """How what is sent to an address is run: what stands there, and otherwise what we want."""
        connection, name = self._actor.mesh.connection, self._actor.name
        wanted = default_policy(connection.settings)
        if handler is not None:
            wanted = handler.policy_over(wanted)
        if connection.restricted:
            telemetry = self._actor.mesh.telemetry
            standing, conflict = await stewards.policy_of(connection, telemetry, address, wanted, name)
        else:
            standing, conflict = await topology.ensure_capability(connection, address, wanted, name)
        if conflict is not None:
            log.warning("%s; what %s set up holds", conflict, conflict.theirs)
        return standing

    async def drain(self, timeout: float) -> None:
        """Take no more, and finish what is in hand within `timeout` seconds."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._service.drain(timeout))
            if self._prompts is not None:
                group.create_task(self._prompts.drain(timeout))
            if self.worker is not None:
                group.create_task(self.worker.drain(timeout))
