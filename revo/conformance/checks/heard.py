"""Checks of all that was heard during a run: what must hold of every task."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from bus import jetstream, subjects
from bus.messages import DEAD_LETTER, DeadLetter, Result
from revo.conformance.bench import OURS, Bench
from revo.conformance.proving import proves
from revo.conformance.tap import Seen, Unmet
from revo.conformance.told import End, Task, expect, read

_TTL: Final = re.compile(r"(\d+)(s|m|h)?\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, None: 1}
_SLACK: Final = 5.0
_CLOCKS: Final = 60.0
"""Seconds by which clocks may differ."""
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"


def _results(bench: Bench) -> Iterator[tuple[Task, Seen]]:
    """What the worker tried to store as a result, of each of our tasks."""
    for task in bench.tasks:
        for seen in bench.tap.all("result", task.name):
            if OURS not in seen.headers:
                yield task, seen


def _ends(bench: Bench) -> Iterator[tuple[Task, End]]:
    """The results of the worker that stand."""
    for task in bench.tasks:
        for seen in bench.tap.all("done", task.name):
            end = read(seen)
            if OURS not in seen.headers and end["sequence"] == task.sequence:
                yield task, end


@proves("result-first", "afterwards")
async def result_first(bench: Bench) -> None:
    for task in bench.tasks:
        settled = next((seen for seen in bench.tap.all("settled", sequence=task.sequence) if seen.settles), None)
        if settled is None or task.blind:
            continue
        if not any(seen.order < settled.order for seen in bench.tap.all("done", task.name)):
            raise Unmet(f"task {task.task_id} was settled with {settled.body!r} before its result was stored")


@proves("first-only", "afterwards")
async def first_only(bench: Bench) -> None:
    for task, seen in _results(bench):
        said = seen.headers.get("Nats-Expected-Last-Subject-Sequence")
        expect(said, "0", f"Nats-Expected-Last-Subject-Sequence of the result of {task.task_id}")
    for task in bench.tasks:
        stored = len(list(bench.tap.all("done", task.name)))
        if stored > 1:
            raise Unmet(f"{stored} results of task {task.task_id} were stored")


@proves("result-fields", "afterwards")
async def result_fields(bench: Bench) -> None:
    for task, end in _ends(bench):
        try:
            result = Result.model_validate(end.result)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise Unmet(f"result of {task.task_id}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        expect(f"{result.client}.{result.capability}.{result.task_id}", task.name, "client, capability and task_id")
        expect(end.seen.headers.get("Revo-Task-Id"), task.task_id, "header Revo-Task-Id of the result")
        if not result.agent or not result.instance:
            raise Unmet(f"result of {task.task_id}: agent or instance is empty")
        if abs(result.submitted_at - task.at) > _CLOCKS:
            raise Unmet(f"result of {task.task_id}: submitted_at {result.submitted_at} is not when it was stored")
        if not result.started_at <= result.finished_at:
            raise Unmet(f"result of {task.task_id}: it finished before it started")
        if result.status == "failed" and (result.error is None or not result.error.code):
            raise Unmet(f"result of {task.task_id}: it failed, and its error has no code")
        if result.status == "succeeded" and result.error is not None:
            raise Unmet(f"result of {task.task_id}: it succeeded, and has an error")


@proves("result-ttl", "afterwards")
async def result_ttl(bench: Bench) -> None:
    for task, seen in _results(bench):
        said = _TTL.match(seen.headers.get("Nats-TTL", ""))
        if said is None:
            raise Unmet(f"the result of {task.task_id} has no Nats-TTL in seconds: {seen.headers.get('Nats-TTL')!r}")
        ttl = int(said[1]) * _SECONDS[said[2]]
        least = max(3600.0, task.deadline - seen.at) - _SLACK if not task.blind else 0.0
        if "Revo-Deadline" in task.headers and _is_number(task.headers["Revo-Deadline"]) and ttl < least:
            raise Unmet(f"Nats-TTL of the result of {task.task_id} is {ttl} s, wanted {least:.0f} at least")


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit() and len(text) < 16


@proves("dead-letter", "afterwards")
async def dead_letter(bench: Bench) -> None:
    for task, end in _ends(bench):
        if end["status"] != "failed" or task.blind:
            continue
        letters = list(bench.tap.all("dead", task.name))
        settled = next((seen for seen in bench.tap.all("settled", sequence=task.sequence) if seen.settles), None)
        if settled is None:
            continue
        if not any(letter.order < settled.order for letter in letters):
            raise Unmet(f"task {task.task_id} failed and was settled before its dead letter was stored")
        subject = subjects.dead(task.client, task.capability, task.task_id)
        stored = await jetstream.last(bench.connection, subjects.DEAD, subject)
        if stored is None:
            raise Unmet(f"there is no dead letter of task {task.task_id}")
        expect(stored.body, task.body, "body of the dead letter")
        _read_letter(task, stored)


def _read_letter(task: Task, stored: jetstream.StoredMessage) -> None:
    try:
        letter = DeadLetter.model_validate(json.loads(stored.headers.get(DEAD_LETTER, "")))
    except (ValueError, ValidationError) as error:
        raise Unmet(f"header {DEAD_LETTER} of task {task.task_id}: {f'{error}'[:200]}") from error
    expect((letter.task_id, letter.sequence), (task.task_id, task.sequence), "task_id and sequence in the dead letter")
    expect(stored.headers.get("My-Own"), task.headers.get("My-Own"), "header My-Own in the dead letter")
    copied = [name for name in task.headers if name.lower().startswith("nats-") and name in stored.headers]
    expect(copied, [], "headers Nats-* that were copied to the dead letter")


@proves("trace", "afterwards")
async def trace(bench: Bench) -> None:
    for task, end in _ends(bench):
        if TRACE in task.headers.get("traceparent", ""):
            said = end.seen.headers.get("traceparent", "")
            if TRACE not in said:
                raise Unmet(f"the task's trace is {TRACE}, its result's traceparent {said!r}")


async def traffic(bench: Bench) -> None:
    """Tasks of which what is checked here can be heard, whatever else is run."""
    parent = f"00-{TRACE}-00f067aa0ba902b7-01"
    tasks = [
        await bench.submit(headers={"traceparent": parent}),
        await bench.submit("fail-for-good", headers={"My-Own": "kept", "Nats-Rollup-Extra": "x"}),
        await bench.submit("wait", seconds=0.05, deadline=7200.0 - 60.0),
    ]
    for task in tasks:
        await bench.done(task)
