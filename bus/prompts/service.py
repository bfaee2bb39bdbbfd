"""Answers prompts: one instance of an agent of the Synadia Agent Protocol (v0.3).

All instances that share an address are one queue group, so each prompt goes to one of them. At most once: what a caller
did not hear, because he or we lost the connection, nobody sends again; work that must not be lost is a task.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

from bus import subjects
from bus.alarms import Alarm
from bus.connection import Connection, Subscription
from bus.endings import error_info
from bus.errors import DecodeError, MailboxFullError, PromptRefusedError
from bus.health import Meter
from bus.micro import Endpoint, Micro
from bus.prompts.envelope import Envelope, read_envelope
from bus.prompts.presence import prompt_metadata, service_metadata
from bus.prompts.prompt import Ears, Prompt, Stream, sender_of
from bus.prompts.pulse import Pulse
from bus.prompts.run import DRAINED, LATE, Run, attributes_of, has_failed
from bus.subjects import AGENTS, PromptAddress
from bus.telemetry import Span, Telemetry
from bus.wire import Message

log = logging.getLogger(__name__)

PromptHandler = Callable[[Prompt], Awaitable[None]]
"""Answers a prompt by what it sends; returns when it has. What it raises is the caller's error 500, or the number of a
`PromptRefusedError`."""
Turn = Callable[[], AbstractAsyncContextManager[None]]
"""A block that is entered when it is a prompt's turn. It may raise `MailboxFullError`."""

_OUTCOMES: Final = ("refused", "failed")
MOST_WAITING: Final = 64 * 1024 * 1024
"""Bytes of the prompts that wait for their turn: of the largest, the mailbox may have room for more."""
_LAST_WORDS: Final = 1.0
"""Seconds that those who are cut off by a drain have to say so."""


