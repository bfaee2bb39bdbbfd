"""What checks use: tasks that tell what becomes of them, the streams, the worker, and the server where it is ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.errors import NotFoundError
from bus.messages import (
    CONTENT_TYPE,
    DEADLINE,
    EXPECTED_SUBJECT_SEQUENCE,
    FRESH,
    JSON,
    MSG_TTL,
    TASK_ID,
    Result,
)
from bus.server import Server
from bus.wire import Message
from revo.conformance.candidate import Candidate
from revo.conformance.tap import Seen, Tap, Unmet
from revo.conformance.told import End, NotRun, Task, read

CLIENT: Final = "conformance"
OURS: Final = "Revo-Conformance"
"""The header of results that we store ourselves, in the place of a worker that died or a steward."""
PATIENCE: Final = 20.0
"""Seconds for what takes milliseconds, on a machine that is busy."""
START: Final = 40.0
"""Seconds that a worker has for its first task, from its start on."""
ERROR: Final = "as_told"
"""The code of the errors that a handler raises as it is told."""


@dataclass(slots=True)
class Bench:
    """One worker under test, and all that is needed to see what it does."""

    connection: Connection
    tap: Tap
    told: str
    capability: str
    candidate: Candidate | None
    server: Server | None
    patience: float = PATIENCE
    tasks: list[Task] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    """Deliveries that we took ourselves."""
    exit_status: int | Unmet = 0
    """How the worker ended when it was asked to leave."""

    async def submit(
        self,
        do: str = "echo",
        *,
        raw: bytes | None = None,
        task_id: str = "",
        headers: Mapping[str, str] | None = None,
        priority: str = "normal",
        deadline: float = 600.0,
        content_type: str = "",
        **fields: Any,
    ) -> Task:
        """Store a task that does as it is told. `raw` is its body in place of that; `deadline` is seconds from now."""
        tell = secrets.token_hex(8)
        message = {"do": do, "tell": f"{self.told}.{tell}", **fields}
        body = codec.encode(message, content_type or JSON) if raw is None else raw
        now = time.time()
        ends = now + deadline
        head = {TASK_ID: task_id or secrets.token_hex(16), DEADLINE: f"{ends:.3f}"}
        if not task_id:
            head[FRESH] = "1"
        if content_type:
            head[CONTENT_TYPE] = content_type
        head |= headers or {}
        subject = subjects.task(self.capability, priority, CLIENT)
        stored = await jetstream.store(self.connection, subject, body, head)
        task = Task(CLIENT, self.capability, head[TASK_ID], stored.sequence, tell, body, head, now, ends)
        self.tasks.append(task)
        return task

    async def begun(self, task: Task, times: int = 1) -> Seen:
        """Return once its handler has begun so many times."""

        def is_it(seen: Seen) -> bool:
            return self._is_begin(seen, task) and self.begins(task) >= times

        return await self.tap.until(f"start of its handler ({times})", is_it, self.patience)

    def handed_back(self, task: Task) -> list[Seen]:
        """Each time that the worker gave it back to the queue."""
        return [seen for seen in self.tap.all("settled", sequence=task.sequence) if not seen.settles]

    def begins(self, task: Task) -> int:
        """How often its handler has begun."""
        return sum(self._is_begin(seen, task) for seen in self.tap.log)

    def _is_begin(self, seen: Seen, task: Task) -> bool:
        return seen.kind == "told" and seen.name == task.tell and seen.event == "begin"

    async def ended(self, task: Task, within: float = 0.0) -> End:
        """Its result, once it is stored."""

        def is_it(seen: Seen) -> bool:
            return seen.kind == "done" and seen.name == task.name

        return read(await self.tap.until(f"result of task {task.task_id}", is_it, within or self.patience))

    async def settled(self, task: Task, within: float = 0.0) -> Seen:
        """Return once the worker has taken it out of the queue."""

        def is_it(seen: Seen) -> bool:
            return seen.settles and seen.sequence == task.sequence

        return await self.tap.until(f"+ACK or +TERM of task {task.task_id}", is_it, within or self.patience)

    async def done(self, task: Task, within: float = 0.0) -> End:
        """Its result, once the task has left the queue too."""
        end = await self.ended(task, within)
        await self.settled(task, within)
        return end

    async def store_result(self, task: Task, status: str, value: Any = None, error: str = "") -> None:
        """End a task in the place of another worker, or of a steward."""
        now = time.time()
        result = {
            "task_id": task.task_id,
            "capability": task.capability,
            "client": task.client,
            "status": status,
            "value": value,
            "error": {"code": error, "message": "stored by the conformance suite"} if error else None,
            "attempts": 1,
            "deliveries": 1,
            "sequence": task.sequence,
            "agent": CLIENT,
            "instance": CLIENT,
            "submitted_at": now,
            "started_at": now,
            "finished_at": now,
        }
        headers = {EXPECTED_SUBJECT_SEQUENCE: "0", MSG_TTL: "3600s", TASK_ID: task.task_id, OURS: "1"}
        subject = subjects.result(task.client, task.capability, task.task_id)
        await jetstream.store(self.connection, subject, json.dumps(result).encode(), headers)

    async def standing(self, task: Task) -> Result:
        """The result that stands in RESULTS."""
        subject = subjects.result(task.client, task.capability, task.task_id)
        stored = await jetstream.last(self.connection, subjects.RESULTS, subject)
        if stored is None:
            raise Unmet(f"task {task.task_id} has no result in RESULTS")
        return codec.read(Result, stored.headers, stored.body, subject=subject)

    async def queued(self, task: Task) -> bool:
        """Whether it stands in TASKS."""
        return await jetstream.at(self.connection, subjects.TASKS, task.sequence) is not None

    async def consumer(self, priority: str) -> dict[str, Any]:
        """The configuration of one of the five consumers."""
        name = subjects.consumer(self.capability, priority)
        try:
            info = await jetstream.call(self.connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            raise Unmet(f"there is no consumer {name} on {subjects.TASKS}") from None
        config: dict[str, Any] = info["config"]
        return config

    async def ack_wait(self) -> float:
        """Seconds after which the server takes a worker for dead."""
        return float((await self.consumer("normal")).get("ack_wait", 0)) / 1e9

    async def policy(self) -> dict[str, float]:
        """How the capability is run; empty where the worker does not say."""
        try:
            policy = json.loads(((await self.consumer("normal")).get("metadata") or {}).get("revo.policy", "{}"))
        except ValueError:
            return {}
        return policy if isinstance(policy, dict) else {}

    async def take(self, priority: str) -> None:
        """Take a task from a consumer in the place of a worker that dies with it: it is delivered again later."""
        taken: asyncio.Queue[Message] = asyncio.Queue()
        inbox = self.connection.client.new_inbox()
        subscription = await self.connection.subscribe(inbox, taken.put_nowait)
        name = subjects.consumer(self.capability, priority)
        pull = json.dumps({"batch": 1, "expires": int(self.patience * 1e9)}).encode()
        await self.connection.publish(subjects.api("CONSUMER.MSG.NEXT", subjects.TASKS, name), pull, reply=inbox)
        try:
            async with asyncio.timeout(self.patience):
                self.taken.append((await taken.get()).reply)
        except TimeoutError:
            raise Unmet(f"consumer {name} gives no task") from None
        finally:
            await subscription.drain()

    async def deliver_again(self) -> None:
        """Have the server deliver anew what was taken, as it does when the ack deadline of a dead worker has passed."""
        for reply in self.taken:
            await self.connection.publish(reply, b"-NAK")
        self.taken.clear()

    @contextlib.asynccontextmanager
    async def full_results(self) -> AsyncIterator[None]:
        """For the length of a block RESULTS takes nothing more."""
        if self.server is None:
            raise NotRun("only on a server of the suite's own")
        info = await jetstream.call(self.connection, "STREAM.INFO", subjects.RESULTS)
        config, now = info["config"], int(info["state"]["messages"])
        await self._update({**config, "max_msgs": max(1, now)})
        try:
            yield
        finally:
            await self._update(config)

    async def _update(self, config: dict[str, Any]) -> None:
        await jetstream.call(self.connection, "STREAM.UPDATE", subjects.RESULTS, body=config)

    async def ready(self) -> None:
        """Return when the worker does tasks.

        Raises:
            Unmet: it does none, or its process has ended; says what it said.
        """
        done = asyncio.create_task(self.done(await self.submit(), START))
        ended = asyncio.create_task(self._ended())
        try:
            await asyncio.wait((done, ended), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise Unmet(f"its command ended with status {ended.result()}")
            done.result()
        except Unmet as error:
            said = self.candidate.said if self.candidate is not None else ""
            more = f"; its output ends with: {said[-500:]}" if said else ""
            raise Unmet(f"it does no task: {error}{more}") from error
        finally:
            for one in (done, ended):
                one.cancel()
            await asyncio.gather(done, ended, return_exceptions=True)

    async def _ended(self) -> int:
        """The exit status of the worker's process, once it has one; where it is not ours, never."""
        if self.candidate is None:
            never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            return await never
        return await self.candidate.ended()

    async def restart(self) -> None:
        """Kill the worker and start it again."""
        if self.candidate is None:
            raise NotRun("only with --command")
        await self.candidate.kill()
        await self.candidate.start()
