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
from pathlib import Path
from typing import Final

from actors.admission import let_in, prepare
from actors.agents.code_analyst.direct import Totals, add_up, direct_totals
from actors.agents.files import python_files
from actors.agents.security_guardian.direct import add_up_risks, direct_risks
from actors.keyring import Keyring
from actors.loading import load
from actors.meshfile import BRIDGE, CODE_ANALYST, MEMORY, REGISTRY, SECURITY_GUARDIAN, STEWARD
from actors.process import ActorProcess
from actors.registry.client import RegistryClient
from bus import subjects
from bus.audit import Audit, audit
from bus.credentials import OPERATOR
from bus.errors import ConfigError
from bus.forkserver import ForkServer
from bus.mesh import Handle, Mesh
from bus.messages import Result
from bus.prompts import Attachment
from bus.server import Server
from bus.settings import KEYS, Settings
from revo.cli import demo_guest, demo_memory, demo_survey
from revo.cli.common import DONE, FAILED, Output, console, print_json, run_async
from revo.cli.demo_story import Story, as_json
from revo.cli.forks import fork_server

REPLICAS: Final = 2
ANALYST: Final = ("code-analyst", CODE_ANALYST)
GUARDIAN: Final = ("security-guardian", SECURITY_GUARDIAN)
GUARDED_EVERY: Final = 4
"""Of so many files one is reviewed for security too: bandit takes ten times as long as the analyst's tools."""
HOPELESS: Final = "nobody-can-do-this"
HOPELESS_DEADLINE: Final = 2.0
"""A task for a capability that no agent has, and the seconds after which a steward ends it."""
ASKED_ABOUT: Final = 10_000
"""About so many bytes has the file that the code analyst is prompted about."""
LOOK_EVERY: Final = 0.05
"""Seconds between two questions to the registry."""


def demo(path: Path | None, *, files: int, output: Output) -> int:
    """Perform it; returns 0 when nothing was lost, something was redelivered and the totals are right."""
    if path is not None and not path.is_dir():
        raise ConfigError(f"DEMO_PATH={path}", "is not a folder")
    root, chosen = python_files(files, path)
    if not chosen:
        raise ConfigError(f"DEMO_PATH={path}", "holds no Python file that can be reviewed")
    forks = fork_server(Settings.from_env())
    story = run_async(Demo(root, chosen, forks, quiet=output is Output.JSON).perform())
    if output is Output.JSON:
        print_json(as_json(story))
    else:
        from revo.cli.demo_report import show

        show(story)
    return DONE if story.good else FAILED


