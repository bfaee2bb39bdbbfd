"""Asks on behalf of one client: whom, whether at all, and how often again.

What is asked for the first time costs what a plain request does: the server's queue group chooses. Once somebody has
answered a view of the agent is opened, and from then on those are passed over that should not be asked.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from bus import events, replies, rpc, subjects
from bus.breaker import CLOSED, OPEN, State
from bus.choosing import Candidate, check
from bus.connection import Connection
from bus.deadlines import within
from bus.errors import BreakerOpenError, BusError, NoRespondersError, PermissionDeniedError
from bus.lines import GOOD, NOTHING, Line, Lines, hurried, judge
from bus.roles import AGENT
from bus.telemetry import Attributes, Span, Telemetry
from bus.view import View
from bus.views import Views

log = logging.getLogger(__name__)

PASSED_OVER: Final = 3
"""So many instances that do not listen are tried one after the other, then the server chooses."""
AROUND: Final = "random"
"""How one is chosen where the server would, if it knew whom to leave out."""
NO_BREAKER: Final = -1
FIRST_PAUSE: Final = 0.05
"""Seconds before the second try of an ask; doubles with every further one."""


class _Ask(NamedTuple):
    """What is asked, and how its instance is chosen: by a strategy, by name, or by the server where both are empty."""

    line: Line
    message: object
    way: str
    key: str
    instance: str
    wanted: float
    """Seconds that it is to have for each try, if nobody waits less for us."""


class Asker:
    """Asks, and remembers how that went."""

    def __init__(self, connection: Connection, telemetry: Telemetry) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._lines = Lines(connection.caller)
        self._tasks: set[asyncio.Task[None]] = set()
        self._views = Views(connection, self._spawn)
        self.on_breaker: Callable[[], None] | None = None
        """Called when one of the breakers has changed. It must not raise."""

    def prefer(self, service: str, method: str, strategy: str) -> None:
        """Choose so whenever a method is asked without another word; with an empty one the server chooses.

        Raises:
            ConfigError: there is no such strategy.
        """
        self._lines.line(service, method).preferred = strategy and check(strategy)

    def breakers(self) -> dict[str, State]:
        """Those that are not closed, by `agent/method`; any thread may ask."""
        now = time.monotonic()
        states = {line.name: line.breaker.state(now) for line in self._lines}
        return {name: state for name, state in states.items() if state != CLOSED}

    async def close(self) -> None:
        """Hear of nobody any more."""
        self._views.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(
        self,
        service: str,
        method: str,
        message: object,
        *,
        timeout: float | None,
        choose: str | None,
        key: str | None,
        instance: str | None,
        retries: int,
    ) -> Any:
        """See `bus.mesh.Mesh.ask`."""
        line = self._lines.there.get((service, method)) or self._lines.line(service, method)
        line.budget.called()
        way = check(choose) if choose else line.preferred or ("sticky" if key is not None else "")
        seconds = self._connection.settings.request_timeout if timeout is None else timeout
        wanted = seconds / (retries + 1)
        ask = _Ask(line, message, way, self._telemetry.instance if key is None else key, instance or "", wanted)
        if retries:
            return await self._repeatedly(ask, retries)
        view = self._views.there.get(service)
        if view is None or way or instance or view.is_troubled(method, time.monotonic()):
            return await self._ask(ask, seconds)
        return await self._send(ask, line.subject, seconds, view)  # as nearly always, and at no cost

    async def _repeatedly(self, ask: _Ask, retries: int) -> Any:
        line = ask.line
        seconds = within(ask.wanted * (retries + 1), line.name)
        until, pause = time.monotonic() + seconds, FIRST_PAUSE
        while True:
            try:
                return await self._ask(ask, max(0.0, until - time.monotonic()) / (retries + 1))
            except BusError as error:
                if not error.retryable or not retries:
                    raise
                wait = max(pause * random.uniform(0.5, 1.5), getattr(error, "retry_in", 0.0))  # noqa: S311
                if wait >= until - time.monotonic():
                    raise
                if not line.budget.take(time.monotonic()):
                    error.add_note(f"not tried again: the budget of retries for {line.name} is used up")
                    raise
            await asyncio.sleep(wait)
            retries, pause = retries - 1, pause * 2

    async def _ask(self, ask: _Ask, timeout: float) -> Any:
        """Ask once. Who does not listen was not asked: then it is somebody else's turn."""
        line, way, caller = ask.line, ask.way, self._connection.caller
        if ask.instance:
            subject = subjects.direct(line.service, ask.instance, line.method, caller)
            return await self._send(ask, subject, timeout, None)
        view = await self._views.wanted(line.service) if way else self._views.there.get(line.service)
        now = time.monotonic()
        if view is not None and (way or (view.is_troubled(line.method, now) and not line.undirected)):
            for turn in range(PASSED_OVER):
                chance = random.random()  # noqa: S311
                one = view.choose(line.method, way or AROUND, ask.key, now=now, chance=chance, panic=bool(way))
                if one is None or (turn and not line.budget.take(now)):
                    break
                subject = subjects.direct(line.service, one.name, line.method, caller)
                try:
                    return await self._send(ask, subject, timeout, view, one)
                except NoRespondersError:
                    view.unheard(one.name)
                except PermissionDeniedError:
                    if way:
                        raise
                    line.undirected = True
                    break
        return await self._send(ask, line.subject, timeout, view)

    async def _send(
        self, ask: _Ask, subject: str, timeout: float, view: View | None, chosen: Candidate | None = None
    ) -> Any:
        """Send it, and learn from what comes of it. `view` is of whom is asked, if it is open, and `chosen` of it."""
        line = ask.line
        question = rpc.prepare(self._connection, subject, ask.message, timeout=timeout)
        attributes = functools.partial(self._attributes, ask, subject)
        with self._telemetry.sending(line.name, question.headers, attributes, kind="client") as span:
            now = line.used = time.monotonic()
            # One that is asked by its name is asked: what it does says nothing of the others.
            way = NO_BREAKER if ask.instance else line.breaker.admit(now)
            if not way:
                raise BreakerOpenError(line.service, line.method, line.breaker.retry_in(now))
            if line.told != CLOSED:
                self._tell(line, now, span)
            began = 0
            if view is not None:
                view.used = now
                began = view.began(chosen) if chosen is not None else 0
            verdict = NOTHING
            try:
                reply = await self._connection.request(
                    subject, question.body, question.headers, timeout=question.timeout
                )
                if view is None and not ask.instance:
                    self._views.heard(line.service)
                value = replies.read(reply.headers, reply.data, subject)
                verdict = GOOD
            except BusError as error:
                if chosen is None or not isinstance(error, NoRespondersError):  # else it is somebody else's turn
                    short = hurried(question.timeout, ask.wanted)
                    verdict = judge(error, connected=self._connection.is_connected, hurried=short)
                raise
            finally:
                ended = time.monotonic()
                chance = 0.0 if verdict.works else random.random()  # noqa: S311
                if line.breaker.ended(way, ended, good=verdict.works, took=ended - now, chance=chance):
                    self._tell(line, ended, span)
                if view is not None and chosen is not None:
                    view.ended(chosen, began, line.method, ended - now, good=verdict.served, now=ended)
        return value

    def _attributes(self, ask: _Ask, subject: str) -> Attributes:
        """What the span of an ask says."""
        line = ask.line
        found: dict[str, str | int | float | bool] = {**rpc.attributes_of(line.service, line.method)}
        if subjects.is_direct(subject):
            found |= {
                "revo.choose": ask.way or ("" if ask.instance else AROUND),
                "revo.instance": subject.split(".")[3],
            }
        state = line.breaker.state(time.monotonic())
        if state != CLOSED:
            found["revo.breaker"] = state
        return found

    # --- breakers ---------------------------------------------------------------------------------------------

    def _tell(self, line: Line, now: float, span: Span) -> None:
        """Say that a breaker changed: on the trace, in the log, and, where we may, as an event."""
        state = line.breaker.state(now)
        if state == line.told:
            return
        line.told = state
        if self.on_breaker is not None:
            self.on_breaker()
        span.event("breaker", state=state, agent=line.service, capability=line.method)
        span.set("revo.breaker", state)
        level = logging.INFO if state != OPEN else logging.WARNING
        log.log(level, "the breaker of %s is %s", line.name, state)
        connection = self._connection
        if connection.restricted and connection.credentials is not None and connection.credentials.role != AGENT:
            return
        telemetry, details = self._telemetry, {"asked": line.service, "capability": line.method}
        if state == OPEN:
            details["retry_in"] = f"{line.breaker.retry_in(now):.1f}"
        agent = connection.user or telemetry.service
        if not (subjects.is_token(agent) and subjects.is_token(telemetry.instance)):
            return
        told = events.tell(
            connection, events.BREAKER, telemetry.instance, state, agent=agent, by=telemetry.instance, **details
        )
        self._spawn(told)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BusError):
            log.debug("%s", error)
        elif error is not None:
            log.error("%s", error, exc_info=error)
