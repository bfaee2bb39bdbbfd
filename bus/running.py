"""Runs one task from its start to its end: what happened to it is decided here, and carried out by `bus.settling`."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from bus import attempts, beside, blobs, checkpoints, rpc, subjects
from bus.connection import Connection
from bus.errors import (
    BusError,
    CodecError,
    DeadlineExceededError,
    PayloadTooLargeError,
    QueueFullError,
    ServerError,
    SupersededError,
    TransportError,
    WorkerDiedError,
)
from bus.handling import Handling
from bus.messages import BLOB, Result
from bus.outcomes import Happening, decide
from bus.recovery import Recovery
from bus.run import Run
from bus.settling import Settler
from bus.suspicion import is_poison, others_die_alone
from bus.telemetry import Attributes, Span, Telemetry
from bus.workbench import Workbench

log = logging.getLogger(__name__)


_FAILED: Final = frozenset({Happening.RAISED, Happening.RAISED_FOR_GOOD, Happening.UNENCODABLE})
_FAULTS: Final = _FAILED | {Happening.UNREADABLE, Happening.KILLED_ITS_PROCESS}


class Runner:
    """Runs tasks, each in an asyncio task of its own, `Run.task`."""

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        settler: Settler,
        recovery: Recovery,
        *,
        seclude: Callable[[Run], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`seclude` returns when nothing else is in the worker's hands; `spawn` runs a coroutine."""
        self._connection = connection
        self._telemetry = telemetry
        self._settler = settler
        self._recovery = recovery
        self._seclude = seclude
        self._handling = Handling(connection, telemetry, settler, spawn)

    async def run(self, run: Run) -> None:
        """Run the task and carry out what becomes of it.

        Raises:
            BusError: the server refuses for good; the worker cannot go on.
        """
        envelope = run.envelope

        def attributes() -> Attributes:
            return {
                "messaging.system": "nats",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": envelope.subject,
                "messaging.consumer.group.name": envelope.capability,
                "messaging.message.id": envelope.task_id,
                "revo.deliveries": envelope.deliveries,
                "revo.queue_wait": round(max(0.0, time.time() - envelope.stored_at), 6),
            }

        name = f"process {envelope.capability}"
        run.began_at = time.time()
        with self._telemetry.span(name, kind="consumer", headers=envelope.headers, attributes=attributes) as span:
            run.span = span
            if run.trial:
                span.set("revo.breaker", "half-open")
            happening, payload = await self._happen(run, span)
            run.failed = happening in _FAILED
            self._judge(run, happening, payload)
            await self._settler.conclude(run, span, happening, payload)
            if run.capability.saves:
                self._forget_saved(run, happening)
            if self._telemetry.metrics.counting:
                self._count(run, happening)
            await self._cancel_children(run)
            if run.family is not None and run.family.wallet is not None:
                await run.family.wallet.close()
            if run.spare or BLOB in envelope.headers:
                await self._release(run, payload)

    async def _release(self, run: Run, payload: object) -> None:
        """Have a steward remove the large payloads that this end has made useless. A failed task keeps its message."""
        envelope = run.envelope
        ended = payload if isinstance(payload, Result) else run.standing
        useless = [run.spare] if run.spare else []
        if ended is not None and ended.status != "failed":
            useless.append(blobs.id_in(envelope.headers))
        for blob_id in filter(None, useless):
            await beside.not_needed(self._connection, self._telemetry, blobs.Place.of(envelope), blob_id)

    def _judge(self, run: Run, happening: Happening, payload: object) -> None:
        """Have done what is to be done about an attempt that failed; one that went well closes its breaker."""
        if happening is Happening.RETURNED:
            self._recovery.well(run)
        elif isinstance(payload, BaseException) and (
            happening in _FAULTS or (happening is Happening.EXPIRED and run.took is not None)
        ):
            outcome = decide(happening, attempt=run.envelope.attempt, policy=run.capability.policy)
            self._recovery.met(run, payload, last=outcome.result is not None)

    def _forget_saved(self, run: Run, happening: Happening) -> None:
        """What an ended task had so far is of no use to anybody; most have nothing."""
        ended = run.standing is not None or happening is Happening.ENDED_BEFORE
        if ended and (run.envelope.deliveries > 1 or run.envelope.named or (run.bench is not None and run.bench.saves)):
            checkpoints.forget(self._connection, run.envelope)

    def _count(self, run: Run, happening: Happening) -> None:
        envelope, standing, metrics = run.envelope, run.standing, self._telemetry.metrics
        if standing is None:
            # What ended before is of another delivery; what was not ended here comes again.
            again = {
                Happening.ENDED_BEFORE: "ended_before",
                Happening.RAISED: "retried",
                Happening.SUPERSEDED: "superseded",
            }
            outcome = again.get(happening, "handed_back")
        elif standing.instance == self._settler.instance:
            outcome = standing.status
            if outcome == "failed":
                metrics.died(envelope.capability, standing.error.code if standing.error else "")
        else:
            outcome = "ended_elsewhere"
        metrics.ran(
            envelope.capability,
            envelope.priority,
            outcome,
            waited=max(0.0, run.began_at - envelope.stored_at) if envelope.deliveries == 1 else None,
            took=run.took,
            trace_id=run.span.trace_id,
        )

    async def _cancel_children(self, run: Run) -> None:
        """The steward cancelled those that it knew of; the handler may have submitted more before it heard."""
        if run.family is None or not run.family.sent or run.standing is None or run.standing.status != "cancelled":
            return
        envelope = run.envelope
        message = {"task_id": envelope.task_id, "client": envelope.client, "capability": envelope.capability}
        try:
            await rpc.call(self._connection, self._telemetry, subjects.STEWARD, "cancel", message)
        except BusError as error:
            log.warning("children of cancelled task %s may run on: %s", envelope.task_id, error)

    async def _happen(self, run: Run, span: Span) -> tuple[Happening, object]:
        """Run the task unless something forbids it; return what happened, and the value or error."""
        envelope = run.envelope
        run.started_at = time.time()
        try:
            if envelope.deliveries > 1 or envelope.named:
                ended = await self._settler.persist(run, lambda: self._settler.stored_result(envelope))
                if ended is not None:
                    return Happening.ENDED_BEFORE, ended
            if envelope.deliveries > 1 and await self._look_back(run, span):
                return Happening.KILLED_ITS_PROCESS, WorkerDiedError(envelope.task_id, run.record.alone)
            if envelope.fault is not None:
                return Happening.UNREADABLE, envelope.fault
            if envelope.deadline <= time.time():
                return Happening.EXPIRED, DeadlineExceededError(envelope.task_id, envelope.deadline)
            return await self._attempt(run, span)
        except TransportError as error:
            # The server could not be asked about earlier tries, for as long as we are patient.
            return Happening.HANDED_BACK, error
        except asyncio.CancelledError:
            if run.stopped is None:
                raise
            run.uncancel()
            if run.stopped is Happening.HANDED_BACK and run.bench is not None and run.bench.superseded is not None:
                return Happening.SUPERSEDED, run.bench.superseded  # there is nothing to hand back: another one has it
            return run.stopped, run.error_of(run.stopped)

    async def _look_back(self, run: Run, span: Span) -> bool:
        """Learn what earlier tries left behind; after a worker's death, wait until nothing else is in hand.

        Returns whether the task is poison and must not be run.
        """
        run.record, _ = await self._settler.persist(run, lambda: attempts.read(self._connection, run.envelope))
        run.envelope.attempt = run.record.errors + 1
        deaths, policy = run.record.alone, run.capability.policy
        if not attempts.suspects(run.record, run.envelope):
            return False
        span.event("redelivered", reason="its worker vanished", deliveries=run.envelope.deliveries)
        run.record = run.record.model_copy(update={"suspect": True})
        if await self._settler.persist(run, lambda: is_poison(self._others_die, run.envelope, deaths, policy)):
            return True
        await self._seclude(run)
        alone = functools.partial(attempts.run_alone, deaths=deaths)
        run.record = await self._settler.persist(run, lambda: attempts.change(self._connection, run.envelope, alone))
        return False

    async def _others_die(self, own: str, within: float) -> bool:
        """Who has an account of its own may not read the records of others; the steward may."""
        if not self._connection.restricted:
            return await others_die_alone(self._connection, own, within)
        question = {"own": own, "within": within}
        return bool(await rpc.call(self._connection, self._telemetry, subjects.STEWARD, "others_die", question))

    async def _attempt(self, run: Run, span: Span) -> tuple[Happening, object]:
        """Run the handler. Of a run that a later one has taken over nothing counts, whatever its handler made of it."""
        whole = run.envelope
        if BLOB in whole.headers:  # the handler gets the whole; what is buried or handed back stays as it came
            try:
                whole = await beside.whole(self._connection, whole)
            except (CodecError, PayloadTooLargeError, ServerError) as error:  # or credentials of an earlier version
                return Happening.UNREADABLE, error
            span.event("large payload read", size=len(whole.body))
        run.bench = bench = Workbench(self._connection, run.envelope, lambda: run.stop(Happening.SUPERSEDED))
        if run.capability.saves:
            try:
                full = await self._settler.persist(run, functools.partial(_claim, bench))
            except SupersededError as error:
                return Happening.SUPERSEDED, error
            if full is not None:
                log.warning("task %s is handed back, for its checkpoint cannot be claimed: %s", whole.task_id, full)
                run.pause = run.capability.policy.pause(whole.deliveries)
                return Happening.HANDED_BACK, full
        ended = await self._handling.handle(run, bench, span, whole)
        return ended if bench.superseded is None else (Happening.SUPERSEDED, bench.superseded)


async def _claim(bench: Workbench) -> QueueFullError | None:
    """Take over the checkpoint of the runs before; what is returned is no fault of the server, and is not waited for:
    the worker can do all that has none.
    """
    try:
        await bench.claim()
    except QueueFullError as full:
        return full
    except ServerError as refused:  # credentials of an earlier version: who saves is told
        log.warning("%s", refused)
    return None
