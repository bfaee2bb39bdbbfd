"""`revo events`: what happened to agents and to the system."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Final

from bus import events, jetstream, reading, subjects
from bus.connection import Connection
from bus.errors import ConfigError, DecodeError
from bus.events import Event
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async

if TYPE_CHECKING:
    from rich.text import Text

KINDS: Final = (events.AGENT, events.SYSTEM, events.SCHEDULE, events.FAULT, events.BREAKER)
_STYLE: Final = {
    "ready": "green",
    "up": "green",
    "dead": "bold red",
    "failed": "bold red",
    "open": "bold red",
    "half-open": "yellow",
    "closed": "green",
    "restarting": "yellow",
    "resting": "yellow",
    "draining": "yellow",
    "deaf": "bold red",
    "heard": "green",
    "paused": "yellow",
    "resumed": "green",
    "shed": "yellow",
}
_SEVERITY: Final = {"low": "default", "medium": "yellow", "high": "red", "critical": "bold red"}


def show(kind: str, name: str, *, since: float, follow: bool, url: str | None, output: Output) -> int:
    """Print what happened in the last `since` seconds and, with `follow`, what happens; returns the exit status."""
    quiet_logs()
    if kind and kind not in KINDS:
        raise ConfigError(f"--kind {kind}", f"is one of {', '.join(KINDS)}")
    subject = f"revo.event.{kind}.>" if kind else subjects.EVENT_SUBJECTS
    of = subjects.token(name, "name") if name else ""
    if follow:
        return run_async(_follow(subject, of, since, url, output))
    found = run_async(_read(subject, of, since, url), "reading events")
    if output is Output.JSON:
        print_json([event.model_dump() for event in found])
    else:
        terminal = console()
        for event in found:
            terminal.print(line_of(event), soft_wrap=True)
        if not found:
            terminal.print(f"nothing happened in the last {since:g} s; --since SECONDS looks further back")
    return DONE


async def _read(subject: str, of: str, since: float, url: str | None) -> list[Event]:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-events") as mesh:
        return [one for one in await recent(mesh.connection, time.time() - since, subject) if _is_of(one, of)]


def _is_of(event: Event, name: str) -> bool:
    """Whether it is an event of an instance, of an agent or of a part of the system; of any, without a name."""
    return name in ("", event.name, event.agent)


async def recent(connection: Connection, since: float, subject: str = "") -> list[Event]:
    """The events since a time (unix seconds), in their order."""
    found = []
    async for message in reading.stored_since(connection, subjects.EVENTS, since, subject=subject):
        try:
            found.append(
                events.read(jetstream.StoredMessage(message.subject, 0, message.headers or {}, message.data, 0))
            )
        except DecodeError:
            continue  # not one of ours
    return found


async def _follow(subject: str, of: str, since: float, url: str | None, output: Output) -> int:
    terminal = console()
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-events") as mesh:
        begin = time.time() - since if since else None
        async with events.follow(mesh.connection, since=begin, subject=subject) as happening:
            async for event in happening:
                if not _is_of(event, of):
                    continue
                if output is Output.JSON:
                    print_json(event.model_dump())
                else:
                    terminal.print(line_of(event), soft_wrap=True)
    return DONE


def line_of(event: Event) -> Text:
    """An event as one line."""
    from rich.text import Text

    clock = datetime.datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
    line = Text(f"{clock} ", style="dim")
    line.append(f"{event.kind:7} ", style="cyan")
    style = _SEVERITY.get(str(event.details.get("severity", "")), "default")
    line.append(f"{event.what:13} ", style=_STYLE.get(event.what, style))
    line.append(event.name, style="bold")
    details = ", ".join(f"{key} {_plain(value)}" for key, value in event.details.items() if value not in ("", [], None))
    if details:
        line.append(f"  {details}", style="dim")
    return line


def _plain(value: object) -> str:
    text = "; ".join(str(one) for one in value) if isinstance(value, list) else str(value)
    return " ".join(text.split())
