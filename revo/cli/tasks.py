"""`revo tasks`: queues, running tasks and results, each asked of whoever knows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bus import estimates, inspection, schedules, subjects
from bus.errors import NotFoundError
from bus.estimates import Estimate
from bus.inspection import Queue, TaskView
from bus.mesh import Mesh
from bus.messages import Beat, Cancelled, InHand, Result
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, ago, console, print_json, quiet_logs, run_async, table
from revo.cli.schedule import in_

if TYPE_CHECKING:
    from rich.table import Table

VALUE_SHOWN = 2000
"""Characters of a value that are shown; JSON has all of them."""
_STYLE = {"succeeded": "green", "failed": "bold red", "expired": "yellow", "cancelled": "yellow"}


def ls(capability: str, *, ended: int, url: str | None, output: Output) -> int:
    """Show queues, running tasks and the last results; returns the exit status."""
    quiet_logs()
    if capability:
        subjects.address(capability)

    async def look() -> tuple[list[Queue], list[Beat], list[Result]]:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-tasks") as mesh:
            return (
                await inspection.queues(mesh.connection),
                await inspection.workers(mesh.connection),
                await inspection.latest_results(mesh.connection, ended),
            )

    queues, beats, results = run_async(look(), "looking at the queues")
    running = [(beat.instance, task) for beat in beats for task in beat.in_hand]
    if capability:
        queues = [queue for queue in queues if queue.capability == capability]
        running = [pair for pair in running if pair[1].capability == capability]
        results = [result for result in results if result.capability == capability]
    if output is Output.JSON:
        print_json(
            {
                "queues": [_queue(queue) for queue in queues],
                "running": [{"instance": instance, **task.model_dump()} for instance, task in running],
                "ended": [_brief(result) for result in results],
            }
        )
        return DONE
    terminal = console()
    for part in (_queues(queues), _running(running, queues), _ended(results)):
        part.show_header = part.row_count > 0
        terminal.print(part)
        terminal.print()
    return DONE


def _queue(queue: Queue) -> dict[str, Any]:
    return {
        "capability": queue.capability,
        "priority": queue.priority,
        "waiting": queue.waiting,
        "in_hand": queue.in_hand,
        "redelivered": queue.redelivered,
        "served": queue.served,
    }


def _brief(result: Result) -> dict[str, Any]:
    return result.model_dump(exclude={"value"})


def _queues(queues: list[Queue]) -> Table:
    found = table("queues" if queues else "queues: empty", "capability", "priority", ">waiting", ">in hand", "")
    for queue in queues:
        note = "" if queue.served else "no agent has had this capability yet"
        found.add_row(queue.capability, queue.priority, f"{queue.waiting:,}", f"{queue.in_hand:,}", note)
    return found


def _running(running: list[tuple[str, InHand]], queues: list[Queue]) -> Table:
    silent = sum(queue.in_hand for queue in queues) - len(running)
    title = f"in hand: {len(running)} by the workers' own word" if running else "in hand: none"
    if silent > 0:
        title += f"; {silent} more wait for another delivery, or are with a worker that does not answer"
    found = table(title, "=task", "capability", "instance", "state", ">for", ">attempt")
    for instance, task in running:
        since = ago(task.since)
        found.add_row(task.task_id, task.capability, instance, task.state, since, str(task.attempt))
    return found


def _ended(results: list[Result]) -> Table:
    found = table("last results" if results else "results: none", "=task", "capability", "status", ">took", "error")
    for result in results:
        took = f"{result.finished_at - result.started_at:.2f} s"
        error = f"{result.error.code}: {result.error.message}" if result.error else ""
        status = f"[{_STYLE[result.status]}]{result.status}[/]"
        found.add_row(result.task_id, result.capability, status, took, _escape(error.splitlines()[0] if error else ""))
    return found


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def show(task_id: str, *, url: str | None, output: Output) -> int:
    """Show where one task is; returns the exit status."""
    quiet_logs()
    subjects.token(task_id, "task id")

    async def find() -> tuple[TaskView, Estimate | None]:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-tasks") as mesh:
            view = await inspection.find_task(mesh.connection, task_id)
            if (task := view.queued) is None:
                return view, None
            return view, await estimates.if_known(
                mesh.connection, mesh.telemetry, task.capability, task_id=task_id, client=task.client
            )

    view, start = run_async(find(), "looking for the task")
    if output is Output.JSON:
        queued = {"starts_in": start.starts_in if start is not None else None} if view.queued is not None else {}
        print_json({**_as_json(view), **queued})
        return DONE
    terminal = console()
    facts = _facts(view)
    if start is not None:
        facts.append(("start", start))
    for key, value in facts:
        terminal.print(f"[bold]{key:<12}[/]{_escape(str(value))}", soft_wrap=True)
    return DONE


def _as_json(view: TaskView) -> dict[str, Any]:
    if view.ended is not None:
        return {"state": view.ended.status, **view.ended.model_dump()}
    if view.later is not None:
        return {"state": "later", "task_id": view.later.schedule_id, **view.later.model_dump()}
    if view.running is not None:
        seconds = round(time.time() - view.running.since, 3)
        return {**view.running.model_dump(), "instance": view.instance, "seconds": seconds}
    assert view.queued is not None
    task = view.queued
    return {
        "state": "queued",
        "task_id": task.task_id,
        "capability": task.capability,
        "client": task.client,
        "priority": task.priority,
        "sequence": task.sequence,
        "submitted_at": task.stored_at,
        "deadline": task.deadline,
    }


def _facts(view: TaskView) -> list[tuple[str, object]]:
    """What people want to know first."""
    if view.ended is not None:
        result = view.ended
        facts: list[tuple[str, object]] = [("state", result.status), ("task", result.task_id)]
        facts += [("capability", result.capability), ("client", result.client), ("by", result.instance)]
        facts += [("ended", f"{ago(result.finished_at)} ago"), ("attempts", result.attempts)]
        if result.error:
            facts.append(("error", f"{result.error.code}: {result.error.message}"))
        else:
            facts.append(("value", _shown(result.value)))
        return [*facts, ("trace", result.trace_id)] if result.trace_id else facts
    if view.later is not None:
        later = view.later
        due = in_(later.next_at) if later.next_at is not None else ""
        state = "paused" if later.paused else f"due {due}" if due else "due, and not in the queue yet"
        facts = [("state", state), ("task", later.schedule_id), ("capability", later.capability)]
        return [*facts, ("client", later.client), ("priority", later.priority)]
    if view.running is not None:
        task = view.running
        return [
            ("state", f"{task.state}, for {ago(task.since)}"),
            ("task", task.task_id),
            ("capability", task.capability),
            ("client", task.client),
            ("instance", view.instance),
            ("attempt", task.attempt),
            ("delivery", task.deliveries),
        ]
    assert view.queued is not None
    queued = view.queued
    left = queued.deadline - time.time()
    return [
        ("state", f"queued, for {ago(queued.stored_at)}"),
        ("task", queued.task_id),
        ("capability", queued.capability),
        ("client", queued.client),
        ("priority", queued.priority),
        ("deadline", f"in {left:.0f} s" if left > 0 else f"{-left:.0f} s ago; no steward seems to run"),
    ]


def _shown(value: object) -> str:
    """A value as people can read it: of a large one its beginning."""
    text = str(value)
    if len(text) <= VALUE_SHOWN:
        return text
    return f"{text[:VALUE_SHOWN]}... ({len(text):,} characters; --output json has all of them)"


def cancel(task_id: str, *, capability: str, client: str, url: str | None, output: Output) -> int:
    """Cancel one task; returns 1 when it came too late."""
    quiet_logs()

    async def ask() -> Cancelled:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-tasks") as mesh:
            try:
                return await mesh.cancel(task_id, capability=capability, client=client)
            except NotFoundError:
                found = await schedules.find(mesh.connection, mesh.telemetry, client=client, schedule_id=task_id)
                if not found.schedules:
                    raise
            reason = f"it is a schedule, and no task; `revo schedule rm {task_id}` takes it away"
            raise NotFoundError(f"task {task_id}", reason)

    done = run_async(ask(), "asking a steward")
    if output is Output.JSON:
        print_json(done.model_dump())
    elif done.cancelled:
        children = f", and {done.children} of its children" if done.children else ""
        console().print(f"task {done.task_id} is cancelled{children}")
    else:
        console(stderr=True).print(f"revo: too late: task {done.task_id} has ended before, as {done.status}")
    return DONE if done.cancelled else FAILED
