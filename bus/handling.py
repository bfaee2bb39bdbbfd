"""Runs the handler of one attempt, and sees that all that it has said, saved and spent is stored before it counts.

The time limit is the handler's alone: what is to be stored after it has come back has the patience that a result has.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus import budgets, endings
from bus.connection import Connection
from bus.deadlines import TERM, Term
from bus.errors import (
    CodecError,
    DeadlineExceededError,
    DecodeError,
    EncodeError,
    TimeLimitError,
    TransportError,
)
from bus.family import FAMILY, Family, depth_of
from bus.messages import DEPTH, Envelope
from bus.outcomes import Happening
from bus.run import Run
from bus.settling import Settler
from bus.telemetry import Span, Telemetry
from bus.wallet import Wallet
from bus.workbench import WORKBENCH, Workbench

log = logging.getLogger(__name__)

_LAST_WORD: Final = 2.0
"""Seconds for what a handler has said and saved when its worker must leave."""


class Handling:
    """Runs handlers."""

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        settler: Settler,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`spawn` runs a coroutine."""
        self._connection = connection
        self._telemetry = telemetry
        self._settler = settler
        self._spawn = spawn

    async def handle(self, run: Run, bench: Workbench, span: Span, whole: Envelope) -> tuple[Happening, object]:
        """Run the handler with the whole message; return what happened, and its value or error.

        Raises:
            CancelledError: it was stopped for another reason than its time limit.
        """
        try:
            run.family = bench.family = family = self._family(run.envelope)
        except DecodeError as error:
            return Happening.UNREADABLE, error
        try:
            happening, payload = await self._call(run, family, bench, span, whole)
            if happening is Happening.RETURNED:
                return await self._finish(run, family, bench, payload)
            await self._wind_up(run, bench)
        except asyncio.CancelledError:
            if run.stopped is Happening.HANDED_BACK:
                await self._last_word(run, bench)
            raise
        else:
            return happening, payload
        finally:
            bench.close()

    async def _call(
        self, run: Run, family: Family, bench: Workbench, span: Span, whole: Envelope
    ) -> tuple[Happening, object]:
        envelope, policy = run.envelope, run.capability.policy
        now = time.time()
        run.started_at = now
        span.set("revo.attempt", envelope.attempt)
        expires = envelope.deadline - now <= policy.time_limit
        limit = envelope.deadline - now if expires else policy.time_limit
        run.alarm = self._connection.alarms.set(limit, lambda: self._limit(run, expires=expires))
        run.in_handler = True
        FAMILY.set(family)
        term = Term(now + limit)
        TERM.set(term)
        WORKBENCH.set(bench)
        try:
            return Happening.RETURNED, await run.capability.handler(whole)
        except asyncio.CancelledError as error:
            if run.stopped is Happening.RAISED:
                run.uncancel()
                return Happening.RAISED, TimeLimitError(envelope.capability, policy.time_limit)
            if run.stopped is not None or run.cancelling:
                raise
            # Nobody cancelled us: the handler let the cancellation of something that it awaited escape.
            return Happening.RAISED, error
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever a handler raises is an outcome)
            return _kind(error), error
        finally:
            run.in_handler = False
            term.end()
            family.deadline = math.inf  # nor what it left running beside
            run.took = max(0.0, time.time() - now)
            run.alarm.clear()

    async def _finish(self, run: Run, family: Family, bench: Workbench, value: object) -> tuple[Happening, object]:
        """The handler's value, once all that it has said and spent is stored: no result stands before.

        While that cannot be, the task stays in hand, as one whose result cannot be stored.
        """
        try:
            if family.wallet is not None:
                await self._settler.persist(run, family.wallet.settle)
            if bench.used:
                await self._settler.persist(run, bench.flush)
        except TransportError as error:
            run.pause = run.capability.policy.pause(run.envelope.attempt)
            return Happening.HANDED_BACK, error
        except Exception as error:  # noqa: BLE001  (of what nobody awaited: it is the attempt's own)
            await self._wind_up(run, bench)
            return _kind(error), error
        return Happening.RETURNED, value

    async def _wind_up(self, run: Run, bench: Workbench) -> None:
        """The same for an attempt that has failed. Its own error is the one to tell, whatever goes wrong here."""
        if bench.used:
            try:
                await self._settler.persist(run, bench.wind_up)
            except TransportError as error:
                log.warning("task %s: not all that it has said and saved is stored: %s", run.envelope.task_id, error)

    async def _last_word(self, run: Run, bench: Workbench) -> None:
        """The same for one that is handed back: the next run goes on from what it has saved."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._wind_up(run, bench)
        except TimeoutError:
            log.warning("task %s: not all that it has said and saved is stored", run.envelope.task_id)

    def _family(self, envelope: Envelope) -> Family:
        """What its handler's submits must know of it.

        Raises:
            DecodeError: its header of budgets makes no sense.
        """
        purses = budgets.read(envelope.headers, envelope.subject)
        return Family(
            envelope.name,
            envelope.deadline,
            depth_of(envelope.headers.get(DEPTH)),
            envelope.attempt,
            named=envelope.named,
            again=envelope.deliveries > 1,
            wallet=Wallet(self._connection, self._telemetry, purses) if purses else None,
        )

    def _limit(self, run: Run, *, expires: bool) -> None:
        """The time of a running handler is up. An expired task gets its result before its handler hears of it."""
        if expires:
            self._spawn(self._expire(run))
        else:
            expires_in = run.envelope.deadline - time.time()
            run.stop(Happening.RAISED)
            # A thread cannot be killed: should it run on to the deadline, the task ends without it.
            run.alarm = self._connection.alarms.set(expires_in, lambda: self._limit(run, expires=True))

    async def _expire(self, run: Run) -> None:
        error = DeadlineExceededError(run.envelope.task_id, run.envelope.deadline)
        result = self._settler.result(run, "expired", error)
        await self._settler.persist(run, lambda: endings.store_result(self._connection, run.envelope, result))
        if run.in_handler:
            run.stop(Happening.EXPIRED)


def _kind(error: BaseException) -> Happening:
    if isinstance(error, EncodeError):
        return Happening.UNENCODABLE
    if isinstance(error, CodecError):
        return Happening.UNREADABLE
    return Happening.RAISED if endings.is_retryable(error) else Happening.RAISED_FOR_GOOD