@dataclass(slots=True)
class PromptService:
    """One instance. `start` it, and `drain` before the connection closes."""

    connection: Connection
    telemetry: Telemetry
    address: PromptAddress
    instance: str
    version: str
    description: str
    handler: PromptHandler
    turn: Turn
    room: Callable[[], None] = lambda: None
    """Raises `MailboxFullError` when no prompt more may wait; asked before one is read."""
    attachments: bool = True
    meter: Meter | None = None
    """Counts what came to an end. What its caller did wrong, and what is to come later, has not failed."""
    _endpoints: dict[str, Endpoint] = field(default_factory=dict)
    _interest: Subscription | None = None
    """In prompts; None while it takes none."""
    _status: Subscription | None = None
    _turning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _running: set[Run] = field(default_factory=set)
    _waiting: int = 0
    """Bytes of the prompts that wait for their turn."""
    _micro: Micro = field(init=False)
    _ears: Ears = field(init=False)
    _pulse: Pulse = field(init=False)
    _draining: bool = False

    def __post_init__(self) -> None:
        about = prompt_metadata(self.max_payload, attachments=self.attachments)
        self._endpoints = {
            "prompt": Endpoint("prompt", self.address.prompt, AGENTS, about),
            "status": Endpoint("status", self.address.status, AGENTS),
        }
        self._micro = Micro(
            self.connection,
            AGENTS,
            self.instance,
            self.version,
            self.description,
            service_metadata(self.address),
            self._endpoints.values(),
            also=subjects.listing,
        )
        self._pulse = Pulse(self.connection, self.address, self.instance, self._endpoints["status"])
        self._ears = Ears(self.connection, self.address.agent, self.instance)

    @property
    def max_payload(self) -> int:
        """Bytes of a prompt that are taken."""
        return min(self.connection.settings.prompt_max_payload, self.connection.max_payload)

    async def start(self) -> None:
        """Serve, and say so; returns when the server knows of it."""
        await self._ears.start()
        await self.resume()
        status = self._endpoints["status"]
        self._status = await self.connection.subscribe(status.subject, self._pulse.answer, queue=status.queue)
        await self._micro.start()
        self._pulse.start()

    async def resume(self) -> None:
        """Take prompts, from the start or after a pause; returns when the server knows. May be repeated."""
        async with self._turning:
            if self._interest is None and not self._draining:
                prompt = self._endpoints["prompt"]
                self._interest = await self.connection.subscribe(prompt.subject, self._receive, queue=prompt.queue)

    async def pause(self) -> None:
        """Take no more prompts for now, so that they go to other instances; those in hand are answered. It is found,
        and beats, as before. May be repeated.
        """
        async with self._turning:
            if self._interest is not None:
                ending, self._interest = self._interest, None
                await ending.drain()

    async def drain(self, timeout: float) -> None:
        """Take no more, finish what runs within `timeout` seconds, and tell those who wait for their turn, and those
        whose prompt takes longer, that they must ask another instance.
        """
        self._draining = True
        self._pulse.stop()
        await self._micro.drain()
        await self.pause()
        if self._status is not None:
            await self._status.drain()
        for run in self._running:
            if run.waiting:
                run.stop(DRAINED)
        if tasks := [run.task for run in self._running if run.task is not None]:
            await asyncio.wait(tasks, timeout=timeout)
            for run in self._running:
                run.stop(DRAINED)
            await asyncio.wait(tasks, timeout=_LAST_WORDS)  # no longer: a handler in a thread may never end

    # --- prompts ------------------------------------------------------------------------------------------

    def _receive(self, message: Message) -> None:
        if not message.reply:
            log.warning("a prompt on %s names nobody to answer; it is left out", message.subject)
            return
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[str] = loop.create_future()
        stream = Stream(self.connection, self._ears, message.reply, stopped)
        run = Run(message, stream, stopped)
        run.task = loop.create_task(self._serve(run))
        self._running.add(run)
        run.task.add_done_callback(lambda task: self._served(run, task))

    def _served(self, run: Run, task: asyncio.Task[None]) -> None:
        self._running.discard(run)
        self._begins(run)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a prompt on %s: %s", run.message.subject, error, exc_info=error)

    async def _serve(self, run: Run) -> None:
        began = time.perf_counter()
        endpoint, stream, headers = self._endpoints["prompt"], run.stream, run.message.headers
        endpoint.requests += 1
        failure: PromptRefusedError | None = PromptRefusedError("the agent stops; ask another", 503)
        name, about = (
            f"prompt {self.address.agent}",
            functools.partial(attributes_of, run.message, self.address, self.instance),
        )
        with self.telemetry.span(name, kind="server", headers=headers, attributes=about) as span:
            try:
                failure = await self._end_of(run, span)
            finally:  # also when the process stops at once
                await stream.end(failure)
                took = time.perf_counter() - began
                endpoint.processing += took
                if self.meter is not None:
                    self.meter.ended(took, failed=has_failed(failure))
                outcome = run.stopped.result() if run.stopped.done() else "answered"
                if failure is not None:
                    endpoint.failed(str(failure))
                    span.set("error.type", str(failure.number))
                    outcome = outcome if run.stopped.done() else _OUTCOMES[failure.number >= 500]
                span.set("revo.prompt.chunks", stream.chunks)
                self.telemetry.metrics.prompted(outcome, waited=run.waited, took=run.took, trace_id=span.trace_id)

    async def _end_of(self, run: Run, span: Span) -> PromptRefusedError | None:
        """Work on a prompt until it ends; returns what its caller is to be told of a failure."""
        alarms: list[Alarm] = []
        work = asyncio.ensure_future(self._work(run, span, alarms))
        try:
            await asyncio.wait((work, run.stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                failure = run.why(self.connection.settings.prompt_limit)
                span.fail(str(failure))
                await run.stream.end(failure)  # at once: what runs in a thread ends when it likes
                return failure
            work.result()
        except PromptRefusedError as error:
            span.fail(error)
            return error
        except MailboxFullError as error:
            span.fail(error)
            return PromptRefusedError(str(error), 429)
        except (Exception, SystemExit) as error:  # whatever a handler raises goes to the caller
            span.fail(error)
            log.warning("%s failed a prompt: %s: %s", self.instance, type(error).__name__, error, exc_info=error)
            info = error_info(error)
            return PromptRefusedError(f"{info.code}: {info.message}", 500)
        finally:
            for alarm in alarms:
                alarm.clear()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return None

    async def _work(self, run: Run, span: Span, alarms: list[Alarm]) -> None:
        began = time.perf_counter()
        if self._draining:
            raise PromptRefusedError("the agent takes no more prompts; ask another", 503)
        self._find_room(run)
        envelope = self._read(run.message)
        run.stream.open()
        self._keep_alive(run.stream, alarms)
        prompt = Prompt(envelope, sender_of(run.message.headers), run.stream, span)
        async with self.turn():
            self._begins(run)
            started = time.perf_counter()
            run.waited = started - began
            span.event("started")
            limit = self.connection.settings.prompt_limit
            alarms.append(self.connection.alarms.set(limit, lambda: run.stop(LATE)))
            try:
                await self.handler(prompt)
            except asyncio.CancelledError:
                prompt.stop.set()
                raise
            finally:
                run.took = time.perf_counter() - started

    def _find_room(self, run: Run) -> None:
        """Let it wait for its turn, if there is room for it. Asked before it is read: that takes as much again.

        Raises:
            MailboxFullError: too many wait.
            PromptRefusedError: those that wait are too large.
        """
        self.room()
        size, waiting = len(run.message.data), self._waiting
        if waiting and waiting + size > MOST_WAITING:
            reason = f"prompts of {waiting} bytes wait, and {size} more exceed the limit of {MOST_WAITING} bytes"
            raise PromptRefusedError(f"{reason}; try again later", 429)
        run.size = size
        self._waiting += size

    def _begins(self, run: Run) -> None:
        """It waits no more."""
        run.waiting = False
        self._waiting -= run.size
        run.size = 0

    def _read(self, message: Message) -> Envelope:
        """What the caller sent.

        Raises:
            PromptRefusedError: it is not what we take.
        """
        size, most = len(message.data), self.max_payload
        if size > most:
            raise PromptRefusedError(f"prompt of {size} bytes exceeds the limit of {most} bytes")
        try:
            envelope = read_envelope(message.data, subject=message.subject)
        except DecodeError as error:
            raise PromptRefusedError(error.reason) from error
        if envelope.attachments and not self.attachments:
            raise PromptRefusedError(f"{self.address.agent} takes no attachments")
        return envelope

    def _keep_alive(self, stream: Stream, alarms: list[Alarm]) -> None:
        """Say from time to time that it is still worked on, or waited for."""
        interval = self.connection.settings.prompt_keepalive

        def again() -> None:
            stream.ack()
            alarms[0] = self.connection.alarms.set(interval, again)

        alarms.append(self.connection.alarms.set(interval, again))
