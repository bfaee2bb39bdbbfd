"""`revo demo`: real work by real processes, one of which is killed on the way, and a count of what was lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from actors.agents.code_analyst.direct import Totals, add_up, direct_totals
from actors.agents.files import python_files
from actors.meshfile import CODE_ANALYST, STEWARD
from actors.process import ActorProcess
from bus.audit import Audit, audit
from bus.errors import ConfigError
from bus.mesh import Handle, Mesh
from bus.messages import Result, SpanRecord
from bus.server import Server
from bus.settings import Settings
from bus.subjects import STEWARD as STEWARD_NAME
from revo.cli.common import DONE, FAILED, Output, console, print_json, run_async

REPLICAS: Final = 2
HOPELESS: Final = "nobody-can-do-this"
HOPELESS_DEADLINE: Final = 2.0
"""A task for a capability that no agent has, and the seconds after which a steward ends it."""
KILL_AFTER: Final = 0.2
"""The share of the files that is done when a replica is killed."""


@dataclass
class Story:
    """What happened."""

    files: int
    totals: Totals | None = None
    direct: Totals | None = None
    audit: Audit | None = None
    seconds: float = 0.0
    killed: str = ""
    """The replica that was killed with a task in hand."""
    by_replica: dict[str, int] = field(default_factory=dict)
    redelivered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    hopeless: str = ""
    """How the task ended that no agent can do."""
    trace: list[SpanRecord] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the mesh found what the tools find when they are run directly."""
        return self.totals == self.direct

    @property
    def good(self) -> bool:
        """Whether nothing was lost although something was redelivered."""
        audit = self.audit
        if audit is None or audit.waiting or not audit.good:
            return False
        all_ended = audit.ended == self.files + 1 and self.hopeless == "expired"
        return all_ended and self.redelivered > 0 and self.equal


def demo(path: Path | None, *, files: int, output: Output) -> int:
    """Perform it; returns 0 when nothing was lost, something was redelivered and the totals are right."""
    if path is not None and not path.is_dir():
        raise ConfigError(f"DEMO_PATH={path}", "is not a folder")
    root, chosen = python_files(files, path)
    if not chosen:
        raise ConfigError(f"DEMO_PATH={path}", "holds no Python file that can be reviewed")
    story = run_async(Demo(root, chosen, quiet=output is Output.JSON).perform())
    if output is Output.JSON:
        print_json(_as_json(story))
    else:
        from revo.cli.demo_report import show

        show(story)
    return DONE if story.good else FAILED


