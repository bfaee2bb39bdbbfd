"""Does tasks: pulls them by priority, runs their handlers, and carries out the outcome table (`bus.outcomes`).

A task in hand is held (it waits for a slot), secluded (it waits until nothing else runs, for a worker died with it
before) or active. While it is any of the three its ack deadline is extended. It leaves by being settled, in one place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from bus import subjects
from bus.connection import Connection
from bus.control import Control, ShedOrder
from bus.errors import BusError, DecodeError
from bus.extender import Extender, Pulse, both
from bus.heartbeat import Heart
from bus.intake import Intake
from bus.messages import CAPABILITY, Beat, Envelope
from bus.nursery import Nursery, WorkerFaultError
from bus.outcomes import Happening, Policy
from bus.pace import Pace
from bus.pull import Puller, Source
from bus.recovery import Recovery
from bus.revoked import Revoked
from bus.run import Capability, Handler, Run
from bus.running import Runner
from bus.settling import Settler
from bus.tasks import receive
from bus.telemetry import Span, Telemetry
from bus.wire import Message

__all__ = ["Capability", "Handler", "Worker", "WorkerFaultError"]

log = logging.getLogger(__name__)

HELD: Final = 1.0
"""Seconds that a task waits in hand for a slot, then another worker shall have it."""


class Signs(Protocol):
    """Who must know whether a worker hears its queue."""

    def left(self, took: float | None, *, failed: bool) -> None:
        """A task is in hand no more; its handler ran for so many seconds, if it did."""

    def turned(self) -> None:
        """A breaker has changed."""

    async def probe(self) -> None:
        """Do what a task does on its way, and nothing else."""

    def refused(self) -> None:
        """There will be no probes."""


class Worker:
    """Runs up to `concurrency` tasks of its capabilities at once, and loses none.

    Use it as a context manager: on the way out it drains.
    """

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        capabilities: Sequence[Capability],
        *,
        agent: str,
        instance: str,
        concurrency: int = 1,
        named: Policy | None = None,
        pulse: Pulse | None = None,
        signs: Signs | None = None,
        on_pause: Callable[[str], None] | None = None,
    ) -> None:
        """With `named`, the policy of those consumers, it also does the tasks that are sent to the agent by name. With
        neither a capability nor that it takes no task, but does its probes, and hears orders, as any other.
        `pulse` is called beside the worker's own heartbeat, from another thread, while a handler blocks the loop.
        `signs` is told of what proves that the worker hears its queue, and does the probes that are sent to it.
        `on_pause` hears why somebody paused it, and with an empty reason that it goes on.
        """
        self._connection = connection
        self._settings = connection.settings
        self._capabilities = {capability.name: capability for capability in capabilities}
        self._agent = agent
        self._instance = instance
        self._concurrency = concurrency
        self._in_hand: dict[int, Run] = {}
        self._held: Intake[Run] = Intake()
        self._secluded: deque[Run] = deque()
        self._active: set[Run] = set()
        self._exclusive: Run | None = None
        self._pace = Pace(concurrency)
        self._paces = {name: Pace(concurrency) for name in self._capabilities}
        self._listening = False
        self._left = False
        self._draining = False
        self._idle = asyncio.Event()
        self._nursery = Nursery(f"worker {instance}")
        self._spawn = self._nursery.spawn
        self.failed: asyncio.Future[BusError] = self._nursery.failed
        """Done when the worker cannot go on: its process should end, so that a new one takes over."""
        self.shed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when others need the room and we are idle, with why: the process should drain and stay away a while."""
        self._address = subjects.agent_address(agent)
        policies = [*(one.policy for one in capabilities), *([named] if named is not None else [])]
        sources = _sources([*self._capabilities, *([self._address] if named is not None else [])])
        self._signs = signs
        self._probes = subjects.probe(agent) if signs is not None else ""
        if signs is not None:  # the last to be pulled, and nothing hangs on it: the registry makes this consumer
            sources.append(Source(self._probes, agent, len(subjects.PRIORITIES) - 1, subjects.PROBES, needed=False))
        self._paused = False
        self._puller = Puller(
            connection,
            sources,
            self._on_message,
            spare=self._spare,
            spawn=self._spawn,
            fail=self._nursery.fail,
            on_quiet=self._schedule,
            on_refused=signs.refused if signs is not None else None,
        )
        self._heart = Heart(connection, self._beat, self._news, self._spawn)
        self._on_pause = on_pause
        self._extender = Extender(
            connection.url,
            name=f"{agent}-{instance}",
            ack_wait=min([one.ack_wait for one in policies], default=self._settings.ack_wait),
            settings=self._settings,
            pulse=self._heart.pulse if pulse is None else both(self._heart.pulse, pulse),
        )
        self._recovery = Recovery(
            connection,
            telemetry,
            self._capabilities,
            agent=agent,
            instance=instance,
            spawn=self._spawn,
            in_hand=self._in_hand.values,
            changed=self._leave_out,
            turned=signs.turned if signs is not None else None,
        )
        self._settler = Settler(
            connection,
            self._extender,
            agent=agent,
            instance=instance,
            changed=self._schedule,
            unstored=self._recovery.unstored,
        )
        self._revoked = Revoked(connection, self._settler, self._in_hand, let_go=self._let_go, spawn=self._spawn)
        self._control = Control(
            connection,
            agent,
            instance,
            on_end=self._revoked.on_end,
            on_shed=self._on_shed,
            beat=self._beat,
            on_pause=self._pause,
            on_lanes=self._puller.serve_lanes,
        )
        self._runner = Runner(
            connection, telemetry, self._settler, self._recovery, seclude=self._seclude, spawn=self._spawn
        )

    def start(self) -> None:
        """Take work from now on."""
        self._spawn(self._open())

    async def _open(self) -> None:
        await self._control.open()  # before the first task comes: nobody may cancel one that we do not hear of
        self._listening = True
        self._heart.start()
        self._schedule()

    @property
    def in_hand(self) -> int:
        """How many tasks are in hand: held, secluded or active."""
        return len(self._in_hand)

    @property
    def taking(self) -> bool:
        """Whether it has room for a task, and takes one."""
        return self._clear and len(self._active) < self._concurrency

    @property
    def unstored(self) -> int:
        """How many tasks have come to an end that could not be stored yet."""
        return self._settler.waiting

    @property
    def waiting(self) -> int:
        """How many of those have not been started, or wait to be alone."""
        return len(self._held) + len(self._secluded)

    @property
    def breakers(self) -> dict[str, Literal["open", "half-open"]]:
        """The capabilities of which it takes nothing, or one to see, for they fail; any thread may ask."""
        return self._recovery.guards.states

    # --- work comes in ------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if message.subject == self._probes and self._signs is not None:
            self._spawn(self._probe(self._signs, message.reply))
            return
        envelope = receive(message, self._settings.deadline)
        known = self._in_hand.get(envelope.sequence)
        if known is not None:
            # It came again while we have it: the connection was lost, or we were too slow to extend. It runs on,
            # and is settled by its newest delivery.
            known.envelope.reply = envelope.reply
            known.envelope.deliveries = envelope.deliveries
            self._extender.hold(envelope.sequence, envelope.reply)
            return
        run = Run(envelope, self._capability_of(envelope), began_at=time.time())
        self._in_hand[envelope.sequence] = run
        self._extender.hold(envelope.sequence, envelope.reply)
        if envelope.sequence in self._revoked.early:
            run.task = self._spawn(self._return(run, self._revoked.early[envelope.sequence]))
            return
        if self._clear and not self._held and len(self._active) < self._concurrency:
            self._start(run)
        else:
            self._held.put(run, envelope.priority)
        self._schedule()
        if run.task is None:
            patience = min(HELD, self._settings.hold)
            run.timer = self._connection.alarms.set(patience, lambda: self._hand_back_held(run))

    async def _probe(self, signs: Signs, reply: str) -> None:
        """Prove that what comes is done. With all slots taken the tasks in them prove it when they end."""
        if self.taking:
            await signs.probe()
            await self._connection.publish(subjects.probed(self._agent, self._instance), b"")
        await self._connection.publish(reply, b"+ACK")
        self._puller.stand()

    def _capability_of(self, envelope: Envelope) -> Capability:
        """What is to be done with a task. One that was sent to the agent by name says so in a header, unless it has
        only one capability; what makes no sense is the task's fault.
        """
        if envelope.capability != self._address:
            return self._capabilities[envelope.capability]
        only = next(iter(self._capabilities.values()))
        wanted = envelope.headers.get(CAPABILITY, "")
        if wanted in self._capabilities:
            return self._capabilities[wanted]
        if wanted or len(self._capabilities) > 1:
            names = ", ".join(self._capabilities)
            reason = f"header {CAPABILITY}: {wanted!r:.80} is none of what {self._agent} does: {names}"
            envelope.fault = envelope.fault or DecodeError(envelope.subject, reason)
        return only

    @property
    def _clear(self) -> bool:
        """Whether tasks are started as they come: none has to be alone, none has an end that cannot be stored."""
        return (
            self._listening
            and not self._draining
            and not self._paused
            and self._exclusive is None
            and not self._secluded
            and not self._settler.waiting
        )

    def _schedule(self) -> None:
        """Start what may start and say how much more may come. Called after every change."""
        if self._draining or not self._listening:
            return
        if self._paused:
            self._puller.want(0, now=True)
            return
        if self._clear and not self._held and len(self._active) < self._concurrency and self._puller.settled:
            return  # nothing waits, and pulls stand for what may come
        while len(self._active) < self._concurrency and self._exclusive is None:
            run = self._held.next()
            if run is None:
                break
            self._start(run)
        if self._secluded and self._exclusive is None:
            self._puller.want(0, now=True)
            if not self._active and not self._held and self._puller.quiet:
                self._exclusive = run = self._secluded.popleft()
                self._active.add(run)
                assert run.alone is not None
                run.alone.set_result(None)
        elif self._exclusive is not None or self._settler.waiting:
            self._puller.want(0, now=True)
        else:
            ahead = self._pace.ahead
            wanted = max(0, self._concurrency - len(self._active) + ahead - len(self._held))
            self._puller.want(wanted, ahead=ahead > 0)

    def _spare(self, rank: int) -> int:
        """How many more of a rank there is use for while nothing else is wanted."""
        return self._pace.reserve - self._held.count(rank)

    def _start(self, run: Run) -> None:
        if run.timer is not None:
            run.timer.clear()
            run.timer = None
        if not self._recovery.admit(run):
            run.task = self._spawn(self._return(run, Happening.HANDED_BACK))
            return
        self._active.add(run)
        run.task = asyncio.get_running_loop().create_task(self._work(run))  # kept by `_in_hand`
        self._heart.soon()

    def _leave_out(self) -> None:
        """Take nothing of the capabilities that are shut: it waits with the server, or goes to another replica. What is
        sent to the agent by name may be for any of them.
        """
        shut = self._recovery.guards.shut
        self._puller.leave_out(shut | {self._address} if len(shut) == len(self._capabilities) else shut)
        self._schedule()

    # --- one task -----------------------------------------------------------------------------------------

    async def _work(self, run: Run) -> None:
        try:
            await self._runner.run(run)
        except Exception as error:  # noqa: BLE001  (nothing that a handler does ends here)
            self._nursery.fault(error)
        finally:
            seconds = time.time() - run.began_at
            self._pace.took(seconds)
            self._paces[run.capability.name].took(seconds)
            self._leave(run)

    def _leave(self, run: Run) -> None:
        if self._signs is not None:
            self._signs.left(run.took, failed=run.failed)
        if run.timer is not None:
            run.timer.clear()
        self._extender.release(run.envelope.sequence)
        self._recovery.left(run)
        self._in_hand.pop(run.envelope.sequence, None)
        self._active.discard(run)
        if self._exclusive is run:
            self._exclusive = None
        if not self._in_hand:
            self._idle.set()
        self._schedule()

    async def _seclude(self, run: Run) -> None:
        loop = asyncio.get_running_loop()
        run.alone = loop.create_future()
        self._active.discard(run)
        self._secluded.append(run)
        hold = loop.call_later(self._settings.hold, run.stop, Happening.HANDED_BACK)
        try:
            self._schedule()
            await run.alone
        finally:
            hold.cancel()
            if run in self._secluded:
                self._secluded.remove(run)

    # --- others speak to us -------------------------------------------------------------------------------

    def _pause(self, reason: str) -> None:
        """Take nothing until told to go on, and hand back what has not been started."""
        self._paused = bool(reason)
        if self._on_pause is not None:
            self._on_pause(reason)
        if self._paused:
            self._hand_back_all_held()
            for run in list(self._secluded):
                run.stop(Happening.HANDED_BACK)
        self._schedule()

    def _hand_back_all_held(self) -> None:
        for run in self._held.clear():
            if run.timer is not None:
                run.timer.clear()
            run.task = self._spawn(self._return(run, Happening.HANDED_BACK))

    def _on_shed(self, order: ShedOrder) -> None:
        """Somebody on this host is short of what we hold. Who has work by now stays."""
        if not self._in_hand and not self._draining and not self.shed.done():
            self.shed.set_result(order.reason)

    def _let_go(self, run: Run, why: Happening) -> None:
        if run.task is not None:
            run.stop(why)
            return
        self._held.remove(run, run.envelope.priority)
        if run.timer is not None:
            run.timer.clear()
        run.task = self._spawn(self._return(run, why))

    def _beat(self) -> Beat:
        runs = list(self._in_hand.values())  # one step, for the extender's thread asks too
        for run in runs:
            run.announced = True
        return Beat.model_construct(
            agent=self._agent,
            instance=self._instance,
            at=time.time(),
            concurrency=self._concurrency,
            capabilities=list(self._capabilities),
            in_hand=[run.as_in_hand() for run in runs],
            leaving=self._left,
            lanes=self._puller.serves_lanes,
            took={name: pace.seconds for name, pace in self._paces.items() if pace.seconds is not None},
        )

    def _news(self) -> float | None:
        began = min((run.began_at for run in self._active if not run.announced), default=None)
        return None if began is None else time.time() - began

    # --- leaving ------------------------------------------------------------------------------------------

    def _hand_back_held(self, run: Run) -> None:
        """A held task found no slot here for too long: another replica may have one."""
        self._pace.lost()
        if run.task is None:
            self._held.remove(run, run.envelope.priority)
            run.task = self._spawn(self._return(run, Happening.HANDED_BACK))

    async def _return(self, run: Run, why: Happening) -> None:
        """Let go of a task that was never started here."""
        try:
            await self._settler.conclude(run, Span(), why, run.error_of(why))
        finally:
            self._leave(run)

    async def drain(self, timeout: float | None = None) -> None:
        """Take no more, hand back what has not started, finish what runs; after `timeout` seconds hand that back."""
        timeout = self._settings.drain_timeout if timeout is None else timeout
        if self._draining:
            return
        self._draining = True
        self._recovery.close()
        await self._puller.stop()
        self._hand_back_all_held()
        for run in list(self._secluded):
            run.stop(Happening.HANDED_BACK)
        await self._until_idle(timeout)
        self._settler.hurry()
        for run in list(self._in_hand.values()):
            log.warning("task %s is handed back: the drain took over %g s", run.envelope.task_id, timeout)
            run.stop(Happening.HANDED_BACK)
        await self._until_idle(5.0)
        self._left = True
        self._revoked.close()
        await self._heart.stop()
        await self._control.close()
        await self._extender.close()
        await self._nursery.close(run.task for run in self._in_hand.values() if run.task is not None)

    async def _until_idle(self, timeout: float) -> None:
        self._idle.clear()
        if self._in_hand:
            try:
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
            except TimeoutError:
                return

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()


def _sources(addresses: Sequence[str]) -> list[Source]:
    """The consumers of these addresses, the most urgent first."""
    return [
        Source(f"{address}.{priority}", subjects.consumer(address, priority), rank)
        for rank, priority in enumerate(subjects.PRIORITIES)
        for address in addresses
    ]
