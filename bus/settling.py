"""Carries out the outcome table: stores results, makes sure of dead letters, settles deliveries. In this order.

A step that the server must confirm is done again until it is confirmed, while the task stays in hand. Each can be
repeated after a crash. What happened to a task is decided in `bus.worker`, what becomes of it in `bus.outcomes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from bus import attempts, blobs, codec, endings, subjects
from bus.connection import Connection
from bus.errors import (
    BusError,
    EncodeError,
    PayloadTooLargeError,
    ServerError,
    TransportError,
    WrongSequenceError,
)
from bus.extender import Extender
from bus.messages import Attempts, Blob, Envelope, Result, Status
from bus.outcomes import Happening, Outcome, Settle, decide
from bus.run import NEW, Run
from bus.telemetry import Span

log = logging.getLogger(__name__)

T = TypeVar("T")

_HANDLED: Final = frozenset(
    {
        Happening.RETURNED,
        Happening.RAISED,
        Happening.RAISED_FOR_GOOD,
        Happening.UNENCODABLE,
        Happening.UNREADABLE,
    }
)
"""The handler came to an end: its process did not die of it."""
_LAST_WORD: Final = 2.0
"""Seconds for the record of a task that is handed back because its end could not be stored."""

_MARGIN: Final = 60.0
"""Seconds that a large value outlives its result at the least: nobody who reads the one shall miss the other."""


class Settler:
    """Ends what a worker has in hand. `waiting` is how many tasks wait for the server to confirm something."""

    def __init__(
        self,
        connection: Connection,
        extender: Extender,
        *,
        agent: str,
        instance: str,
        changed: Callable[[], None],
        unstored: Callable[[Run, BusError], None],
    ) -> None:
        """`changed` is called when `waiting` rises from or falls to a new value, `unstored` when a task begins to wait
        for the server to confirm something.
        """
        self._connection = connection
        self._extender = extender
        self._agent = agent
        self.instance = instance
        self._changed = changed
        self._unstored = unstored
        self.waiting = 0
        self._hurried = asyncio.Event()

    async def stored_result(self, envelope: Envelope) -> Result | None:
        """The result that the task has already, or None."""
        subject = subjects.result(envelope.client, envelope.capability, envelope.task_id)
        return await endings.stored_result(self._connection, subject)

    async def conclude(self, run: Run, span: Span, happening: Happening, payload: object) -> None:
        """Carry out what the table says of `happening`; `payload` is the handler's value, the error or the result.

        Raises:
            BusError: the server refuses for good; the worker cannot go on.
        """
        envelope, policy = run.envelope, run.capability.policy
        outcome = decide(happening, attempt=envelope.attempt, policy=policy)
        error = payload if isinstance(payload, BaseException) else None
        if error is not None and happening is not Happening.HANDED_BACK:
            span.fail(error)
        span.set("revo.outcome", outcome.result or outcome.settle.name.lower())
        run.concluding = True
        try:
            if happening is Happening.ENDED_BEFORE:
                assert isinstance(payload, Result)
                await self._make_sure_of_the_rest(run, payload)
                await self._settle(run, outcome.settle)
            elif happening is Happening.SUPERSEDED:
                await self._let_go(run, span)
            elif outcome.result is None:
                await self._give_back(run, span, outcome)
            else:
                await self._end(run, span, outcome, payload, error)
        except TransportError as failure:
            log.warning("task %s is handed back: %s", envelope.task_id, failure)
            await self._hand_back_unstored(run, handled=happening in _HANDLED)

    async def _hand_back_unstored(self, run: Run, *, handled: bool) -> None:
        """Hand back a task whose end could not be stored, and see to it that nobody takes that for a death.

        The record may well be writable where the result was not; when it is not, nobody gets the nak either.
        """
        update: dict[str, Any] = {"returned": run.envelope.deliveries}
        if handled:
            update |= {"suspect": False, "alone": 0}
        elif run.ran_alone:
            update["alone"] = max(0, run.record.alone - 1)
        try:
            async with asyncio.timeout(_LAST_WORD):
                await attempts.change(self._connection, run.envelope, lambda record: record.model_copy(update=update))
        except (TransportError, TimeoutError) as error:
            log.warning("task %s: its record could not be written: %s", run.envelope.task_id, error)
        await self._settle(run, Settle.NAK, delay=run.capability.policy.pause(run.envelope.attempt))

    async def _end(self, run: Run, span: Span, outcome: Outcome, payload: object, error: BaseException | None) -> None:
        """Store the result, make sure of the dead letter, settle: in this order, whatever dies in between."""
        assert outcome.result is not None
        result = self.result(run, outcome.result, error, None if error else payload, trace_id=span.trace_id)
        store = endings.store_result
        try:
            try:
                standing = await store(self._connection, run.envelope, result)
            except TransportError as first:
                standing = await self.persist(run, lambda: store(self._connection, run.envelope, result), first)
            except PayloadTooLargeError:
                if result.value is None:
                    raise
                standing = await self._store_beside(run, span, result)
        except (EncodeError, PayloadTooLargeError) as unfit:
            span.fail(unfit)
            failed = self.result(run, "failed", unfit, trace_id=span.trace_id)
            standing = await self.persist(run, lambda: store(self._connection, run.envelope, failed))
        run.standing = standing
        span.set("revo.outcome", standing.status)
        if standing.status == "failed":
            span.event("dead letter", code=standing.error.code if standing.error else "")
        await self._make_sure_of_the_rest(run, standing)
        await self._settle(run, Settle.ACK if standing.status == "succeeded" else Settle.TERM)

    async def _store_beside(self, run: Run, span: Span, result: Result) -> Result:
        """Store a result whose value is too large for a message: that goes beside it, and before it.

        Raises:
            PayloadTooLargeError: beyond the setting `blob_max`; nothing was sent.
        """
        connection, envelope, kind = self._connection, run.envelope, run.envelope.content_type
        place, blob_id = blobs.Place.of(envelope), blobs.new_id()
        subject = subjects.result(*place)
        body = codec.encode(result.value, kind, subject=subject)
        blobs.check_size(connection, subject, len(body))
        # It must be there for as long as the result is, which is stored later: after how long, is bounded so.
        ttl = endings.result_ttl(connection, envelope) + connection.settings.settle_patience + _MARGIN

        async def put() -> Blob:
            return await blobs.put(connection, place, body, blob_id=blob_id, ttl=ttl, content_type=kind)

        run.spare = blob_id
        try:
            blob = await self.persist(run, put)
        except ServerError as refused:
            return await self._store_refused(run, span, result, refused)
        small = result.model_copy(update={"value": None, "blob": blob})
        standing = await self.persist(run, lambda: endings.store_result(connection, envelope, small))
        if standing.blob is not None and standing.blob.id == blob_id:
            run.spare = ""
        return standing

    async def _store_refused(self, run: Run, span: Span, result: Result, refused: ServerError) -> Result:
        """Store a result whose value may not stand beside it, as with credentials of an earlier version: with it, as
        that did, if a message can be so large. Otherwise the task has failed.
        """
        log.warning("task %s: its value cannot stand beside its result: %s", run.envelope.task_id, refused)
        connection, envelope = self._connection, run.envelope
        try:
            return await self.persist(run, lambda: endings.store_result(connection, envelope, result, within=True))
        except PayloadTooLargeError:
            span.fail(refused)
            failed = self.result(run, "failed", refused, trace_id=span.trace_id)
            return await self.persist(run, lambda: endings.store_result(connection, envelope, failed))

    async def _make_sure_of_the_rest(self, run: Run, result: Result) -> None:
        """What must stand besides the result before the task leaves the queue."""
        if result.sequence != run.envelope.sequence:
            # The result of another stored message of the same id; its dead letter too, if it has one, is that one's.
            await self.persist(run, lambda: endings.note_double(self._connection, run.envelope, result))
        elif result.status == "failed":
            await self.persist(run, lambda: endings.bury(self._connection, run.envelope, result))

    async def _give_back(self, run: Run, span: Span, outcome: Outcome) -> None:
        """Record how this delivery ended, then hand the task back: at once, or after a pause when it failed."""
        envelope = run.envelope
        delay = run.pause or 0.0
        update: dict[str, Any] = {"returned": envelope.deliveries}
        if outcome.counts:
            if run.pause is None:
                delay = run.capability.policy.pause(envelope.attempt)
            span.event("retry", delay=delay, attempt=envelope.attempt)
            update |= {"errors": envelope.attempt, "suspect": False, "alone": 0}
        elif run.ran_alone:
            update["alone"] = max(0, run.record.alone - 1)  # it came back: nothing died of it

        def edit(record: Attempts) -> Attempts:
            if outcome.counts:
                return record.model_copy(update=update)
            # One that was never started has not been looked up: what is known of it stays known.
            suspect = attempts.suspects(record, envelope) if run.record is NEW else run.record.suspect
            return record.model_copy(update={**update, "suspect": suspect})

        await self.persist(run, lambda: attempts.change(self._connection, envelope, edit))
        await self._settle(run, outcome.settle, delay=delay)

    async def _let_go(self, run: Run, span: Span) -> None:
        """Another worker has the task, so the server is told nothing: it would take that for word of the other one. Our
        delivery came back, and the record says so: nobody shall take it for a death.
        """
        log.warning("task %s: run %d is superseded", run.envelope.task_id, run.envelope.deliveries)
        span.event("superseded", deliveries=run.envelope.deliveries)
        span.set("revo.outcome", "superseded")
        self._extender.release(run.envelope.sequence)

        def edit(record: Attempts) -> Attempts:
            return record.model_copy(update={"returned": max(record.returned, run.envelope.deliveries)})

        try:
            await attempts.change(self._connection, run.envelope, edit)
        except (TransportError, WrongSequenceError) as error:
            log.warning("task %s: its record could not be written: %s", run.envelope.task_id, error)

    async def _settle(self, run: Run, settle: Settle, *, delay: float = 0.0) -> None:
        """Tell the server what became of the delivery: the only place that does."""
        self._extender.release(run.envelope.sequence)
        body = settle.value
        if settle is Settle.NAK and delay > 0:
            body += b' {"delay": %d}' % int(delay * 1e9)
            await self._extender.give_back(self._connection, run.envelope.reply, body)
        else:
            self._connection.send(run.envelope.reply, body, lazy=True)

    def result(
        self, run: Run, status: Status, error: BaseException | None, value: object = None, *, trace_id: str = ""
    ) -> Result:
        """The result of this run, not yet stored."""
        return endings.make_result(
            run.envelope,
            status,
            error,
            value,
            agent=self._agent,
            instance=self.instance,
            started_at=run.started_at,
            trace_id=trace_id,
            chunks=run.bench.chunks if run.bench is not None else 0,
        )

    def hurry(self) -> None:
        """The worker must leave: what cannot be stored at the next try is handed back."""
        self._hurried.set()

    async def persist(self, run: Run, step: Callable[[], Awaitable[T]], first: TransportError | None = None) -> T:
        """Do a step that the server must confirm, again with backoff while it cannot; the task stays in hand. With
        `first`, the error of the first try, that one has been made.

        While any step waits, nothing is pulled: what cannot be stored must not pile up.

        Raises:
            TransportError: the last one, when the setting `settle_patience` is used up or the worker must leave.
        """
        if first is None:
            try:
                return await step()
            except TransportError as error:
                first = error
        log.warning("task %s: %s; trying again", run.envelope.task_id, first)
        self._unstored(run, first)
        until = time.monotonic() + self._connection.settings.settle_patience
        pause = 0.1
        self.waiting += 1
        self._changed()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(pause / 2, pause)):  # noqa: S311
                        await self._hurried.wait()
                try:
                    return await step()
                except TransportError:
                    if self._hurried.is_set() or time.monotonic() > until:
                        raise
                    pause = min(2.0, pause * 2)
        finally:
            self.waiting -= 1
            self._changed()