class Demo:
    """One performance, in a folder of its own that goes with it."""

    def __init__(self, root: Path, files: list[Path], forks: ForkServer | None, *, quiet: bool) -> None:
        self._root = root
        self._files = files
        self._forks = forks
        self._quiet = quiet
        self._has_guest = demo_guest.is_there()
        self._replicas: list[ActorProcess] = []
        self._noticed = asyncio.Event()
        self._stack = AsyncExitStack()
        self._keyring: Keyring
        self._settings: Settings

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
        mesh = await self._open()
        story = Story(files=len(self._files))
        await self._start_all(story, mesh)
        watching = await self._stack.enter_async_context(asyncio.TaskGroup())  # ends before the mesh does
        guarded = self._files[::GUARDED_EVERY]
        summed_up = demo_guest.share(self._files) if self._has_guest else []
        story.guarded, story.summed_up = len(guarded), len(summed_up)
        surveyed = demo_survey.of(self._files)
        story.surveyed = len(surveyed)
        began = time.perf_counter()
        long = await mesh.submit(demo_survey.CAPABILITY, {"paths": [self._message(path)["path"] for path in surveyed]})
        survey = demo_survey.Survey(long, len(surveyed))
        watching.create_task(survey.follow())
        watching.create_task(self._kill_one(story, mesh, survey))
        handles = [await mesh.submit("code_review", self._message(path)) for path in self._files]
        handles += [await mesh.submit("security_review", self._message(path)) for path in guarded]
        handles += await demo_guest.submit(mesh, summed_up)
        hopeless = await mesh.submit(HOPELESS, {}, deadline=HOPELESS_DEADLINE)
        results = await self._await_all([long, *handles])
        survey.count(story, next(result for result in results if result.task_id == long.task_id))
        story.seconds = time.perf_counter() - began
        story.question, story.answer = await self._prompt(mesh)
        story.hopeless = (await hopeless.outcome(timeout=30)).status
        await self._noticed.wait()
        await asyncio.gather(*map(_end, self._replicas))  # what they still have to tell of their spans is told by then
        await self._count(story, mesh, results)
        await demo_memory.count(story, mesh)
        story.audit = await self._read_separately()
        story.direct, story.direct_survey, story.direct_risks = await asyncio.gather(
            asyncio.to_thread(direct_totals, self._files),
            asyncio.to_thread(direct_totals, surveyed),
            asyncio.to_thread(direct_risks, guarded),
        )
        return story

    def _keep_in(self, folder: Path) -> None:
        """Have the actors and their tools make their files there: one that is killed takes none of them away."""
        folder.mkdir()
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(folder)
        self._stack.callback(os.environ.update, {} if before is None else {"TMPDIR": before})
        self._stack.callback(os.environ.pop, "TMPDIR", None)

    async def _open(self) -> Mesh:
        """A server that knows its users, and a client of it."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="revo-demo-")))
        self._keep_in(folder / "tmp")
        settings = Settings.from_env()
        actors = {name: load(target) for name, target in (ANALYST, GUARDIAN)}
        keyring = self._keyring = Keyring(folder / KEYS)
        let_in(keyring, actors, isolated=False)
        if self._has_guest:
            demo_guest.let_in(keyring)
        server = Server(folder / "nats", binary=settings.nats_server, accounts=keyring.accounts)
        await self._stack.enter_async_context(server)
        given = {"nats_url": server.url, "credentials": str(keyring.path(OPERATOR))}
        settings = self._settings = settings.model_copy(update=given)
        mesh = await self._stack.enter_async_context(Mesh.connect(settings=settings, service="revo-demo"))
        await prepare(mesh.connection, actors)
        return mesh

    async def _start_all(self, story: Story, mesh: Mesh) -> None:
        url = mesh.connection.url
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start(subjects.REGISTRY, REGISTRY, url))
            group.create_task(self._start(subjects.MEMORY, MEMORY, url))
            await self._start(subjects.STEWARD, STEWARD, url)  # whom agents ask how their tasks are run
            for name, target in [ANALYST, GUARDIAN] * REPLICAS:
                group.create_task(self._start_replica(name, target, url))
            if self._has_guest:
                await demo_guest.start(self._stack, url, self._keyring)
                group.create_task(self._start(subjects.BRIDGE, BRIDGE, url))
                story.guest = await demo_guest.met(mesh)

    def _message(self, path: Path) -> dict[str, str]:
        return {"path": str(path.relative_to(self._root))}

    async def _prompt(self, mesh: Mesh) -> tuple[str, str]:
        """Ask the code analyst about a file, as any client of the agent protocol does: the question, and the answer's
        first line below its title.
        """
        path = min(self._files, key=lambda path: abs(path.stat().st_size - ASKED_ABOUT))
        question = f"what do you find in {path.name}?"
        file = Attachment(filename=path.name, content=path.read_bytes())
        answer = await mesh.prompt(ANALYST[0], question, attachments=[file])
        said = (line for line in answer.text.splitlines() if line and not line.startswith("#"))
        return question, next(said, "")

    async def _start(self, name: str, target: str, url: str, **settings: str) -> ActorProcess:
        process = ActorProcess(name, target, on_line=lambda _: None, forks=self._forks)
        self._stack.push_async_callback(_end, process)
        await process.start(url=url, cwd=Path.cwd(), settings=settings, credentials=str(self._keyring.path(name)))
        return process

    async def _start_replica(self, name: str, target: str, url: str) -> ActorProcess:
        replica = await self._start(name, target, url, root=str(self._root))
        self._replicas.append(replica)
        return replica

    async def _await_all(self, handles: list[Handle]) -> list[Result]:
        """Show the progress until all have ended."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        terminal = console(stderr=True)
        terminal.quiet = self._quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        results: list[Result] = []
        with Progress(*columns, console=terminal) as progress:
            bar = progress.add_task(f"{REPLICAS} replicas of each of 2 agents review", total=len(handles))
            async with asyncio.TaskGroup() as group:  # none of them outlives us, also after Ctrl-C
                for done in asyncio.as_completed([group.create_task(handle.outcome()) for handle in handles]):
                    results.append(await done)
                    progress.advance(bar)
        return results

    async def _kill_one(self, story: Story, mesh: Mesh, survey: demo_survey.Survey) -> None:
        """SIGKILL the replica that is in the middle of the long task, start another one, and see that noticed."""
        await survey.far.wait()
        victim = await self._kill(story, mesh, survey)
        if victim is not None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._see_it_noticed(story, mesh, time.perf_counter()))
                await victim.wait()
                self._replicas.remove(victim)
                await self._start_replica(*ANALYST, mesh.connection.url)
        self._noticed.set()

    async def _kill(self, story: Story, mesh: Mesh, survey: demo_survey.Survey) -> ActorProcess | None:
        """Kill the replica that holds the task; None: the task has ended.

        It is stopped first, so that nothing changes while we look. A tool that is its child, alive or not yet
        reaped, says that it is in the middle of a review.
        """
        while True:
            holder = await survey.holder(mesh)
            victim = next((replica for replica in self._replicas if replica.instance == holder), None)
            if victim is None:
                return None
            os.kill(victim.pid, signal.SIGSTOP)
            if await asyncio.to_thread(has_children, victim.pid):
                story.killed = victim.instance
                victim.kill()
                return victim
            os.kill(victim.pid, signal.SIGCONT)
            await asyncio.sleep(LOOK_EVERY)

    async def _see_it_noticed(self, story: Story, mesh: Mesh, killed_at: float) -> None:
        """Ask the registry, as anybody may, until it knows the one that was killed no more, and its successor."""
        registry, before = RegistryClient(mesh), set[str]()
        while not (story.noticed and story.successor):
            known = {instance.instance for instance in await registry.find("code_review")}
            before = before or known
            if story.killed not in known and not story.noticed:
                story.noticed = time.perf_counter() - killed_at
            story.successor = next(iter(known - before), "")
            await asyncio.sleep(LOOK_EVERY)

    async def _count(self, story: Story, mesh: Mesh, results: list[Result]) -> None:
        story.answered = demo_guest.answered(results)
        story.by_replica = dict(Counter(result.instance for result in results))
        redelivered = [result for result in results if result.deliveries > 1]
        story.redelivered = len(redelivered)
        failed = [result.error.code for result in results if result.status != "succeeded" and result.error]
        story.failed = dict(Counter(failed))
        good = [result for result in results if result.status == "succeeded"]
        totals = add_up(result.value for result in good if result.capability == "code_review")
        story.risks = add_up_risks(result.value for result in good if result.capability == "security_review")
        unparseable = sum(result.status != "succeeded" and result.capability == "code_review" for result in results)
        story.totals = Totals(totals.rules, totals.functions, totals.complexity, unparseable)
        if redelivered:  # of the long task it is long, too
            shown = min(redelivered, key=lambda result: result.capability == demo_survey.CAPABILITY)
            story.trace = await mesh.trace(shown.task_id)

    async def _read_separately(self) -> Audit:
        """Count from the streams, over a connection of its own that knows nothing of what we were told."""
        async with Mesh.connect(settings=self._settings, service="revo-demo-reader") as reader:
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
