"""The client's face: connect, submit tasks, await their results, ask services, read traces."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, overload

from pydantic import BaseModel

from bus import cast, estimates, gathering, prompting, rpc, stewards, subjects, topics, topology, traces
from bus.arrivals import Arrivals
from bus.asking import Asker
from bus.breaker import State
from bus.budgets import Budget
from bus.cast import Gathered
from bus.connection import Connection
from bus.directory import Directory
from bus.errors import BusError, ConfigError
from bus.estimates import Estimate
from bus.handle import Client, Handle
from bus.messages import Cancelled, DeadLetter, Redriven, SpanRecord
from bus.prompts import MAX_SILENCE, Attachment
from bus.scheduled import Schedule, Scheduler, What
from bus.schedules import ScheduleInfo
from bus.settings import Settings
from bus.submitting import Submitter
from bus.telemetry import Telemetry
from bus.when import Span, Time, when

__all__ = ["Handle", "Mesh", "Schedule"]


class Mesh:
    """A client of the mesh. Get one with `async with Mesh.connect() as mesh`."""

    def __init__(self, connection: Connection, telemetry: Telemetry, *, client: str) -> None:
        self.connection = connection
        self.telemetry = telemetry
        self.client = subjects.token(client, "client")
        self.arrivals = Arrivals(connection, client)
        """Where the results of our tasks arrive."""
        self._client = Client(self.client, connection, telemetry, self.arrivals)
        self._submitter = Submitter(self._client)
        self._scheduler = Scheduler(self._client, self._submitter)
        self._asker = Asker(connection, telemetry)
        self._directory = Directory(connection)
        self.attached: dict[str, object] = {}
        """What modules above keep for as long as there is this mesh, by their names."""
        self._at_close: list[Callable[[], Awaitable[None]]] = []

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str | None = None,
        *,
        client: str | None = None,
        settings: Settings | None = None,
        service: str = "client",
    ) -> AsyncIterator[Mesh]:
        """A connected client for the length of a block.

        Without `url` it is the setting `REVO_NATS_URL`, else the mesh that runs here (`$REVO_HOME/mesh.json`). `client`
        names the application: its results come to it alone, and its task ids are its own (default `REVO_CLIENT`, else
        the user of the credentials, else `anon`, which all that give no name share). `service` is its name in traces.

        Raises:
            ConfigError: the credentials are of another user than `client`.
            ServerUnreachableError, AuthenticationError, ServerTooOldError: see `Connection.open`.
        """
        settings = (settings or Settings.from_env()).at(url, "url")
        async with await Connection.open(settings.find_url(), name=service, settings=settings) as connection:
            instance = f"{service}-{secrets.token_hex(4)}"
            telemetry = Telemetry(service=service, instance=instance, sample=settings.trace_sample)
            mesh = cls(connection, telemetry, client=_own_name(connection, client or settings.client))
            telemetry.start(connection.publish, connection.user)
            try:
                if topology.is_ours(connection):
                    await topology.apply(connection)
                yield mesh
            finally:
                await mesh.close()

    @overload
    def submit(
        self,
        capability: str,
        message: BaseModel | dict[str, Any],
        *,
        agent: str | None = None,
        priority: str = "normal",
        task_id: str | None = None,
        idempotency_key: str | None = None,
        by_content: bool = False,
        deadline: float | None = None,
        detached: bool = False,
        budget: Budget | None = None,
        at: Time | None = None,
        after: Span | None = None,
        timezone: str | None = None,
        schedule_id: str | None = None,
    ) -> Coroutine[Any, Any, Handle]: ...

    @overload
    def submit(
        self,
        capability: str,
        message: BaseModel | dict[str, Any],
        *,
        agent: str | None = None,
        priority: str = "normal",
        idempotency_key: str | None = None,
        by_content: bool = False,
        deadline: float | None = None,
        every: Span | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        schedule_id: str | None = None,
    ) -> Coroutine[Any, Any, Schedule]: ...

    def submit(
        self,
        capability: str,
        message: BaseModel | dict[str, Any],
        *,
        agent: str | None = None,
        priority: str = "normal",
        task_id: str | None = None,
        idempotency_key: str | None = None,
        by_content: bool = False,
        deadline: float | None = None,
        detached: bool = False,
        budget: Budget | None = None,
        at: Time | None = None,
        after: Span | None = None,
        every: Span | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        schedule_id: str | None = None,
    ) -> Coroutine[Any, Any, Handle] | Coroutine[Any, Any, Schedule]:
        """Store one task and return its handle. Whichever agent has the capability and is free does it, or the one
        that `agent` names; `@<agent>` in place of the capability is short for an agent that has only one.

        When it returns the task is durable and ends in exactly one result; before, nothing is promised. `deadline`
        is seconds from now (default: the setting, one hour).

        The same id twice, from the same client for the same capability, is one task for as long as its result is kept:
        name it by `task_id`, by an `idempotency_key` (any text), or with `by_content` by the message itself. Otherwise
        the id is random. What a handler submits is cancelled with the handler's own task, unless `detached`; when the
        handler is run anew after a death, what it submits again is the same task.

        `budget` is what the task and all that descends from it may spend together; when it is used up all of them end.

        `at` (a datetime, unix seconds or ISO text) and `after` (seconds or a timedelta) have it done once, later; what
        is returned is the handle of that task. `every` (whole seconds) and `cron` (five fields, or six with seconds
        first) have it done again and again, and return its `Schedule`: each time is a task of its own, with the id
        `<schedule id>-<number>`. `timezone` is of `cron` (default: UTC), or of an `at` that says none. One of the same
        `schedule_id` is replaced. Its deadline counts from when it falls due, and it is nobody's child.

        Raises:
            InvalidSubjectError, ConfigError, EncodeError, PayloadTooLargeError: nothing was sent.
            TooDeepError, TooManyChildrenError, BudgetExceededError: a handler may submit no more; nothing was sent.
            QueueFullError: the queue is full (`come_back`: seconds until there is room), or there are too many
                schedules; nothing was stored.
            NoStewardError: there is nobody to keep a schedule; nothing was stored.
            TransportError: no answer within the setting `publish_timeout`; submitting the same id again is safe.
        """
        if at is None and after is None and every is None and cron is None and timezone is None and schedule_id is None:
            return self._submitter.submit(
                capability,
                message,
                agent=agent,
                priority=priority,
                task_id=task_id,
                idempotency_key=idempotency_key,
                by_content=by_content,
                deadline=deadline,
                detached=detached,
                budget=budget,
            )
        if budget is not None:
            raise ConfigError("budget", "is of a task that is submitted now, and not of one that falls due later")
        due = when(at=at, after=after, every=every, cron=cron, timezone=timezone)
        what = What(
            capability=capability,
            message=message,
            agent=agent,
            priority=priority,
            deadline=deadline,
            task_id=task_id,
            schedule_id=schedule_id,
            idempotency_key=idempotency_key,
            by_content=by_content,
        )
        return self._scheduler.once(due, what) if due.once else self._scheduler.again(due, what)

    def schedule(self, schedule_id: str) -> Schedule:
        """A schedule of this client by its id, to look at, pause, resume or cancel it.

        Raises:
            InvalidSubjectError: there can be no such id.
        """
        return self._scheduler.of(schedule_id)

    async def schedules(self) -> list[ScheduleInfo]:
        """The schedules of this client, the next one first, with the tasks that are not due yet.

        Raises:
            NoStewardError, TransportError: nobody says.
        """
        return await self._scheduler.all()

    async def submit_many(
        self,
        capability: str,
        messages: Iterable[BaseModel | dict[str, Any]],
        *,
        agent: str | None = None,
        priority: str = "normal",
        deadline: float | None = None,
        detached: bool = False,
    ) -> list[Handle | BusError]:
        """Store many tasks and return a handle for each, in their order, or the error for one that was not stored.

        Many are on their way to the server at once, so this is many times as fast as one `submit` after the other. Each
        task whose handle is returned is as durable as one of `submit`. Up to 1,000 messages are taken at once, so a
        generator need not have all of them in memory; the handles are.

        Raises:
            InvalidSubjectError, ConfigError: where they are to be sent makes no sense; nothing was sent.
        """
        return await self._submitter.submit_many(
            capability, messages, agent=agent, priority=priority, deadline=deadline, detached=detached
        )

    async def submit_each(
        self,
        capability: str,
        message: BaseModel | dict[str, Any],
        *,
        priority: str = "normal",
        deadline: float | None = None,
        detached: bool = False,
    ) -> dict[str, Handle | BusError]:
        """Store one task for each agent that has a capability and runs; return a handle, or the error for one that was
        not stored, by agent. Each is as durable as one of `submit(..., agent=...)`.

        Raises:
            InvalidSubjectError: there can be no such capability.
            NoRespondersError: no registry runs.
        """
        subjects.token(capability, "capability")
        there = await topics.agents_of(self.connection, self.telemetry, capability=capability)
        return await self._submitter.submit_to(there, message, priority=priority, deadline=deadline, detached=detached)

    async def publish(
        self,
        topic: str,
        message: BaseModel | dict[str, Any],
        *,
        publish_id: str | None = None,
        priority: str = "normal",
        deadline: float | None = None,
        detached: bool = False,
    ) -> dict[str, Handle | BusError]:
        """Store one task for each agent that subscribes to a topic, whether it runs or not; return as `submit_each`.

        Published again with the same `publish_id` it is the same tasks, for as long as their results are kept: that is
        what to do where an error came back, or none at all.

        Raises:
            InvalidSubjectError: there can be no such topic, or id.
            NoRespondersError: no registry runs.
        """
        subjects.topic_method(topic)
        chosen = None if publish_id is None else topics.task_id(topic, publish_id, self.connection.secret)
        there = await topics.agents_of(self.connection, self.telemetry, topic=topic)
        return await self._submitter.submit_to(
            there, message, priority=priority, deadline=deadline, detached=detached, task_id=chosen
        )

    async def gather(
        self, *handles: Handle | BusError, return_exceptions: bool = False, timeout: float | None = None
    ) -> list[Any]:
        """The values of many tasks, in the order of their handles, once all have ended.

        Of tasks that did not succeed the first to end raises what `Handle.result` does, and the others go on; with
        `return_exceptions` the errors stand among the values instead. What `submit_many` returned may be given as it
        is. `timeout` is seconds for all of them. In a handler it holds the handler's slot.

        Raises:
            TaskFailedError: a task failed, expired or was cancelled.
            BusError: one was never stored; before anything is waited for.
            ResultsTimeoutError: some have no result yet. They go on.
        """
        return await gathering.gather(self.arrivals, handles, return_exceptions=return_exceptions, timeout=timeout)

    def as_completed(self, handles: Iterable[Handle], *, timeout: float | None = None) -> AsyncGenerator[Handle, None]:
        """Go through the handles of many tasks as these end: `async for handle in mesh.as_completed(handles)`.

        What is given has its result at hand: `await handle.result()` does not wait, and raises where the task failed.
        `timeout` is seconds for all of them.

        Raises:
            ResultsTimeoutError: some have no result yet. They go on.
        """
        return gathering.as_completed(self.arrivals, handles, timeout)

    def handle(self, capability: str, task_id: str) -> Handle:
        """The handle of a task that this client submitted before, in this process or another.

        `capability` is as in the subject that it was sent to: of a task for one agent, `@<agent>`.
        """
        subjects.result(self.client, subjects.address(capability), subjects.token(task_id, "task id"))
        return Handle(self._client, capability, task_id)

    async def cancel(self, task_id: str, *, capability: str = "", client: str = "", sequence: int = 0) -> Cancelled:
        """Cancel a task, queued or running, and the children that its handler submitted; say what became of it.

        The first result wins: `cancelled` is False, and `status` says how the task ended, when it was too late. When
        this returns a queued task will not start, and whoever runs it has been told to stop: an `async` handler is
        cancelled, a plain one sees `TaskContext.stop`, and its subprocesses are killed. Capability, client and
        sequence need not be given; they tell tasks of one id apart and spare looking for it.

        Raises:
            NotFoundError: no such task waits or runs, and none has a result.
            NoStewardError: nobody is there to do it.
            TransportError: no answer within the setting `publish_timeout`; cancelling again is safe.
        """
        return await stewards.cancel(
            self.connection,
            self.telemetry,
            task_id,
            by=self.client,
            capability=capability,
            client=client,
            sequence=sequence,
        )

    async def estimate(self, capability: str, priority: str = "normal") -> Estimate:
        """When a task would start that this client submitted now, as far as a steward can tell.

        Raises:
            InvalidSubjectError: there can be no such capability, or priority.
            NotFoundError: no agent ever had the capability.
            NoStewardError, TransportError: as in `cancel`.
        """
        return await estimates.ask(self.connection, self.telemetry, capability, priority=priority, client=self.client)

    async def redrive(self, task_id: str, *, capability: str = "", client: str = "") -> Redriven:
        """Submit the task of a dead letter anew, with an id of its own; again it is the same new task.

        Raises:
            NotFoundError: there is no such dead letter.
            NoStewardError, TransportError: as in `cancel`.
        """
        message = {"task_id": subjects.token(task_id, "task id"), "capability": capability, "client": client}
        return Redriven.model_validate(await stewards.ask(self.connection, self.telemetry, "redrive", message))

    async def drop_dead(self, task_id: str, *, capability: str = "", client: str = "") -> DeadLetter:
        """Take a dead letter away for good. The task's result stays.

        Raises:
            NotFoundError: there is no such dead letter.
            NoStewardError, TransportError: as in `cancel`.
        """
        message = {"task_id": subjects.token(task_id, "task id"), "capability": capability, "client": client}
        return DeadLetter.model_validate(await stewards.ask(self.connection, self.telemetry, "drop", message))

    def ask(
        self,
        service: str,
        method: str,
        message: object = None,
        *,
        timeout: float | None = None,
        choose: str | None = None,
        key: str | None = None,
        instance: str | None = None,
        retries: int = 0,
    ) -> Coroutine[Any, Any, Any]:
        """Ask a service and return the plain value of its reply.

        The server has it answered by any instance, except those that are known to be suspect or paused. `choose` takes
        one by `round_robin`, `random`, `least_busy`, `resource_based`, `performance` or `sticky`; what is `sticky` goes
        to the same instance for the same `key` (default: this process), until that dies. `instance` is asked and no
        other.

        At most once, unless `retries` says how often it may be tried again after an error that this may cure, within
        `timeout` seconds (default: the setting `request_timeout`) for all of them. In a handler it waits no longer than
        the handler's own caller.

        Raises:
            NoRespondersError: at once, when no instance of the service runs.
            RequestTimeoutError: no reply within `timeout` seconds; the handler is cancelled by then.
            RemoteError: the handler failed; `retryable` says whether a retry may help.
            BreakerOpenError: at once, when it has failed too often lately; nothing was sent.
            NoTimeLeftError: whoever waits for the handler that asks has given up; nothing was sent.
            ConfigError, EncodeError, InvalidSubjectError, PayloadTooLargeError: before anything is sent.
        """
        return self._asker.ask(
            service,
            method,
            message,
            timeout=timeout,
            choose=choose,
            key=key,
            instance=instance,
            retries=retries,
        )

    def prefer(self, service: str, method: str, strategy: str) -> None:
        """Have this client choose so whenever it asks a method without saying how; empty: the server chooses.

        Raises:
            ConfigError, InvalidSubjectError: there is no such strategy, or no such name.
        """
        self._asker.prefer(service, method, strategy)

    @property
    def breakers(self) -> dict[str, State]:
        """The breakers of this client that are not closed, by `agent/method`: `open` or `half-open`."""
        return self._asker.breakers()

    def on_breaker(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, and no other, when one of the breakers has changed. It must not raise."""
        self._asker.on_breaker = callback

    async def broadcast(
        self, capability: str, message: BaseModel | dict[str, Any], *, timeout: float = 5.0
    ) -> Gathered:
        """Ask every instance that has a capability, and gather their answers until all have come or `timeout` seconds
        are over. Its handler runs as for a task, but nothing is stored and nothing tried again: at most once.

        Raises:
            EncodeError, InvalidSubjectError, PayloadTooLargeError: nothing was sent.
            TransportError: the connection is lost.
        """
        return await cast.gather(self.connection, self.telemetry, capability, message, timeout=timeout)

    async def ask_topic(self, topic: str, message: BaseModel | dict[str, Any], *, timeout: float = 5.0) -> Gathered:
        """Ask every agent that subscribes to a topic, whichever instance of each, and gather their answers until all
        have come or `timeout` seconds are over. At most once; `missing` are the agents that did not answer.

        Raises:
            NoRespondersError: no registry runs.
            EncodeError, InvalidSubjectError: nothing was sent.
            PermissionDeniedError: one of the agents may not be asked.
        """
        plain = message.model_dump() if isinstance(message, BaseModel) else message
        return await topics.gather(self.connection, self.telemetry, topic, plain, timeout=timeout)

    def prompt(
        self,
        agent: str,
        text: str,
        *,
        attachments: Sequence[Attachment] = (),
        owner: str | None = None,
        session: str | None = None,
        timeout: float | None = None,
        inactivity: float = MAX_SILENCE,
        on_query: prompting.OnQuery | None = None,
    ) -> prompting.Asking:
        """A prompt for an agent, ours or another that speaks the Synadia Agent Protocol. `await` it for the whole
        answer, or go through its chunks with `async for`; see `bus.prompting.Asking` for what either raises.

        Where an agent is in several places `owner` and `session` say which. `inactivity` is the seconds between two
        signs of life, `timeout` those of all. `on_query` answers what the agent asks in the middle of its answer.
        """
        return prompting.prompt(
            self.connection,
            self.telemetry,
            self._directory,
            agent,
            text,
            attachments=attachments,
            owner=owner,
            session=session,
            timeout=timeout,
            inactivity=inactivity,
            on_query=on_query,
        )

    async def tell(self, service: str, method: str, message: object = None) -> None:
        """Send a service a message that nobody answers; see `bus.rpc.tell`."""
        await rpc.tell(self.connection, self.telemetry, service, method, message)

    async def trace(self, task_or_trace_id: str) -> list[SpanRecord]:
        """The spans of a task, found by its id or by its trace's, as far as they stand in TRACES.

        Raises:
            NotFoundError: neither a result nor a span knows the id.
        """
        await self.telemetry.flush()
        return await traces.find(self.connection, task_or_trace_id)

    def at_close(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` called before the connection is closed. It must be quick and must not raise."""
        self._at_close.append(callback)

    async def close(self) -> None:
        """Flush spans and close the connection. Handles that still wait raise `BusClosedError`."""
        self.arrivals.stop()
        for callback in reversed(self._at_close):
            await callback()
        await self._asker.close()
        await self.telemetry.close()
        await self.connection.close()


def _own_name(connection: Connection, chosen: str) -> str:
    """The client's token: what was chosen, if we may be that."""
    if connection.restricted and chosen not in ("", connection.user):
        assert connection.credentials is not None
        reason = f"the credentials {connection.credentials.path} are of {connection.user}, who is no other client"
        raise ConfigError(f"client {chosen}", reason)
    return chosen or connection.user or subjects.ANONYMOUS
