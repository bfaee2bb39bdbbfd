"""`revo schedule`: what is to be done later, once or again and again; and what `revo submit` says of it."""

from __future__ import annotations

import datetime
import re
import time
from dataclasses import dataclass
from typing import Any, Final

from bus import endings, schedules, subjects
from bus.errors import ConfigError, NotFoundError
from bus.mesh import Mesh
from bus.messages import Result
from bus.schedules import ScheduleInfo
from bus.settings import Settings
from bus.when import MAX_AHEAD, When, when
from revo.cli.common import DONE, Output, ago, console, guarded_text, print_json, quiet_logs, run_async, table

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)\Z")
_UNIX: Final = re.compile(r"\d{9,12}(\.\d+)?\Z")
"""Seconds since 1970; eight digits are a day, as ISO writes it."""
_TIMES: Final = 5
_TURNS: Final = {
    "rm": ("unschedule", "is gone"),
    "pause": ("pause_schedule", "is paused"),
    "resume": ("resume_schedule", "goes on"),
}
"""What a steward is asked for, and what is said then."""


@dataclass(frozen=True)
class Timing:
    """When a task is to be done, as the user wrote it."""

    at: str | None = None
    after: str | None = None
    every: str | None = None
    cron: str | None = None
    timezone: str | None = None
    schedule_id: str | None = None

    def when(self) -> When | None:
        """The same as the server takes it; None: now.

        Raises:
            ConfigError: it makes no sense.
        """
        if self == Timing():
            return None
        said = {"--at": self.at, "--after": self.after, "--every": self.every, "--cron": self.cron}
        given = [name for name, value in said.items() if value is not None]
        if not given:
            name = "--timezone" if self.schedule_id is None else "--schedule"
            raise ConfigError(name, "goes with one of --at, --after, --every and --cron")
        if len(given) > 1:
            raise ConfigError(" and ".join(given), "give one of --at, --after, --every and --cron")
        arguments = self.arguments()
        try:
            return when(**arguments)
        except ConfigError as error:
            if error.what.partition(" ")[0] != given[0].removeprefix("--"):
                raise
            raise ConfigError(f"{given[0]} {said[given[0]]}", error.reason) from None  # as it was typed

    def once(self) -> dict[str, Any]:
        """What `Mesh.submit` takes of it for a task that is done once, or now."""
        said = {**self.arguments(), "schedule_id": self.schedule_id}
        return {name: value for name, value in said.items() if name not in ("every", "cron")}

    def arguments(self) -> dict[str, Any]:
        """As `Mesh.submit` takes them."""
        return {
            "at": float(self.at) if self.at is not None and _UNIX.match(self.at) else self.at,
            "after": None if self.after is None else seconds("--after", self.after),
            "every": None if self.every is None else seconds("--every", self.every),
            "cron": self.cron,
            "timezone": self.timezone,
        }


def seconds(option: str, text: str) -> float:
    """A span such as `90`, `90s`, `15m`, `2h` or `1d`.

    Raises:
        ConfigError: it is none.
    """
    found = _SPAN.match(text.strip())
    if found is None:
        raise ConfigError(f"{option} {text}", "is no span such as 90, 15m, 2h or 1d")
    span = float(found[1]) * _UNITS[found[2]]
    if span > MAX_AHEAD:
        raise ConfigError(f"{option} {text}", "is more than ten years")
    if option == "--every" and span < 1:
        raise ConfigError(f"{option} {text}", "is under 1 second")
    return span


def ls(client: str, *, url: str | None, output: Output) -> int:
    """List the schedules; returns the exit status."""
    quiet_logs()
    if client:
        subjects.token(client, "client")

    async def ask() -> schedules.Listing:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-schedule") as mesh:
            return await schedules.find(mesh.connection, mesh.telemetry, client=client)

    found = run_async(ask(), "asking a steward")
    if output is Output.JSON:
        print_json(found.model_dump())
        return DONE
    title = "schedules" if found.schedules else "schedules: none"
    shown = table(title, "=id", "client", "capability", "when", "next", "note")
    for column in shown.columns[1:]:
        column.overflow = (
            "fold"  # an id is long: on a narrow terminal the rest takes more lines, and nothing is cut off
        )
    for one in found.schedules:
        note = _note(one).partition(",")[0]
        shown.add_row(*map(guarded_text, (one.schedule_id, one.client, one.capability, _when(one), _due(one), note)))
    shown.show_header = shown.row_count > 0
    console().print(shown)
    if found.total > len(found.schedules):
        console().print(f"and {found.total - len(found.schedules):,} more")
    return DONE


