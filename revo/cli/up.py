"""`revo up` and `revo down`: a whole mesh on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from actors.meshfile import DEFAULT_NAME, MeshFile
from actors.meshhome import MeshHome
from actors.supervisor import ActorFailedError, Child, State, Supervisor
from bus.errors import BusError, NoMeshError
from bus.server import Server, ServerStartError
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, RelayedError, console, exit_code, print_json, run_async

READY_FD: Final = "REVO_UP_READY_FD"
"""Where a detached `up` says that all is ready, or why it is not."""
DEFAULT_PORT: Final = 4222
SERVER_RESTARTS: Final = 10
SERVER_WITHIN: Final = 60.0
"""So many ends of the server within so many seconds are too many."""


def up(mesh_file: Path | None, *, detach: bool, url: str | None, output: Output) -> int:
    """Start a mesh and, unless detached, stay with it; returns the exit status."""
    settings = Settings.from_env().at(url)
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    mesh = MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()
    home = MeshHome(settings.home.absolute())
    if detach:
        return _detach(mesh_file, home, url, output)
    folder = mesh_file.absolute().parent if mesh_file is not None else Path.cwd()
    with home.held():
        return run_async(Up(mesh, home, settings, folder=folder, output=output).run(settings.nats_url))


class Up:
    """One mesh that runs in the foreground."""

    def __init__(self, mesh: MeshFile, home: MeshHome, settings: Settings, *, folder: Path, output: Output) -> None:
        self._mesh = mesh
        self._home = home
        self._settings = settings
        self._folder = folder
        self._output = output
        self._terminal = console(stderr=True)
        self._supervisor: Supervisor | None = None
        self._url = ""
        self._server_process: Server | None = None
        self._stop = asyncio.Event()
        self._ready_fd = os.environ.pop(READY_FD, "")

    async def run(self, url: str) -> int:
        """Start everything, stay until told to stop, end everything in order; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            async with self._server(url) as self._url:
                return await self._actors()
        except BusError as error:
            self._report({"error": str(error), "status": exit_code(error)})
            raise

    @asynccontextmanager
    async def _server(self, url: str) -> AsyncIterator[str]:
        """The server's URL for the length of a block: the one named, or an embedded one that is kept alive."""
        if url:
            yield url
            return
        server = self._server_process = await self._start_server()
        keeping = asyncio.create_task(self._keep_server(server))
        try:
            yield server.url
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await server.stop()

    async def _start_server(self) -> Server:
        """An embedded server at the port that the mesh file names, else at the usual one, else at any free one."""
        named = self._mesh.server.port
        for port in [named] if named else [DEFAULT_PORT, 0] if _is_free(DEFAULT_PORT) else [0]:
            server = Server(self._home.folder / "nats", binary=self._settings.nats_server, port=port)
            try:
                await server.start()
            except ServerStartError:
                if port == DEFAULT_PORT and not named:
                    continue  # somebody took it between our look and our start
                raise
            return server
        raise AssertionError("unreachable: the last port has raised")

    async def _keep_server(self, server: Server) -> None:
        """Start the server again when it dies; its streams and its port are as they were."""
        ends: deque[float] = deque(maxlen=SERVER_RESTARTS)
        while True:
            status = await server.wait()
            ends.append(time.monotonic())
            if len(ends) == SERVER_RESTARTS and ends[-1] - ends[0] < SERVER_WITHIN:
                break
            recent = sum(ends[-1] - end < SERVER_WITHIN for end in ends)
            self._say("nats-server", f"ended with status {status}; starting it again")
            await asyncio.sleep(random.uniform(0, min(5.0, 0.1 * 2.0**recent)))  # noqa: S311
            try:
                await server.start()
            except BusError as error:
                self._say("nats-server", str(error))
                break
            self._write()
        self._say("nats-server", "cannot be kept alive; the mesh ends")
        self._stop.set()

    async def _actors(self) -> int:
        supervisor = self._supervisor = Supervisor(
            self._mesh,
            url=self._url,
            folder=self._folder,
            drain_timeout=self._settings.drain_timeout,
            on_line=self._say,
            on_change=self._changed,
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run())
            stopping = group.create_task(self._stop.wait())
            starting = group.create_task(self._started(supervisor))
            await asyncio.wait((running, stopping, starting), return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.result() is None:
                await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            starting.cancel()
            stopping.cancel()
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
        self._report({"url": state["url"], "actors": state["actors"]})
        if self._output is Output.JSON and not self._ready_fd:
            print_json({"url": state["url"], "actors": state["actors"]})
        elif not self._ready_fd:
            self._show()
        return None

    def _interrupt(self) -> None:
        if self._stop.is_set() and self._supervisor is not None:
            self._supervisor.kill()
        self._stop.set()

    def _changed(self, child: Child) -> None:
        if child.state in (State.RESTARTING, State.FAILED):
            self._say(child.label, f"{child.state}: {child.reason}")
        self._write()

    def _write(self) -> dict[str, Any]:
        children = self._supervisor.children if self._supervisor else []
        more = {
            "server_pid": self._server_process.pid if self._server_process else 0,
            "supervision": self._mesh.supervision.model_dump(),
        }
        return self._home.write(self._url, [child.public() for child in children], **more)

    def _report(self, state: dict[str, Any]) -> None:
        """Tell the process that detached us. It reads one line."""
        if self._ready_fd:
            fd, self._ready_fd = int(self._ready_fd), ""
            with contextlib.suppress(BrokenPipeError), os.fdopen(fd, "w") as pipe:
                pipe.write(json.dumps(state) + "\n")
            self._ready_fd = ""

    def _say(self, who: str, line: str) -> None:
        from rich.text import Text

        text = Text(f"{who} | ", style="cyan")
        text.append(line, style="default")
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


def _detach(mesh_file: Path | None, home: MeshHome, url: str | None, output: Output) -> int:
    """Start `revo up` in the background and return when all is ready."""
    with home.held():
        pass  # somebody else's mesh is found before anything is started
    read, write = os.pipe()
    command = [sys.executable, "-m", "revo", "up", *([str(mesh_file)] if mesh_file else [])]
    env = {**os.environ, READY_FD: str(write)}
    if url:
        env["REVO_NATS_URL"] = url
    with home.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write,),
            start_new_session=True,
        )
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            line = pipe.readline()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    state = json.loads(line) if line else {"error": f"it ended with status {process.wait()}; see {home.log}"}
    if "error" in state:
        process.wait()
        raise RelayedError(state["error"], int(state.get("status", FAILED)))
    if output is Output.JSON:
        print_json(state)
    else:
        console().print(f"mesh at {state['url']}, {len(state['actors'])} actors ready; `revo down` ends it")
    return DONE


def down(*, output: Output) -> int:
    """End the mesh that runs here and wait until it is gone; returns the exit status."""
    home = MeshHome(Settings.from_env().home.absolute())
    pid = home.holder()
    if not pid:
        raise NoMeshError(str(home.state))
    os.kill(pid, signal.SIGTERM)
    home.wait_until_free()
    if output is Output.JSON:
        print_json({"ended": pid})
    else:
        console().print("the mesh has ended")
    return DONE


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
