"""Checks of a worker's life: it is killed, it leaves, the server goes away; and what it says meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from pydantic import ValidationError

from bus import codec, subjects
from bus.errors import BusError
from bus.messages import Attempts, Beat
from bus.wire import Message
from revo.conformance.bench import Bench
from revo.conformance.proving import proves
from revo.conformance.tap import Seen, Unmet
from revo.conformance.told import NotRun, Task, expect

MANY = 8
"""Tasks that a worker is given when it is told to leave: more than it has slots, so that some wait."""


@proves("kill", "killed")
async def kill(bench: Bench) -> AsyncGenerator[None, None]:
    task = await bench.submit("wait", seconds=0.2, value="done again")
    await bench.begun(task)
    yield
    end = await bench.done(task)
    expect((end["status"], end["value"]), ("succeeded", "done again"), "end of a task of a killed process")
    expect(bench.begins(task), 2, "times that it ran")
    expect(end["deliveries"], 2 + len(bench.handed_back(task)), "deliveries")
    expect(end["attempts"], 1, "attempts")


@proves("drain", "left")
async def drain(bench: Bench) -> AsyncGenerator[None, None]:
    tasks = [await bench.submit("wait", seconds=0.5) for _ in range(MANY)]
    await bench.begun(tasks[0])
    yield
    if isinstance(bench.exit_status, Unmet):
        raise bench.exit_status
    expect(bench.exit_status, 0, "exit status after SIGTERM")
    for task in tasks:
        if bench.begins(task):
            expect(
                (await bench.done(task))["status"], "succeeded", "status of a task that ran when it was told to leave"
            )
    yield
    for task in tasks:
        await bench.done(task)
        expect(bench.begins(task), 1, "times that a task ran, one of those in the hands of who left")


@proves("hand-back", "left")
async def hand_back(bench: Bench) -> AsyncGenerator[None, None]:
    tasks = [await bench.submit("wait", seconds=0.3, priority="low") for _ in range(MANY)]
    await bench.begun(tasks[0])
    yield
    handed_back = [seen for task in tasks for seen in bench.handed_back(task)]
    if not handed_back:
        raise NotRun("nothing that it had in hand waited when it was told to leave")
    for task in tasks:
        for seen in bench.handed_back(task):
            notes = [_returned(one) for one in bench.tap.all("record", task.name) if one.order < seen.order]
            if seen.deliveries not in notes:
                raise Unmet(f"task {task.task_id} was handed back, and no record says before that it was")


def _returned(seen: Seen) -> int:
    return codec.read(Attempts, seen.headers, seen.body, subject=seen.name).returned


@proves("server-restart", "restarted")
async def server_restart(bench: Bench) -> AsyncGenerator[None, None]:
    task = await bench.submit("wait", seconds=0.5)
    task.blind = True
    await bench.begun(task)
    yield
    await bench.connection.connected()
    after = await bench.submit(value="after")  # from here on we hear
    after.blind = True
    for one in (task, after):
        await _ended(bench, one)
        expect((await bench.standing(one)).status, "succeeded", "status")


async def _ended(bench: Bench, task: Task) -> None:
    """Its result stands, whether we were there when it was told or not."""
    try:
        await bench.standing(task)
    except Unmet:
        await bench.ended(task)


@proves("heartbeat", "running")
async def heartbeat(bench: Bench) -> None:
    task = await bench.submit("wait", seconds=1.5)
    await bench.begun(task)

    def carries(seen: Seen) -> bool:
        return seen.kind == "beat" and any(
            one.sequence == task.sequence for one in _beat(seen.headers, seen.body).in_hand
        )

    seen = await bench.tap.until("heartbeat that carries a task that runs", carries, bench.patience)
    beat = _beat(seen.headers, seen.body)
    expect(bench.capability in beat.capabilities, True, "whether it names its capability")


@proves("tasks-question", "running")
async def tasks_question(bench: Bench) -> None:
    task = await bench.submit("wait", seconds=1.0)
    await bench.begun(task)
    answers: asyncio.Queue[Message] = asyncio.Queue()
    inbox = bench.connection.client.new_inbox()
    subscription = await bench.connection.subscribe(inbox, answers.put_nowait)
    question = subjects.control(subjects.EVERYONE, subjects.EVERYONE, "tasks")
    await bench.connection.publish(question, b"{}", reply=inbox)
    try:
        async with asyncio.timeout(min(3.0, bench.patience)):
            while True:
                answer = await answers.get()
                if any(one.sequence == task.sequence for one in _beat(answer.headers, answer.data).in_hand):
                    return
    except TimeoutError:
        raise Unmet("nobody answered that the task which runs is in hand") from None
    finally:
        await subscription.drain()


def _beat(headers: dict[str, str], body: bytes) -> Beat:
    try:
        return codec.read(Beat, headers, body, subject="a heartbeat")
    except (BusError, ValidationError) as error:
        raise Unmet(f"a heartbeat cannot be read: {error}") from error
