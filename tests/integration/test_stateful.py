"""A model of the outcome table against a real server: whatever happens in whichever order, tasks end as it says.

`REVO_FUZZ=200` runs so many random stories instead of the few that are always the same.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule

from bus import inspection, jetstream, subjects, topology
from bus.audit import audit
from bus.codec import decode
from bus.connection import Connection
from bus.errors import Retry
from bus.mesh import Handle, Mesh
from bus.messages import Envelope
from bus.outcomes import Policy
from bus.server import Server
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.worker import Capability, Worker
from tests.eventually import eventually, in_time
from tests.processes import ActorProcess, actor

POLICY = Policy(ack_wait=1.0, max_attempts=2, time_limit=20.0, backoff=0.02, backoff_max=0.05)
ENDS = {
    "return": "succeeded",
    "raise": "failed",
    "raise for good": "failed",
    "retry once": "succeeded",
    "garbage": "failed",
    "hang": None,
}
"""How a task ends when nobody interferes; one that hangs never does."""


class ForGoodError(Exception):
    retryable = False


@dataclass(eq=False)
class Task:
    """A task as the model knows it: the statuses that the table allows by now."""

    do: str
    handle: Handle
    allowed: set[str] = field(default_factory=set)


class Story(RuleBasedStateMachine):
    """One mesh: a server, a steward (a process), a worker, a client."""

    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.all: list[Task] = []
        self.attempts: dict[str, int] = {}

    def run(self, work: Any) -> Any:
        return self.runner.run(in_time(work, 60))

    @initialize()
    def begin(self) -> None:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.run(self._begin())

    async def _begin(self) -> None:
        self.server = await self.stack.enter_async_context(Server(self.folder / "nats"))
        self.settings = Settings(nats_url=self.server.url, ack_wait=1.0, steward_interval=0.1)
        self.mesh = await self.stack.enter_async_context(Mesh.connect(settings=self.settings))
        await self._start_steward()
        self.worker_stack = AsyncExitStack()
        await self._start_worker()

    async def _start_steward(self) -> None:
        self.steward_stack = AsyncExitStack()
        process = actor("actors.steward:Steward", self.server.url, self.folder / "steward", REVO_STEWARD_INTERVAL="0.1")
        self.steward: ActorProcess = await self.steward_stack.enter_async_context(process)

    async def _start_worker(self) -> None:
        connection = await self.worker_stack.enter_async_context(
            await Connection.open(self.server.url, settings=self.settings)
        )
        policy, _ = await topology.ensure_capability(connection, "do", POLICY, "doer")
        telemetry = Telemetry(service="doer", instance="doer-1")
        worker = Worker(
            connection,
            telemetry,
            [Capability("do", self._do, policy)],
            agent="doer",
            instance="doer-1",
            concurrency=500,  # so that those that hang leave room
        )
        worker.start()
        self.worker_stack.push_async_callback(worker.drain, 0.0)

    async def _do(self, envelope: Envelope) -> str:
        do = decode(envelope.body, envelope.content_type, subject=envelope.subject)["do"]
        self.attempts[envelope.task_id] = self.attempts.get(envelope.task_id, 0) + 1
        if do == "raise":
            raise ValueError("as told")
        if do == "raise for good":
            raise ForGoodError("as told")
        if do == "retry once" and envelope.attempt == 1:
            raise Retry(0.01)
        if do == "hang":
            await asyncio.Event().wait()
        return "done"

    @rule(
        target=tasks,
        do=st.sampled_from(sorted(ENDS)),
        hurried=st.booleans(),
        priority=st.sampled_from(subjects.PRIORITIES),
        many=st.integers(1, 5),
    )
    def submit(self, do: str, hurried: bool, priority: str, many: int) -> Any:
        made = [self.run(self._submit(do, 0.3 if hurried else 1000.0, priority)) for _ in range(many)]
        for task in made:
            end = ENDS[do]
            task.allowed = {status for status in (end, "expired" if hurried else None) if status}
        self.all += made
        return multiple(*made)

    async def _submit(self, do: str, deadline: float, priority: str) -> Task:
        if do == "garbage":
            task_id = f"garbage-{len(self.all)}-{os.urandom(4).hex()}"
            headers = {"Revo-Task-Id": task_id, "Nats-Msg-Id": task_id}
            subject = subjects.task("do", priority)
            await jetstream.store(self.mesh.connection, subject, b"\xc1 not json", headers)
            return Task(do, self.mesh.handle("do", task_id))
        return Task(do, await self.mesh.submit("do", {"do": do}, priority=priority, deadline=deadline))

    @rule(task=tasks)
    def cancel(self, task: Task) -> None:
        said = self.run(self.mesh.cancel(task.handle.task_id, sequence=task.handle.sequence))
        if said.cancelled:
            task.allowed = {"cancelled"}
        else:
            assert said.status in task.allowed, "too late means that it had ended as the table says"
            task.allowed = {said.status}

    @rule(task=tasks)
    def wait(self, task: Task) -> None:
        if task.allowed and (task.do != "hang" or "expired" in task.allowed or "cancelled" in task.allowed):
            outcome = self.run(task.handle.outcome(timeout=30))
            assert outcome.status in task.allowed
            task.allowed = {outcome.status}

    @rule(target=tasks, task=tasks)
    def redrive(self, task: Task) -> Any:
        if task.allowed != {"failed"}:
            return multiple()
        self.wait(task)
        self.run(eventually(lambda: self._letter(task.handle.task_id)))
        said = self.run(self.mesh.redrive(task.handle.task_id))
        again = self.run(self.mesh.redrive(task.handle.task_id))
        assert (again.task_id, again.duplicate) == (said.task_id, True)
        if any(one.handle.task_id == said.task_id for one in self.all):
            return multiple()
        made = Task(task.do, self.run(self._handle(said.task_id)), {"failed", "expired"})
        self.all.append(made)
        return made

    async def _handle(self, task_id: str) -> Handle:
        return self.mesh.handle("do", task_id)

    async def _letter(self, task_id: str) -> bool:
        return await jetstream.last(self.mesh.connection, subjects.DEAD, subjects.dead_of(task_id)) is not None

    @rule()
    def kill_the_server(self) -> None:
        self.run(self._kill_the_server())

    async def _kill_the_server(self) -> None:
        self.server.kill()
        await self.server.wait()
        await self.server.start()
        await self.mesh.connection.connected()

    @rule()
    def replace_the_worker(self) -> None:
        self.run(self._replace_the_worker())

    async def _replace_the_worker(self) -> None:
        await self.worker_stack.aclose()
        self.worker_stack = AsyncExitStack()
        await self._start_worker()

    @rule()
    def kill_the_steward(self) -> None:
        self.run(self._kill_the_steward())

    async def _kill_the_steward(self) -> None:
        await self.steward_stack.aclose()
        await self._start_steward()

    def teardown(self) -> None:
        try:
            if hasattr(self, "mesh"):
                self.run(self._end())
        finally:
            self.run(self._close())
            self.runner.close()

    async def _end(self) -> None:
        """Everything ends, and the streams tell the same as the model."""
        for task in self.all:
            if not task.allowed:
                said = await task.handle.cancel()
                assert said.cancelled, "it hangs, so nothing else ends it"
                task.allowed = {"cancelled"}
        ended = {}
        for task in self.all:
            outcome = await task.handle.outcome(timeout=30)
            assert outcome.status in task.allowed, (task.do, outcome)
            assert outcome.attempts <= POLICY.max_attempts
            ended[task.handle.task_id] = outcome.status
        await eventually(self._is_empty)
        report = await audit(self.mesh.connection)
        assert (report.waiting, report.good) == (0, True), report
        letters = {letter.letter.task_id for letter in await inspection.letters(self.mesh.connection)}
        assert letters == {task_id for task_id, status in ended.items() if status == "failed"}

    async def _is_empty(self) -> bool:
        info = await jetstream.call(self.mesh.connection, "STREAM.INFO", subjects.TASKS)
        return int(info["state"]["messages"]) == 0

    async def _close(self) -> None:
        if hasattr(self, "worker_stack"):
            await self.worker_stack.aclose()
        if hasattr(self, "steward_stack"):
            await self.steward_stack.aclose()
        await self.stack.aclose()


STORIES = int(os.environ.get("REVO_FUZZ", "0"))

TestStories = Story.TestCase
TestStories.settings = settings(
    max_examples=STORIES or 4,
    derandomize=not STORIES,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],  # to shrink a story takes minutes, and it is read as well as it is
)