def show(schedule_id: str, client: str, *, url: str | None, output: Output) -> int:
    """Show one schedule; returns the exit status."""
    quiet_logs()
    subjects.token(schedule_id, "schedule id")

    async def ask() -> tuple[ScheduleInfo, Result | None]:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-schedule") as mesh:
            of = {"client": client, "schedule_id": schedule_id}
            found = (await schedules.find(mesh.connection, mesh.telemetry, **of)).schedules
            if not found:
                raise NotFoundError(f"schedule {schedule_id}", "there is none; see `revo schedule ls`")
            if len(found) > 1:
                names = " or ".join(one.client for one in found)
                raise ConfigError(f"schedule {schedule_id}", f"say --client, for it may be {names}'s")
            (info,) = found
            if info.last is None:
                return info, None
            subject = subjects.result(info.client, info.capability, info.last.task_id)
            return info, await endings.stored_result(mesh.connection, subject)

    info, result = run_async(ask(), "asking a steward")
    times = next_times(info)
    if output is Output.JSON:
        last = result.model_dump() if result else None
        print_json({**info.model_dump(), "next_times": times, "result": last})
        return DONE
    facts = [("schedule", info.schedule_id), ("client", info.client), ("capability", info.capability)]
    facts += [("when", _when(info)), ("priority", info.priority), ("deadline", f"{info.deadline:g} s after it is due")]
    facts += [("state", _note(info) or "active")]
    facts += [("next" if n == 0 else "", _clock(moment)) for n, moment in enumerate(times)]
    if info.last is not None:
        facts += [("last", f"{info.last.task_id}, {ago(info.last.at)} ago: {_end(result)}")]
    for key, value in facts:
        console().print(f"[bold]{key:<12}[/]{guarded_text(value)}", soft_wrap=True)
    return DONE


def turn(command: str, schedule_id: str, client: str, *, url: str | None, output: Output) -> int:
    """Take a schedule away, pause it or let it go on; returns the exit status."""
    quiet_logs()
    subjects.token(schedule_id, "schedule id")
    method, said = _TURNS[command]

    async def ask() -> ScheduleInfo:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-schedule") as mesh:
            by = f"client {mesh.client}"
            return await schedules.turn(mesh.connection, mesh.telemetry, method, schedule_id, client=client, by=by)

    info = run_async(ask(), "asking a steward")
    if output is Output.JSON:
        print_json(info.model_dump())
    else:
        console().print(f"schedule {info.schedule_id} of {info.client} {said}", soft_wrap=True)
    return DONE


def next_times(info: ScheduleInfo) -> list[float]:
    """The next times that it is due, in unix seconds; none while it is paused."""
    found: list[float] = []
    due = When(info.when, info.zone)
    moment = info.next_at
    while moment is not None and len(found) < _TIMES:
        found.append(moment)
        moment = None if info.once else due.after(moment, base=info.next_at or 0.0)
    return found


def _when(info: ScheduleInfo) -> str:
    if info.once:
        return "once"
    words = info.when.removeprefix("@").split()
    if len(words) == 6 and words[0] == "0":
        del words[0]  # the server wants seconds, and people write five fields
    return " ".join((*words, info.zone)).strip()


def _due(info: ScheduleInfo) -> str:
    """Roughly: a table has no room for more."""
    return "" if info.next_at is None else " ".join(in_(info.next_at).split()[:3])


def _clock(moment: float) -> str:
    local = datetime.datetime.fromtimestamp(moment, datetime.UTC).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} ({in_(moment)})"


def in_(moment: float) -> str:
    """How far away a time is (unix seconds)."""
    left = moment - time.time()
    return f"in {ago(time.time() - left)}" if left > 0 else "now"


def _note(info: ScheduleInfo) -> str:
    if info.due_since is not None:
        return f"due for {ago(info.due_since)}, and not in the queue yet"
    return "paused" if info.paused else ""


def _end(result: Result | None) -> str:
    if result is None:
        return "no result (it waits, runs, or ended long ago)"
    return f"{result.status} ({result.error.code}: {result.error.message})" if result.error else result.status
