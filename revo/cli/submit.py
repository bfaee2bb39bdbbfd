"""`revo submit`: one task from the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from bus import estimates
from bus.errors import ConfigError, ResultTimeoutError, TaskFailedError
from bus.estimates import Estimate
from bus.mesh import Handle, Mesh
from bus.messages import Result
from bus.settings import Settings
from revo.cli.common import (
    DONE,
    FAILED,
    Output,
    console,
    print_json,
    quiet_logs,
    run_async,
    say_error,
    to_json,
    waiting,
    write_all,
)
from revo.cli.follow import Follower
from revo.cli.schedule import Timing


@dataclass(frozen=True)
class Request:
    """What to submit, as the user wrote it."""

    capability: str
    fields: list[str]
    json_text: str | None
    priority: str
    task_id: str | None
    key: str | None
    by_content: bool
    deadline: float | None
    agent: str | None
    timing: Timing

    def message(self) -> dict[str, Any]:
        """The task's message.

        Raises:
            ConfigError: a field without `=`, or JSON that is no map.
        """
        message: dict[str, Any] = {}
        if self.json_text is not None:
            text = sys.stdin.read() if self.json_text == "-" else self.json_text
            try:
                message = json.loads(text)
            except ValueError as error:
                raise ConfigError("--json", f"is not JSON: {error}") from error
            if not isinstance(message, dict):
                raise ConfigError("--json", 'must be a map, as in {"text": "hi"}')
        return message | fields_of(self.fields)


def fields_of(fields: list[str]) -> dict[str, Any]:
    """What `key=value` words say.

    Raises:
        ConfigError: one has no `=`, or nothing before it.
    """
    found: dict[str, Any] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals or not key:
            raise ConfigError(field, "a field is written key=value, as in text=hi")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """Numbers, true, false, null, lists, maps and quoted strings as JSON reads them; everything else is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def submit(
    request: Request,
    *,
    wait: bool,
    timeout: float | None,
    url: str | None,
    output: Output,
    follow: bool = False,
) -> int:
    """Submit and, if asked, wait, or show what the task says meanwhile; returns the exit status."""
    quiet_logs()
    due = request.timing.when()
    if due is not None and not due.once:
        options = {"--wait": wait, "--follow": follow, "--id": request.task_id is not None}
        if any(options.values()):
            option = next(name for name, given in options.items() if given)
            raise ConfigError(option, "is of one task, and this is due again and again; name it by --schedule")
        return run_async(_schedule(request, request.message(), url=url, output=output))
    follower = Follower(output) if follow else None
    work = _submit(request, request.message(), wait=wait, timeout=timeout, url=url, output=output, follower=follower)
    return run_async(work) if follower is None else follower.run(work)


async def _submit(
    request: Request,
    message: dict[str, Any],
    *,
    wait: bool,
    timeout: float | None,
    url: str | None,
    output: Output,
    follower: Follower | None,
) -> int:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-submit") as mesh:
        handle = await mesh.submit(
            request.capability,
            message,
            agent=request.agent,
            priority=request.priority,
            task_id=request.task_id,
            idempotency_key=request.key,
            by_content=request.by_content,
            deadline=request.deadline,
            **request.timing.once(),
        )
        if follower is not None:
            return show(await follower.follow(handle, timeout=timeout), output, kind="result")
        if not wait:
            if output is Output.JSON:
                start = await _estimate(mesh, handle)
                about = {"task_id": handle.task_id, "duplicate": handle.duplicate, "warning": handle.warning}
                print_json({**about, "starts_in": start.starts_in if start is not None else None})
            else:
                sys.stdout.write(handle.task_id + "\n")
                if sys.stderr.isatty() and (start := await _estimate(mesh, handle)) is not None:
                    console(stderr=True).print(f"[dim]{start}[/]", highlight=False)
            return DONE
        try:
            with waiting(f"waiting for {request.capability}"):
                result = await handle.outcome(timeout=timeout)
        except ResultTimeoutError as error:
            if output is Output.JSON:
                print_json({"task_id": handle.task_id, "status": "waiting"})
            return say_error(error)
    return show(result, output)


async def _schedule(request: Request, message: dict[str, Any], *, url: str | None, output: Output) -> int:
    """Have it done again and again."""
    timing = request.timing.arguments()
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-submit") as mesh:
        made = await mesh.submit(
            request.capability,
            message,
            agent=request.agent,
            priority=request.priority,
            idempotency_key=request.key,
            by_content=request.by_content,
            deadline=request.deadline,
            every=timing["every"],
            cron=timing["cron"],
            timezone=timing["timezone"],
            schedule_id=request.timing.schedule_id,
        )
    if output is Output.JSON:
        said = {"schedule_id": made.id, "next_at": made.next_at, "replaced": made.replaced, "warning": made.warning}
        print_json(said)
    else:
        sys.stdout.write(f"{made.id}\n")
    return DONE


async def _estimate(mesh: Mesh, handle: Handle) -> Estimate | None:
    """When it starts; None: nobody says, or it has ended by now."""
    return await estimates.if_known(
        mesh.connection, mesh.telemetry, handle.capability, task_id=handle.task_id, client=mesh.client
    )


def show(result: Result, output: Output, *, kind: str = "") -> int:
    """Print how a task ended, in JSON as something of that kind; returns the exit status."""
    if output is Output.JSON:
        print_json(({"kind": kind} if kind else {}) | result.model_dump())
    elif result.status == "succeeded":
        text = result.value if isinstance(result.value, str) else to_json(result.value, indent=2)
        write_all(f"{text}\n")
    if result.status == "succeeded":
        return DONE
    if output is Output.TEXT:
        error = result.error
        code, message = (error.code, error.message) if error else ("unknown", "")
        say_error(TaskFailedError(result.task_id, result.status, code, message))
    return FAILED
