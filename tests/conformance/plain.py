"""A worker on nats-py alone that does tasks in JSON, and breaks a requirement where it is told to.

What it breaks the suite must catch.

`python -m tests.conformance.plain [FAULT]`. Without a fault it does all that is asked of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.conformance.told import CAPABILITY, NS, POLICY, PRIORITIES, SLOTS, Failed, Refused, Task, broken


class Worker:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.inbox = client.new_inbox()
        self.held: list[Task] = []
        self.in_hand: dict[int, Task] = {}
        self.running = 0
        self.leaving = False
        self.since = time.time()
        self.idle = asyncio.Event()
        self.instance = f"plain-{os.getpid()}"

    async def api(self, what: str, body: object = None, **headers: str) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        answer = await self.client.request(what, data, timeout=2.0, headers=headers or None)
        found: dict[str, Any] = json.loads(answer.data)
        if "error" in found:
            raise Refused(found["error"]["err_code"])
        return found

    async def open(self) -> None:
        for priority in PRIORITIES:
            config = {
                "durable_name": f"{CAPABILITY}-{priority}",
                "filter_subject": f"revo.task.{CAPABILITY}.{priority}.*",
                "ack_policy": "explicit",
                "ack_wait": int(POLICY["ack_wait"] * NS),
                "max_deliver": 20 if broken("limits deliveries") else -1,
                "max_ack_pending": -1,
                "metadata": {} if broken("says nothing of its policy") else {"revo.policy": json.dumps(POLICY)},
            }
            action = "" if broken("sets up its consumers anew") else "create"
            with contextlib.suppress(Refused):  # it stands, and what stands holds
                subject = f"$JS.API.CONSUMER.CREATE.TASKS.{CAPABILITY}-{priority}.{config['filter_subject']}"
                await self.api(subject, {"stream_name": "TASKS", "config": config, "action": action})
        await self.client.subscribe(f"{self.inbox}.*", cb=self.arrive)
        await self.client.subscribe("revo.ctl.all.all.*", cb=self.order)
        self.beating = asyncio.create_task(self.beat())
        await self.pull(*PRIORITIES)

    async def pull(self, *priorities: str) -> None:
        """Ask for one task of each: there is one in hand, or one is asked for, and no more."""
        for priority in priorities:
            subject = f"$JS.API.CONSUMER.MSG.NEXT.TASKS.{CAPABILITY}-{priority}"
            await self.client.publish(subject, b'{"batch": 1}', reply=f"{self.inbox}.{priority}")

    async def arrive(self, message: Msg) -> None:
        if not message.reply:
            return  # word of a pull that is over
        task = Task(message)
        if task.sequence in self.in_hand:
            self.in_hand[task.sequence].message = message
            await self.pull(task.priority)
            return
        if broken("acknowledges on arrival"):
            await self.client.publish(message.reply, b"+ACK")
        self.in_hand[task.sequence] = task
        self.held.append(task)
        self.held.sort(key=lambda one: PRIORITIES.index(one.priority))
        await self.fill()

    async def fill(self) -> None:
        if self.leaving:
            held, self.held = self.held, []
            for task in held:
                record, revision = await self.record(task)
                if not broken("hands back without a word"):
                    await self.write(task, {**record, "returned": task.deliveries}, revision)
                await self.client.publish(task.message.reply, b"-NAK")
                self.in_hand.pop(task.sequence)
        while self.held and self.running < SLOTS:
            least = broken("takes the least urgent first")
            if least and self.held[-1].priority != "low" and time.time() < self.since + 1.0:
                break  # until then all that is low has begun
            task = self.held.pop(-1 if least else 0)
            self.running += 1
            task.work = asyncio.create_task(self.work(task))
            await self.pull(task.priority)
        if not self.in_hand:
            self.idle.set()

    async def order(self, message: Msg) -> None:
        verb = message.subject.rpartition(".")[2]
        if verb == "end" and not broken("does not hear that a task was cancelled"):
            task = self.in_hand.get(read(message)["sequence"])
            if task is not None and task.work is not None:
                task.work.cancel()
        elif verb == "tasks" and not broken("does not answer"):
            await self.client.publish(message.reply, self.said())

    def said(self) -> bytes:
        in_hand = [
            {
                "task_id": task.task_id,
                "capability": task.capability,
                "client": task.client,
                "priority": task.priority,
                "sequence": task.sequence,
                "deliveries": task.deliveries,
                "attempt": task.attempt,
                "state": "held" if task.work is None else "running",
                "since": time.time(),
            }
            for task in self.in_hand.values()
        ]
        beat = {"agent": "plain", "instance": self.instance, "at": time.time(), "concurrency": SLOTS}
        return json.dumps({**beat, "capabilities": [CAPABILITY], "in_hand": in_hand}).encode()

    async def beat(self) -> None:
        while True:
            if not broken("has no heart"):
                await self.client.publish(f"revo.beat.plain.{self.instance}", self.said())
            for task in self.in_hand.values():
                if not broken("does not extend"):
                    await self.client.publish(task.message.reply, b"+WPI")
            await self.fill()
            await asyncio.sleep(0.15)  # noqa: TID251  (the beat itself)

    # --- one task ---------------------------------------------------------------------------------------------

    async def work(self, task: Task) -> None:
        try:
            await self.do(task)
        except asyncio.CancelledError:
            await self.settle(task, b"+TERM")  # its result stands
        finally:
            self.in_hand.pop(task.sequence, None)
            self.running -= 1
            await asyncio.shield(self.fill())

    async def do(self, task: Task) -> None:
        standing = None
        if task.deliveries > 1 or task.named:
            standing = await self.standing(task)
        if task.named and broken("runs what it has done under the same id"):
            standing = None
        if standing is not None and not broken("runs what has its result"):
            if standing["status"] == "failed" and not broken("leaves a failed result without its dead letter"):
                await self.bury(task, standing)
            await self.settle(task, b"+ACK", standing)
            return
        record, revision = await self.record(task)
        task.attempt = record["errors"] + 1
        if broken("counts deliveries as attempts"):
            task.attempt = task.deliveries
        started = time.time()
        try:
            value = await self.run(task, record)
            end: tuple[str, Any, Failed | None] = ("succeeded", value, None)
        except TimeoutError:
            end = ("expired", None, Failed("deadline_exceeded", retryable=False))
        except Failed as error:
            again = error.retryable and (task.attempt < POLICY["max_attempts"] or broken("never gives up"))
            if again:
                await self.again(task, record, revision)
                return
            end = ("failed", None, error)
        await self.end(task, started, *end)

    async def run(self, task: Task, record: dict[str, Any]) -> Any:
        retryable = broken("tries garbage again")
        if record["alone"] >= POLICY["max_deaths"] and not broken("runs poison"):
            raise Failed("worker_died", retryable=False)
        if task.fault:
            raise Failed("decode", retryable=False)
        try:
            empty = "Revo-Blob" in task.headers and broken("takes a blob for an empty body")
            told = {"do": "echo"} if empty else json.loads(task.message.data)
            assert isinstance(told, dict)
        except (ValueError, AssertionError):
            if not broken("reads everything as text"):
                raise Failed("decode", retryable=retryable) from None
            told = {"do": "echo"}
        left = task.deadline - time.time()
        if left <= 0 and not broken("runs what is past its deadline"):
            raise TimeoutError
        limit = POLICY["time_limit"] if broken("runs on past the deadline") or left <= 0 else left
        async with asyncio.timeout(limit):
            return await self.handle(task, told)

    async def handle(self, task: Task, told: dict[str, Any]) -> Any:
        """The handler: as `docs/conformance.md` tells."""
        await self.tell(told, "begin")
        try:
            await asyncio.sleep(told.get("seconds", 0))  # noqa: TID251  (the work itself)
        except asyncio.CancelledError:
            await self.tell(told, "stopped")
            raise
        await self.tell(told, "end")
        if told["do"] == "fail" or (told["do"] == "fail-once" and task.attempt == 1):
            raise Failed("as_told", retryable=True)
        if told["do"] == "fail-for-good":
            raise Failed("as_told", retryable=broken("tries again what no retry cures"))
        if broken("reads numbers as texts") and told["do"] == "echo":
            return json.loads(json.dumps(told.get("value")), parse_float=str)
        return "x" * told["size"] if told["do"] == "large" else told.get("value")

    async def tell(self, told: dict[str, Any], event: str) -> None:
        if told.get("tell"):
            await self.client.publish(told["tell"], json.dumps({"event": event}).encode())

    # --- what becomes of it -----------------------------------------------------------------------------------

    async def standing(self, task: Task) -> dict[str, Any] | None:
        subject = f"$JS.API.DIRECT.GET.RESULTS.revo.result.{task.name}"
        answer = await self.client.request(subject, timeout=2.0)
        return None if (answer.headers or {}).get("Status") else json.loads(answer.data)

    async def record(self, task: Task) -> tuple[dict[str, Any], int]:
        none = {"errors": 0, "returned": 0, "suspect": False, "alone": 0}
        if task.deliveries == 1:
            return none, 0
        answer = await self.client.request(f"$JS.API.DIRECT.GET.KV_ATTEMPTS.$KV.ATTEMPTS.{task.name}", timeout=2.0)
        headers = answer.headers or {}
        if headers.get("Status"):
            return none, 0
        return {**none, **read(answer)}, int(headers["Nats-Sequence"])

    async def again(self, task: Task, record: dict[str, Any], revision: int) -> None:
        if not broken("keeps no record"):
            await self.write(task, {**record, "errors": task.attempt, "returned": task.deliveries}, revision)
        delay = 0 if broken("tries again at once") else int(0.1 * NS)
        await self.client.publish(task.message.reply, b'-NAK {"delay": %d}' % delay if delay else b"-NAK")

    async def write(self, task: Task, record: dict[str, Any], revision: int) -> None:
        expected = {"Nats-Expected-Last-Subject-Sequence": str(revision), "Nats-TTL": "4200s"}
        with contextlib.suppress(Refused):  # whoever was quicker has told more
            await self.api(f"$KV.ATTEMPTS.{task.name}", record, **expected)

    async def end(self, task: Task, started: float, status: str, value: Any, error: Failed | None) -> None:
        told = {"code": error.code, "message": "as told", "retryable": error.retryable} if error else None
        result = {
            "task_id": task.task_id,
            "capability": task.capability,
            "client": task.client,
            "status": status,
            "value": value,
            "error": told,
            "attempts": task.attempt,
            "deliveries": task.deliveries,
            "sequence": task.sequence,
            "agent": "" if broken("forgets who it is") else "plain",
            "instance": self.instance,
            "submitted_at": task.stored_at,
            "started_at": started,
            "finished_at": time.time(),
            "trace_id": "",
        }
        if broken("acknowledges before the result is stored"):
            await self.settle(task, b"+ACK")
        standing = await self.store(task, result)
        if standing is None:
            return
        if standing["status"] == "failed" and not broken("writes no dead letter"):
            if broken("writes the dead letter last"):
                await self.settle(task, b"+TERM")
            await self.bury(task, standing)
        await self.settle(task, b"+ACK" if standing["status"] == "succeeded" else b"+TERM", standing)

    async def store(self, task: Task, result: dict[str, Any]) -> dict[str, Any] | None:
        """The result that stands; None: it was dropped."""
        if len(json.dumps(result)) > self.client.max_payload - 65536 and broken("cuts what is too large"):
            result["value"] = None
        elif len(json.dumps(result)) > self.client.max_payload - 65536:
            result |= {"status": "failed", "value": None}
            result["error"] = {"code": "payload_too_large", "message": "it fits in no message", "retryable": False}
        subject, body, headers = f"revo.result.{task.name}", json.dumps(result).encode(), head(task)
        while True:
            try:
                await self.api(subject, body, **headers)
                return result
            except Refused as refused:
                if refused.args[0] in (10071, 10164) and not broken("stores its result over another"):
                    return await self.standing(task)
                if refused.args[0] in (10071, 10164):
                    await self.api("$JS.API.STREAM.PURGE.RESULTS", {"filter": subject})
                elif broken("drops what it cannot store"):
                    await self.settle(task, b"+TERM")
                    return None
            except (nats.errors.Error, OSError):
                pass  # the server is away: again
            await asyncio.sleep(0.1)  # noqa: TID251  (until there is room)

    async def bury(self, task: Task, result: dict[str, Any]) -> None:
        keys = ("task_id", "capability", "client", "sequence", "error", "attempts", "deliveries", "agent", "instance")
        letter = {key: result[key] for key in keys} | {"subject": task.message.subject, "died_at": time.time()}
        letter |= {"submitted_at": task.stored_at, "reason": result["error"]["code"]}
        headers = {key: value for key, value in task.headers.items() if not key.lower().startswith("nats-")}
        headers["Revo-Dead-Letter"] = json.dumps(letter)
        headers["Nats-Expected-Last-Subject-Sequence"] = "0"
        with contextlib.suppress(Refused):  # it stands
            await self.api(f"revo.dead.{task.name}", task.message.data, **headers)

    async def settle(self, task: Task, word: bytes, standing: dict[str, Any] | None = None) -> None:
        if standing is not None and standing["sequence"] != task.sequence:
            note = {"task_id": task.task_id, "ended_by": standing["sequence"]}
            with contextlib.suppress(Refused):  # it is noted
                subject = f"revo.audit.double.{task.sequence}"
                await self.api(subject, note, **{"Nats-Expected-Last-Subject-Sequence": "0"})
        await self.client.publish(task.message.reply, word)


def read(message: Msg) -> dict[str, Any]:
    """What a steward or another worker wrote."""
    packed = (message.headers or {}).get("Content-Type") == "application/msgpack"
    found: dict[str, Any] = msgpack.unpackb(message.data) if packed else json.loads(message.data)
    return found


def head(task: Task) -> dict[str, str]:
    """The headers of its result."""
    ttl = int(max(3600.0, task.deadline - time.time())) + 1
    headers = {"Nats-TTL": f"{ttl}s", "Revo-Task-Id": task.task_id, "Nats-Expected-Last-Subject-Sequence": "0"}
    if broken("keeps results for ever"):
        del headers["Nats-TTL"]
    if broken("does not compare before it stores a result"):
        del headers["Nats-Expected-Last-Subject-Sequence"]
    if "traceparent" in task.headers and not broken("loses the trace"):
        headers["traceparent"] = task.headers["traceparent"]
    return headers


async def main() -> None:
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    if not broken("dies of SIGTERM"):
        loop.add_signal_handler(signal.SIGTERM, leave.set)
    back: list[Callable[[], Awaitable[None]]] = []

    async def reconnected() -> None:
        for callback in back:
            await callback()

    client = await nats.connect(
        os.environ["REVO_NATS_URL"],
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        allow_reconnect=not broken("does not come back"),
        reconnected_cb=reconnected,
    )
    worker = Worker(client)
    await worker.open()
    back.append(lambda: worker.pull(*PRIORITIES))  # those that stood are gone with the server
    await leave.wait()
    worker.leaving = True
    worker.idle.clear()
    await worker.fill()
    await worker.idle.wait()
    worker.beating.cancel()
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main())
