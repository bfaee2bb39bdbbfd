"""`revo chaos`: does to the mesh that runs here what the tests do to theirs, for a bounded time; then verifies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from actors.meshhome import MeshHome
from bus.errors import BusError, ConfigError, NoMeshError
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, console, print_json, quiet_logs, run_async
from revo.cli.verify import count, show

MAX_SERVER_KILLS: Final = 3
SERVER_PAUSE: Final = 5.0
"""Seconds between two kills of the server: what is to be shown is that work goes on in between."""
RECOVER: Final = 30.0
"""Seconds that the supervisor has, afterwards, to have all up again."""


@dataclass(slots=True)
class Victim:
    """One process of the mesh."""

    label: str
    pid: int


@dataclass(slots=True)
class Record:
    """What was done."""

    kills: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    server_kills: int = 0
    spared: int = 0
    """Blows that fell on nobody: all were down, or had been killed as often as their restart budget allows."""


def chaos(*, seconds: float, every: float, spare_server: bool, yes: bool, output: Output) -> int:
    """Rage, wait until all is up again, verify; returns 1 when anything is wrong."""
    quiet_logs()
    settings = Settings.from_env()
    home = MeshHome(settings.home.absolute())
    state = home.read()
    if state is None or not home.holder():
        raise NoMeshError(str(home.state))
    if not yes and not _sure(len(state["actors"]), seconds):
        return FAILED
    storm = Storm(home, settings, seconds=seconds, every=every, spare_server=spare_server)
    record = run_async(storm.rage(quiet=output is Output.JSON))
    found = run_async(count(str(state["url"])))
    if output is Output.JSON:
        done = {"kills": dict(record.kills), "stops": dict(record.stops), "server_kills": record.server_kills}
        print_json({**done, "spared": record.spared, **asdict(found), "good": found.good})
    else:
        terminal = console()
        for what, counts in (("killed -9", record.kills), ("stopped and continued", record.stops)):
            names = ", ".join(f"{label} {times}x" for label, times in sorted(counts.items()))
            terminal.print(f"{what}: {names or 'none'}", soft_wrap=True)
        terminal.print(f"nats-server killed -9: {record.server_kills}x\n")
        show(found)
        if not found.accepted:
            terminal.print("nothing was at work; submit tasks while it rages", style="yellow")
    return DONE if found.good else FAILED


def _sure(actors: int, seconds: float) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("revo chaos", "kills processes; say --yes when nobody can be asked")
    question = f"Kill and stop the {actors} actors of this mesh for {seconds:g} s? Nothing may be lost. [y/N] "
    return console().input(question).strip().lower() in ("y", "yes")


class Storm:
    """Blows that fall on one mesh, each on a process that its supervisor has started."""

    def __init__(self, home: MeshHome, settings: Settings, *, seconds: float, every: float, spare_server: bool) -> None:
        self._home = home
        self._settings = settings
        self._seconds = seconds
        self._every = every
        self._spare_server = spare_server
        self._record = Record()
        self._kills: dict[str, deque[float]] = {}
        self._stopped: dict[int, asyncio.TimerHandle] = {}
        self._server_killed_at = time.monotonic() - SERVER_PAUSE / 2

    async def rage(self, *, quiet: bool) -> Record:
        """Let blows fall until the time is up; whatever happens, nothing stays stopped."""
        from rich.progress import Progress

        terminal = console(stderr=True)
        terminal.quiet = quiet
        until = time.monotonic() + self._seconds
        try:
            with Progress(console=terminal, transient=True) as progress:
                bar = progress.add_task("chaos", total=self._seconds)
                while time.monotonic() < until:
                    await asyncio.sleep(min(self._every, max(0.0, until - time.monotonic())))
                    await asyncio.to_thread(self._blow, asyncio.get_running_loop())
                    progress.update(bar, completed=self._seconds - max(0.0, until - time.monotonic()))
        finally:
            for pid, timer in list(self._stopped.items()):
                timer.cancel()
                _send(pid, signal.SIGCONT)
        await self._recovered()
        return self._record

    def _blow(self, loop: asyncio.AbstractEventLoop) -> None:
        state = self._home.read()
        if state is None:
            return
        family = _descendants(int(state["pid"]))
        if self._hits_server(state, family):
            return
        victims = [
            Victim(str(actor["label"]), int(actor["pid"]))
            for actor in state["actors"]
            if actor["state"] == "ready" and int(actor["pid"]) in family and int(actor["pid"]) not in self._stopped
        ]
        if not victims:
            self._record.spared += 1
            return
        victim = random.choice(victims)  # noqa: S311  (chaos, not secrets)
        if not self._stopped and random.random() < 0.2:  # noqa: S311
            self._stop(victim, loop)
        elif self._may_kill(victim, state):
            self._record.kills[victim.label] += 1
            _send(victim.pid, signal.SIGKILL)
        else:
            self._record.spared += 1

    def _hits_server(self, state: dict[str, Any], family: set[int]) -> bool:
        """Kill the embedded server once in a while; returns whether this blow was for it."""
        pid = int(state.get("server_pid") or 0)
        now = time.monotonic()
        if self._spare_server or pid not in family or self._record.server_kills >= MAX_SERVER_KILLS:
            return False
        if now - self._server_killed_at < SERVER_PAUSE:
            return False
        self._server_killed_at = now
        self._record.server_kills += 1
        _send(pid, signal.SIGKILL)
        return True

    def _stop(self, victim: Victim, loop: asyncio.AbstractEventLoop) -> None:
        """Stop a process for longer than the ack deadline: it is taken for dead, and wakes up too late."""
        self._record.stops[victim.label] += 1
        _send(victim.pid, signal.SIGSTOP)
        seconds = self._settings.ack_wait + 1.0
        self._stopped[victim.pid] = None  # type: ignore[assignment]  # its timer is set in the loop's own thread
        loop.call_soon_threadsafe(self._continue_later, victim.pid, seconds)

    def _continue_later(self, pid: int, seconds: float) -> None:
        def go_on() -> None:
            self._stopped.pop(pid, None)
            _send(pid, signal.SIGCONT)

        self._stopped[pid] = asyncio.get_running_loop().call_later(seconds, go_on)

    def _may_kill(self, victim: Victim, state: dict[str, Any]) -> bool:
        """Whether the actor's restart budget bears another death: the supervisor must not leave it for dead."""
        policy = state.get("supervision") or {"max_restarts": 5, "within": 60.0}
        kills = self._kills.setdefault(victim.label, deque())
        now = time.monotonic()
        while kills and now - kills[0] > float(policy["within"]):
            kills.popleft()
        if len(kills) >= max(1, int(policy["max_restarts"]) - 1):
            return False
        kills.append(now)
        return True

    async def _recovered(self) -> None:
        """Wait until the supervisor has all up again.

        Raises:
            ConfigError: not within half a minute; says which are not.
        """
        until = time.monotonic() + RECOVER
        while True:
            state = self._home.read() or {"actors": []}
            down = [str(actor["label"]) for actor in state["actors"] if actor["state"] not in ("ready", "failed")]
            if not down:
                return
            if time.monotonic() > until:
                raise NotRecoveredError(", ".join(down))
            await asyncio.sleep(0.2)


class NotRecoveredError(BusError):
    """After the storm some actors did not come back."""

    def __init__(self, actors: str) -> None:
        super().__init__(actors)
        self.actors = actors

    def __str__(self) -> str:
        return f"not up again after {RECOVER:g} s: {self.actors}; the log of `revo up` says why"


def _descendants(ancestor: int) -> set[int]:
    """What a process has started, itself or by its fork server: pids in a file may be of others by now."""
    said = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in said.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found, new = set[int](), [ancestor]
    while new:
        found |= (some := set(children.pop(new.pop(), ())))
        new += some
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
