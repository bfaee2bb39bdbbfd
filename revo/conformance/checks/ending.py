"""Checks of how tasks end: one result, first, and the dead letter of those that failed."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncGenerator

from bus import jetstream, subjects
from bus.messages import BLOB
from revo.conformance.bench import ERROR, Bench
from revo.conformance.proving import proves
from revo.conformance.tap import Seen, Unmet
from revo.conformance.told import expect


@proves("first-stands", "running")
async def first_stands(bench: Bench) -> None:
    task = await bench.submit("wait", seconds=1.0, value="by its handler")
    await bench.begun(task)
    await bench.store_result(task, "succeeded", "by another worker")
    await bench.settled(task)
    expect((await bench.standing(task)).value, "by another worker", "value of the result that was stored first")
    expect(bench.begins(task), 1, "times that it ran")


@proves("ended-before", "back")
async def ended_before(bench: Bench) -> AsyncGenerator[None, None]:
    task = await bench.submit(priority="urgent")
    await bench.take("urgent")
    await bench.store_result(task, "succeeded", "by a worker that died before it could acknowledge")
    yield
    await bench.settled(task)
    expect(bench.begins(task), 0, "times that a task ran whose result stands")


@proves("dead-letter-again", "back")
async def dead_letter_again(bench: Bench) -> AsyncGenerator[None, None]:
    task = await bench.submit("fail-for-good", priority="urgent")
    await bench.take("urgent")
    await bench.store_result(task, "failed", error=ERROR)
    yield
    settled = await bench.settled(task)
    expect(bench.begins(task), 0, "times that a task ran whose result stands")
    if not any(seen.order < settled.order for seen in bench.tap.all("dead", task.name)):
        raise Unmet("its failed result stood without a dead letter, and none was stored before it was settled")


@proves("same-id", "running")
async def same_id(bench: Bench) -> None:
    task_id = secrets.token_hex(16)
    first = await bench.submit(task_id=task_id)
    end = await bench.done(first)
    again = await bench.submit(task_id=task_id)
    settled = await bench.settled(again)
    expect(bench.begins(again), 0, "times that a second task of the same id ran")
    expect((await bench.standing(again)).sequence, first.sequence, "sequence in the result that stands")
    notes = [seen for seen in bench.tap.all("double", sequence=again.sequence) if seen.order < settled.order]
    if not notes:
        raise Unmet(f"nothing is noted on revo.audit.double.{again.sequence} before it is settled")
    expect(end["sequence"], first.sequence, "sequence of the first")


@proves("full-results", "full")
async def full_results(bench: Bench) -> None:
    async with bench.full_results():
        task = await bench.submit("echo", value="kept")

        def tried(seen: Seen) -> bool:
            return seen.kind == "result" and seen.name == task.name

        await bench.tap.until("try to store the result", tried, bench.patience)

    def over(seen: Seen) -> bool:
        return (seen.kind == "done" and seen.name == task.name) or (seen.settles and seen.sequence == task.sequence)

    first = await bench.tap.until("end of the task once there was room", over, bench.patience)
    if first.kind == "settled":
        raise Unmet("it was settled although RESULTS was full")
    end = await bench.done(task)
    expect((end["status"], end["value"]), ("succeeded", "kept"), "end once there was room")


@proves("large-result", "running")
async def large_result(bench: Bench) -> None:
    end = await bench.done(await bench.submit("large", size=bench.connection.max_payload + 1))
    if end["status"] == "succeeded":
        if end["value"] is None and (end["blob"] or BLOB in end.seen.headers):
            return
        raise Unmet("it succeeded, and its value stands neither in the result nor in a blob")
    expect((end["status"], end.code), ("failed", "payload_too_large"), "end of a task whose value fits in no message")


@proves("large-task", "running")
async def large_task(bench: Bench) -> None:
    task_id, blob_id = secrets.token_hex(16), secrets.token_hex(16)
    body = json.dumps({"do": "echo", "value": "from a blob"}).encode()
    digest = hashlib.sha256(body).hexdigest()
    reference = {"id": blob_id, "size": len(body), "sha256": digest, "pieces": 1}
    subject = subjects.blob("conformance", bench.capability, task_id, blob_id, 0)
    await jetstream.store(bench.connection, subject, body)
    end = await bench.done(await bench.submit(raw=b"", headers={"Revo-Task-Id": task_id, BLOB: json.dumps(reference)}))
    if (end["status"], end["value"]) != ("succeeded", "from a blob"):
        expect(end["status"], "failed", "status of a task whose body stands in a blob")