class Demo:
    """One performance, in a folder of its own that goes with it."""

    def __init__(self, root: Path, files: list[Path], *, quiet: bool) -> None:
        self._root = root
        self._files = files
        self._quiet = quiet
        self._replicas: list[ActorProcess] = []
        self._stack = AsyncExitStack()

    async def perform(self) -> Story:
        """Start everything, let it work, kill, count, and tidy up, also after Ctrl-C."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            async with self._stack:
                return await self._work()
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _work(self) -> Story:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="revo-demo-")))
        settings = Settings.from_env()
        server = await self._stack.enter_async_context(Server(folder / "nats", binary=settings.nats_server))
        settings = settings.model_copy(update={"nats_url": server.url})
        steward = ActorProcess(STEWARD_NAME, STEWARD, on_line=lambda _: None)
        self._stack.push_async_callback(_end, steward)
        async with asyncio.TaskGroup() as group:
            group.create_task(steward.start(url=server.url, cwd=Path.cwd()))
            for _ in range(REPLICAS):
                group.create_task(self._start_replica(server.url))
        mesh = await self._stack.enter_async_context(Mesh.connect(settings=settings, service="revo-demo"))
        story = Story(files=len(self._files))
        began = time.perf_counter()
        handles = [
            await mesh.submit("code_review", {"path": str(path.relative_to(self._root))}) for path in self._files
        ]
        hopeless = await mesh.submit(HOPELESS, {}, deadline=HOPELESS_DEADLINE)
        results = await self._await_all(story, handles, server.url)
        story.seconds = time.perf_counter() - began
        story.hopeless = (await hopeless.outcome(timeout=30)).status
        for replica in self._replicas:
            await _end(replica)  # what they still have to tell of their spans is told by then
        await self._count(story, mesh, results)
        story.audit = await self._read_separately(server.url)
        story.direct = await asyncio.to_thread(direct_totals, self._files)
        return story

    async def _start_replica(self, url: str) -> ActorProcess:
        replica = ActorProcess("code-analyst", CODE_ANALYST, on_line=lambda _: None)
        self._stack.push_async_callback(_end, replica)
        await replica.start(url=url, cwd=Path.cwd(), settings={"root": str(self._root)})
        self._replicas.append(replica)
        return replica

    async def _await_all(self, story: Story, handles: list[Handle], url: str) -> list[Result]:
        """Show the progress; kill a replica on the way, while it holds a task."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        terminal = console(stderr=True)
        terminal.quiet = self._quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        results: list[Result] = []
        with Progress(*columns, console=terminal) as progress:
            bar = progress.add_task(f"{REPLICAS} replicas of code-analyst review", total=len(handles))
            async with asyncio.TaskGroup() as group:  # none of them outlives us, also after Ctrl-C
                for done in asyncio.as_completed([group.create_task(handle.outcome()) for handle in handles]):
                    results.append(await done)
                    progress.advance(bar)
                    if not story.killed and len(results) >= len(handles) * KILL_AFTER:
                        await self._kill_one(story, url)
        return results

    async def _kill_one(self, story: Story, url: str) -> None:
        """SIGKILL a replica, if it holds a task at this moment, and start another one.

        It is stopped first, so that nothing changes while we look. A tool that is its child, alive or not yet
        reaped, says that it is in the middle of a review.
        """
        victim = self._replicas[0]
        os.kill(victim.pid, signal.SIGSTOP)
        if not await asyncio.to_thread(has_children, victim.pid):
            os.kill(victim.pid, signal.SIGCONT)
            return
        story.killed = victim.instance
        victim.kill()
        await victim.wait()
        self._replicas.remove(victim)
        await self._start_replica(url)

    async def _count(self, story: Story, mesh: Mesh, results: list[Result]) -> None:
        story.by_replica = dict(Counter(result.instance for result in results))
        redelivered = [result for result in results if result.deliveries > 1]
        story.redelivered = len(redelivered)
        failed = [result.error.code for result in results if result.status != "succeeded" and result.error]
        story.failed = dict(Counter(failed))
        totals = add_up(result.value for result in results if result.status == "succeeded")
        unparseable = story.failed.get("not_parseable", 0)
        story.totals = Totals(totals.rules, totals.functions, totals.complexity, unparseable)
        if redelivered:
            story.trace = await mesh.trace(redelivered[0].task_id)

    async def _read_separately(self, url: str) -> Audit:
        """Count from the streams, over a connection of its own that knows nothing of what we were told."""
        settings = Settings.from_env().model_copy(update={"nats_url": url})
        async with Mesh.connect(settings=settings, service="revo-demo-reader") as reader:
            return await audit(reader.connection)


def has_children(pid: int) -> bool:
    """Whether a process has children, reaped ones aside; on Linux and macOS."""
    said = subprocess.run(["ps", "-A", "-o", "ppid="], capture_output=True, text=True, check=True).stdout
    return str(pid) in said.split()


async def _end(replica: ActorProcess) -> None:
    if not replica.running:
        return
    replica.terminate()
    try:
        async with asyncio.timeout(5):
            await replica.wait()
    except TimeoutError:
        replica.kill()
        await replica.wait()


def _as_json(story: Story) -> dict[str, Any]:
    assert story.audit is not None
    return {
        "files": story.files,
        "seconds": round(story.seconds, 3),
        "tasks_per_second": round(story.files / story.seconds, 1),
        "killed": story.killed,
        "redelivered": story.redelivered,
        "lost": story.audit.lost,
        "audit": asdict(story.audit),
        "by_replica": story.by_replica,
        "totals": asdict(story.totals) if story.totals else None,
        "equal_to_direct": story.equal,
        "failed": story.failed,
        "hopeless": story.hopeless,
        "trace": [span.model_dump() for span in story.trace],
    }
