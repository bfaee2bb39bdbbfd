"""One run of the suite: a server, a worker, the checks in their parts, and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bus import topology
from bus.connection import Connection
from bus.errors import BusError, ConfigError
from bus.server import Server
from bus.settings import Settings
from revo.conformance import checks
from revo.conformance.bench import PATIENCE, Bench
from revo.conformance.candidate import Candidate
from revo.conformance.proving import CHECKS, NEED_COMMAND, NEED_SERVER, PARTS, Part
from revo.conformance.requirements import BY_NAME, REQUIREMENTS, Requirement
from revo.conformance.tap import Tap, Unmet
from revo.conformance.told import NotRun

LEAVE: float = 20.0
"""Seconds that a worker has to leave in."""

Verdict = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be checked, and how."""

    capability: str
    command: str = ""
    """Starts the worker; empty: it runs already."""
    url: str = ""
    """Of a server that runs already; empty: one of our own."""
    only: Collection[str] = ()
    """Names of checks; empty: all."""
    patience: float = PATIENCE


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one check."""

    requirement: Requirement
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all of them."""

    capability: str
    seconds: float
    outcomes: list[Outcome]
    log: str
    """The end of what the worker said."""

    @property
    def conforms(self) -> bool:
        """Whether no check of a MUST has failed."""
        return not any(one.verdict == "failed" and one.requirement.level == "MUST" for one in self.outcomes)


@dataclass(slots=True)
class _Under:
    """A check that is being made."""

    name: str
    generator: AsyncGenerator[None, None]
    over: bool = False


@dataclass(slots=True)
class _Run:
    bench: Bench
    selected: list[str]
    verdicts: dict[str, tuple[Verdict, str]] = field(default_factory=dict)
    under: list[_Under] = field(default_factory=list)
    gone: bool = False
    """Whether the worker has left."""

    async def part(self, part: Part) -> None:
        """Make the checks of one part, and go on with those of earlier ones that wait for what it does."""
        mine = [name for name in self.selected if CHECKS[name][0] == part]
        missing = self._missing(part)
        if missing:
            for name in mine:
                self.verdicts[name] = ("skipped", missing)
            return
        if not self._needed(part, mine):
            return
        made = [_Under(name, _generator(name, self.bench)) for name in mine]
        if part == "back":
            for one in made:  # each takes what it has put in the queue
                await self._advance(one)
        else:
            await asyncio.gather(*(self._advance(one) for one in made))
        self.under = [one for one in [*self.under, *made] if not one.over]
        await self._happen(part)
        await asyncio.gather(*(self._advance(one) for one in self.under))
        self.under = [one for one in self.under if not one.over]

    def _missing(self, part: Part) -> str:
        if part in NEED_COMMAND and self.bench.candidate is None:
            return "only with --command"
        return "only on a server of the suite's own" if part in NEED_SERVER and self.bench.server is None else ""

    def _needed(self, part: Part, mine: list[str]) -> bool:
        """Whether there is anything to do. Who is to come back must have left, and who has left comes back."""
        if part == "left":
            return any(CHECKS[name][0] in ("left", "back") for name in self.selected)
        return bool(mine) or (part == "back" and self.gone)

    async def _happen(self, part: Part) -> None:
        bench, candidate = self.bench, self.bench.candidate
        if part == "killed":
            await bench.restart()
        elif part == "left" and candidate is not None:
            self.gone = True
            try:
                bench.exit_status = await candidate.leave(min(LEAVE, 2 * bench.patience))
            except Unmet as error:
                bench.exit_status = error
        elif part == "back" and candidate is not None:
            await bench.deliver_again()
            await candidate.start()
            self.gone = False
        elif part == "restarted" and bench.server is not None:
            bench.server.kill()
            await bench.server.start()

    async def _advance(self, one: _Under) -> None:
        try:
            await anext(one.generator)
        except StopAsyncIteration:
            self._end(one, "ok")
        except NotRun as why:
            self._end(one, "skipped", str(why))
        except BusError as why:  # an Unmet, or what the server says of what the worker did
            self._end(one, "failed", str(why))

    def _end(self, one: _Under, verdict: Verdict, why: str = "") -> None:
        one.over = True
        self.verdicts[one.name] = (verdict, why)


async def _generator(name: str, bench: Bench) -> AsyncGenerator[None, None]:
    """A check as a generator, which it may be already."""
    made = CHECKS[name][1](bench)
    if isinstance(made, AsyncGenerator):
        async for _ in made:
            yield
    else:
        await made


async def run(plan: Plan) -> Report:
    """Check one worker.

    Raises:
        ConfigError: there is no such check, no such command, or nothing to start the worker with.
        ServerUnreachableError: no server answers at the url.
    """
    unknown = sorted(set(plan.only) - set(BY_NAME))
    if unknown:
        raise ConfigError("--only", f"no check is called {', '.join(unknown)}; `docs/conformance.md` lists them")
    if not plan.command and not plan.url:
        raise ConfigError("--command", "say how the worker is started, or with --url where it runs")
    selected = [one.name for one in REQUIREMENTS if not plan.only or one.name in plan.only]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="revo-conformance-", ignore_cleanup_errors=True) as folder:
        async with _bench(plan, Path(folder)) as bench:
            verdicts = await _judge(bench, selected)
            said = bench.candidate.said if bench.candidate is not None else ""
    outcomes = [Outcome(BY_NAME[name], *verdicts[name]) for name in selected]
    return Report(plan.capability, time.monotonic() - started, outcomes, said)


async def _judge(bench: Bench, selected: list[str]) -> dict[str, tuple[Verdict, str]]:
    try:
        if bench.candidate is not None:
            await bench.candidate.start()
        await bench.ready()
    except Unmet as error:
        return {name: ("failed", str(error)) for name in selected}
    with contextlib.suppress(Unmet):  # what is wrong with it the checks say
        await checks.heard.traffic(bench)
    made = _Run(bench, selected)
    for part in PARTS:
        await made.part(part)
    return made.verdicts


@contextlib.asynccontextmanager
async def _bench(plan: Plan, folder: Path) -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        server = None if plan.url else await stack.enter_async_context(Server(folder / "nats"))
        url = plan.url or (server.url if server is not None else "")
        settings = Settings.from_env().model_copy(update={"nats_url": url})
        connection = await stack.enter_async_context(
            await Connection.open(url, name="revo-conformance", settings=settings)
        )
        await topology.apply(connection)
        told = f"revo.conformance.{secrets.token_hex(8)}"
        tap = Tap(plan.capability, told)
        await tap.open(connection)
        candidate = Candidate(plan.command, url, folder / "worker.log") if plan.command else None
        if candidate is not None:
            stack.push_async_callback(candidate.kill)
        yield Bench(connection, tap, told, plan.capability, candidate, server, plan.patience)
