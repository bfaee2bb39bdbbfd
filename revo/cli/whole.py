"""A whole mesh in the foreground: what `revo up` stays with. Server, actors, signals, `mesh.json` and events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from actors.actor import Actor
from actors.admission import let_in, load_all, prepare
from actors.keyring import Keyring
from actors.meshfile import MeshFile
from actors.meshhome import MeshHome
from actors.supervisor import ActorFailedError, Child, State, Supervisor
from bus import events, faults, topology
from bus.connection import Connection
from bus.credentials import OPERATOR
from bus.errors import BusError
from bus.forkserver import ForkServer
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import KEYS, Settings
from revo.cli.common import DONE, FAILED, Output, console, print_json
from revo.cli.embedded import keep_server, start_server

_WHOLE: Final = "mesh"
"""The name of the whole in events."""
_LAST_WORDS: Final = 2.0
"""Seconds that events which are still to be told may take at the end."""


class Whole:
    """One mesh that runs in the foreground."""

    def __init__(
        self,
        mesh: MeshFile,
        path: Path | None,
        home: MeshHome,
        settings: Settings,
        *,
        output: Output,
        forks: ForkServer | None,
        ready: int | None,
    ) -> None:
        """Actors come from `forks` if that is given. `ready` is the file that a detached `up` says one line to."""
        self._mesh = mesh
        self._path = path
        self._home = home
        self._isolated = mesh.server.isolated
        """As it was said at the start: all of `[server]` counts from the next one on."""
        self._keyring = Keyring(home.folder / KEYS)
        self._settings = settings
        self._output = output
        self._forks = forks
        self._terminal = console(stderr=True)
        self._on_terminal = sys.stderr.isatty()
        self._supervisor: Supervisor | None = None
        self._url = ""
        self._server_process: Server | None = None
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._news: asyncio.Queue[tuple[str, str, dict[str, Any]]] = asyncio.Queue()
        self._ready = ready

    async def run(self, url: str) -> int:
        """Start everything, stay until told to stop, end everything in order; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        async with self._server(url) as self._url, self._telling():
            return await self._actors()

    @property
    def _folder(self) -> Path:
        """Where the mesh file is."""
        return self._path.parent if self._path is not None else Path.cwd()

    def _actors_of(self, mesh: MeshFile) -> dict[str, type[Actor] | None]:
        """Their classes; for an actor's process to say what is wrong with one that cannot be used."""
        return load_all(mesh, self._folder, strict=False)

    def _credentials_of(self, name: str) -> str:
        """The file of an actor's credentials: beside our own; none where we have none."""
        own = self._settings.find_credentials(self._url)
        return str(Path(own).absolute().with_name(f"{name}.nk")) if own else ""

    @asynccontextmanager
    async def _server(self, url: str) -> AsyncIterator[str]:
        """The server's URL for the length of a block: the one named, or an embedded one that is kept alive."""
        if url:
            yield url
            return
        await self._admit(self._mesh)
        self._settings = self._settings.model_copy(update={"credentials": str(self._keyring.path(OPERATOR))})
        server = self._server_process = await start_server(
            self._home.folder / "nats",
            binary=self._settings.nats_server,
            entry=self._mesh.server.seen_from(self._folder),
            accounts=self._keyring.accounts,
        )
        keeping = asyncio.create_task(self._keep_server(server))
        try:
            yield server.url
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await server.stop()

    async def _keep_server(self, server: Server) -> None:
        def restarted() -> None:
            self._write()
            self._tell(_WHOLE, "server-restarted", pid=server.pid)

        await keep_server(server, say=lambda line: self._say("nats-server", line), restarted=restarted)
        self._say("nats-server", "cannot be kept alive; the mesh ends")
        self._stop.set()

    async def _actors(self) -> int:
        supervisor = self._supervisor = Supervisor(
            self._mesh,
            url=self._url,
            credentials=self._credentials_of,
            folder=self._folder,
            drain_timeout=self._settings.drain_timeout,
            on_line=self._say,
            on_change=self._changed,
            forks=self._forks,
        )
        await self._prepare(self._mesh)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run())
            stopping = group.create_task(self._stop.wait())
            starting = group.create_task(self._started(supervisor))
            await asyncio.wait((running, stopping, starting), return_when=asyncio.FIRST_COMPLETED)
            reloading = group.create_task(self._follow_file(supervisor))
            if starting.done() and starting.result() is None:
                await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (starting, stopping, reloading):
                task.cancel()
            await supervisor.stop()
        failure = starting.result() if starting.done() and not starting.cancelled() else None
        if failure is not None:
            raise failure
        failed = [child.label for child in supervisor.children if child.state is State.FAILED]
        return FAILED if failed else DONE

    async def _started(self, supervisor: Supervisor) -> ActorFailedError | None:
        """Say that all is ready; returns what failed instead."""
        try:
            await supervisor.started()
        except ActorFailedError as error:
            return error
        state = self._write()
        self._tell(_WHOLE, "up", url=state["url"], actors=len(state["actors"]))
        ready = {"url": state["url"], "actors": state["actors"]}
        if self._ready is not None:
            self.report(ready)
        elif self._output is Output.JSON:
            print_json(ready)
        else:
            self._show()
        return None

    # --- signals --------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self._stop.is_set() and self._supervisor is not None:
            self._supervisor.kill()
        self._stop.set()

    def _hang_up(self) -> None:
        """Read the mesh file again; when it is our terminal that was closed, end."""
        if self._on_terminal and not _has_terminal():
            self._terminal.quiet = True
            self._stop.set()
        else:
            self._reload.set()

    async def _follow_file(self, supervisor: Supervisor) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                said = await self._read_again(supervisor)
            except BusError as error:
                self._say("revo", f"the mesh goes on as it is: {error}")
                self._tell(_WHOLE, "reload-refused", reason=str(error))
            else:
                what = "mesh file" if self._path is not None else "keys"
                self._say("revo", f"{what} read again: {'; '.join(said) or 'nothing has changed'}")
                self._tell(_WHOLE, "reloaded", changes=said)
            self._write()

    async def _read_again(self, supervisor: Supervisor) -> list[str]:
        if self._path is None:
            await self._let_in(self._mesh)
            return []
        mesh = await asyncio.to_thread(MeshFile.load, self._path)
        await self._let_in(mesh)
        said = await supervisor.reload(mesh)
        if mesh.server != self._mesh.server:
            said.append("[server] counts from the next `revo up` on")
        self._mesh = mesh
        return said

    async def _let_in(self, mesh: MeshFile) -> None:
        """Have the server know the actors of a mesh file, and what `revo keys` has changed; make their consumers.

        Raises:
            ConfigError: the keys, or what the agents say, cannot be used.
        """
        if self._server_process is not None:
            await self._admit(mesh)
            await self._server_process.reload()
        await self._prepare(mesh)

    async def _admit(self, mesh: MeshFile) -> None:
        await asyncio.to_thread(lambda: let_in(self._keyring, self._actors_of(mesh), isolated=self._isolated))

    async def _prepare(self, mesh: MeshFile) -> None:
        settings = self._settings.model_copy(update={"nats_url": self._url})
        async with await Connection.open(self._url, name="revo-up", settings=settings) as connection:
            if topology.is_ours(connection):
                await topology.apply(connection)
                await prepare(connection, self._actors_of(mesh))

    # --- what is said of it ---------------------------------------------------------------------------------

    def _changed(self, child: Child) -> None:
        if child.state in (State.RESTARTING, State.RESTING, State.FAILED):
            self._say(child.label, f"{child.state}: {child.reason}")
            about: dict[str, Any] = {"number": child.number, "restarts": child.restarts, "reason": child.reason}
            if child.state is not State.RESTING:
                recovery = faults.recovery_of("crash", last=child.state is State.FAILED)
                severity = faults.severity_of("crash", len(child.crashes))
                about |= {"fault": "crash", "severity": str(severity), "recovery": recovery}
            self._tell(child.name, str(child.state), **about)
        self._write()

    def _write(self) -> dict[str, Any]:
        children = self._supervisor.children if self._supervisor else []
        more = {
            "server_pid": self._server_process.pid if self._server_process else 0,
            "supervision": self._mesh.supervision.model_dump(),
            "file": str(self._path or ""),
        }
        more["credentials"] = self._settings.credentials
        return self._home.write(self._url, [child.public() for child in children], **more)

    def _tell(self, name: str, what: str, **details: Any) -> None:
        self._news.put_nowait((name, what, details))

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Tell the mesh of what happens here, for the length of a block and a moment longer."""
        settings = self._settings.model_copy(update={"nats_url": self._url})
        async with Mesh.connect(settings=settings, service="revo-up") as mesh:
            telling = asyncio.create_task(self._tell_all(mesh))
            try:
                yield
            finally:
                self._tell(_WHOLE, "down")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS):
                        await self._news.join()
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)

    async def _tell_all(self, mesh: Mesh) -> None:
        while True:
            name, what, details = await self._news.get()
            await events.tell(mesh.connection, events.SYSTEM, name, what, by=mesh.telemetry.instance, **details)
            self._news.task_done()

    def report(self, state: dict[str, Any]) -> None:
        """Tell the process that detached us, if there is one, and once. It reads one line."""
        if self._ready is not None:
            fd, self._ready = self._ready, None
            with contextlib.suppress(BrokenPipeError), os.fdopen(fd, "w") as pipe:
                pipe.write(json.dumps(state) + "\n")

    def _say(self, who: str, line: str) -> None:
        from rich.text import Text

        text = Text(f"{who} | ", style="cyan")
        text.append(line, style="default")
        with contextlib.suppress(OSError):  # the terminal may have been closed
            self._terminal.print(text, soft_wrap=True)

    def _show(self) -> None:
        from rich.table import Table

        table = Table(title=f"mesh at {self._url}", title_justify="left", box=None)
        for column in ("actor", "instance", "process", "state"):
            table.add_column(column)
        for child in self._supervisor.children if self._supervisor else []:
            table.add_row(child.label, child.instance, str(child.pid), str(child.state))
        terminal = console()
        terminal.print(table)
        terminal.print("Ctrl-C ends it.")


def _has_terminal() -> bool:
    """Whether the terminal that we were started in is still there."""
    try:
        os.tcgetpgrp(sys.stderr.fileno())
    except OSError:
        return False
    return True
