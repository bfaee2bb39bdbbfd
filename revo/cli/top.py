"""`revo top`: the mesh live. Rates, queues by priority, agents, and what went wrong lately."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from actors.registry.client import RegistryClient
from actors.registry.errors import NoRegistryError
from bus import events, inspection, jetstream, subjects
from bus.connection import Connection
from bus.errors import BusError
from bus.events import Event
from bus.mesh import Mesh
from bus.settings import Settings, redact
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async, table
from revo.cli.events import line_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_COUNTED: Final = {"accepted": subjects.TASKS, "ended": subjects.RESULTS, "dead": subjects.DEAD}
_WORKING: Final = frozenset({"idle", "busy", "degraded"})
_WORTH_TELLING: Final = frozenset({"dead", "deaf", "failed", "restarting", "server-restarted", "reload-refused"})


@dataclass
class Agent:
    """All replicas of one agent together."""

    name: str
    instances: int = 0
    ready: int = 0
    running: int = 0
    slots: int = 0
    waiting: int = 0
    restarts: int = 0


@dataclass
class Snapshot:
    """The mesh at one moment. Rates are tasks a second since the snapshot before; the first has none."""

    at: float
    rates: dict[str, float] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    queues: dict[str, dict[str, int]] = field(default_factory=dict)
    """By capability and priority: how many wait."""
    in_hand: dict[str, int] = field(default_factory=dict)
    agents: list[Agent] = field(default_factory=list)
    failures: list[Event] = field(default_factory=list)
    trouble: str = ""
    """Why something could not be looked at."""


class Top:
    """Looks at a mesh again and again."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._registry = RegistryClient(mesh)
        self._before: Snapshot | None = None
        self.failures: deque[Event] = deque(maxlen=5)

    async def look(self) -> Snapshot:
        """The mesh now; what cannot be reached is said in `trouble`."""
        found = Snapshot(time.time(), failures=list(self.failures))
        try:
            await self._count(found, self._mesh.connection)
            await self._ask(found)
        except BusError as error:
            found.trouble = str(error)
        else:
            self._before = found
        return found

    async def _count(self, found: Snapshot, connection: Connection) -> None:
        for what, stream in _COUNTED.items():
            info = await jetstream.call(connection, "STREAM.INFO", stream)
            found.totals[what] = int(info["state"]["last_seq"])
        before = self._before
        if before is not None:
            seconds = max(0.001, found.at - before.at)
            found.rates = {
                what: max(0.0, (total - before.totals[what]) / seconds) for what, total in found.totals.items()
            }
        for queue in await inspection.queues(connection):
            found.queues.setdefault(queue.capability, {})[queue.priority] = queue.waiting
            found.in_hand[queue.capability] = found.in_hand.get(queue.capability, 0) + queue.in_hand

    async def _ask(self, found: Snapshot) -> None:
        agents: dict[str, Agent] = {}
        try:
            instances = await self._registry.instances()
        except NoRegistryError as error:
            found.trouble = str(error)
            return
        for instance in instances:
            agent = agents.setdefault(instance.agent, Agent(instance.agent))
            agent.instances += 1
            agent.ready += (instance.condition or "idle") in _WORKING
            agent.running += instance.running
            agent.slots += instance.concurrency
            agent.waiting += instance.waiting
            agent.restarts += instance.restarts
        found.agents = sorted(agents.values(), key=lambda agent: agent.name)


def top(*, interval: float, count: int, url: str | None, output: Output) -> int:
    """Show the mesh until told to stop, or `count` times; returns the exit status."""
    quiet_logs()
    return run_async(_top(interval, count, url, output))


async def _top(interval: float, count: int, url: str | None, output: Output) -> int:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-top") as mesh:
        view = Top(mesh)
        async with events.follow(mesh.connection, since=time.time() - 600) as happening:
            listening = asyncio.create_task(_listen(happening, view))
            try:
                if output is Output.JSON:
                    await _as_json(view, interval, count)
                else:
                    await _on_screen(view, interval, count, redact(mesh.connection.url))
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    return DONE


async def _listen(happening: Any, view: Top) -> None:
    async for event in happening:
        if event.what in _WORTH_TELLING:
            view.failures.append(event)


async def _as_json(view: Top, interval: float, count: int) -> None:
    shown = 0
    while True:
        print_json(asdict(await view.look()) | {"failures": [event.model_dump() for event in view.failures]})
        shown += 1
        if shown == count:
            return
        await asyncio.sleep(interval)


async def _on_screen(view: Top, interval: float, count: int, url: str) -> None:
    from rich.live import Live

    terminal = console()
    shown = 0
    full = terminal.is_terminal and not count
    live = Live(console=terminal, screen=full, auto_refresh=False)
    with _keys() as pressed, live:
        while True:
            snapshot = await view.look()
            live.update(_draw(snapshot, url, terminal.height if full else 1000), refresh=True)
            shown += 1
            if shown == count:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await pressed.wait()
                    return


@contextlib.contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """Set once `q` was pressed; where there is no keyboard, never."""
    pressed = asyncio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def read() -> None:
        if os.read(keyboard, 16) in (b"q", b"Q", b"\x1b"):
            pressed.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _draw(found: Snapshot, url: str, height: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    clock = time.strftime("%H:%M:%S", time.localtime(found.at))
    head = Text(f"revo top  {url}  {clock}", style="bold")
    head.append("   q ends it", style="dim")
    rates = Text()
    for what in _COUNTED:
        rate = f"{found.rates[what]:,.1f}/s" if found.rates else "-"
        style = "bold red" if what == "dead" and found.rates.get(what) else "default"
        rates.append(f"{what} {rate}   ", style=style)
    parts: list[RenderableType] = [head, rates]
    if found.trouble:
        parts.append(Text(found.trouble, style="yellow"))
    rest = max(4, height - 12)
    parts += [Text(), _queues(found, rest // 2), Text(), _agents(found, rest // 2)]
    parts += [Text(), Text("trouble in the last ten minutes" if found.failures else "no trouble lately", style="bold")]
    parts += [line_of(event) for event in found.failures]
    return Group(*parts)


def _queues(found: Snapshot, most: int) -> Table:
    title = "waiting" if found.queues else "nothing waits"
    made = table(title, "=capability", *(f">{priority}" for priority in subjects.PRIORITIES), ">in hand")
    made.show_header = bool(found.queues)
    rows = sorted(found.queues, key=lambda name: (-sum(found.queues[name].values()), name))
    for name in rows[:most]:
        numbers = [found.queues[name].get(priority, 0) for priority in subjects.PRIORITIES]
        shown = [f"{number:,}" if number else "·" for number in numbers]
        made.add_row(_short(name), *shown, f"{found.in_hand.get(name, 0):,}")
    if len(rows) > most:
        made.add_row(f"and {len(rows) - most} more")
    return made


def _agents(found: Snapshot, most: int) -> Table:
    made = table("agents", "=agent", ">ready", ">busy", ">waiting", ">restarts")
    made.show_header = bool(found.agents)
    for agent in found.agents[:most]:
        ready = f"{agent.ready}/{agent.instances}"
        style = "default" if agent.ready == agent.instances else "yellow"
        busy = f"{agent.running}/{agent.slots}"
        made.add_row(_short(agent.name), f"[{style}]{ready}[/]", busy, str(agent.waiting), str(agent.restarts))
    if len(found.agents) > most:
        made.add_row(f"and {len(found.agents) - most} more")
    return made


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
