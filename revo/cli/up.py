"""`revo up` and `revo down`: a whole mesh on one machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from actors.meshfile import DEFAULT_NAME, MeshFile
from actors.meshhome import MeshHome
from bus.errors import NoMeshError
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, RelayedError, console, print_json, run_async, waiting
from revo.cli.forks import fork_server
from revo.cli.whole import READY_FD, Whole


def up(mesh_file: Path | None, *, detach: bool, url: str | None, output: Output) -> int:
    """Start a mesh and, unless detached, stay with it; returns the exit status."""
    settings = Settings.from_env().at(url)
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    mesh = MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()
    path = mesh_file.absolute() if mesh_file is not None else None
    home = MeshHome(settings.home.absolute())
    if detach:
        with home.held():
            pass  # somebody else's mesh is found before anything is started
        background = _detach(home)
        if background is not None:
            return _await_ready(background, home, output)
    forks = fork_server(settings)
    with home.held():
        return run_async(Whole(mesh, path, home, settings, output=output, forks=forks).run(settings.nats_url))


class _Background(NamedTuple):
    """A mesh that has been detached."""

    pid: int
    said: int
    """The file that it says one line to: how it started."""


def _detach(home: MeshHome) -> _Background | None:
    """Go on in the background, in a session of its own. Returns twice: with the process to who called, and with nothing
    in that.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    if pid := os.fork():
        os.close(write)
        return _Background(pid, read)
    os.close(read)
    os.setsid()
    log = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, standard)
    os.close(null)
    os.close(log)
    os.environ[READY_FD] = str(write)
    return None


def _await_ready(background: _Background, home: MeshHome, output: Output) -> int:
    """Return when all is ready.

    Raises:
        RelayedError: it is not, and will not be.
    """
    with waiting("starting the mesh"), os.fdopen(background.said) as pipe:
        try:
            line = pipe.readline()
        except KeyboardInterrupt:
            os.kill(background.pid, signal.SIGTERM)
            os.waitpid(background.pid, 0)
            raise
    state = json.loads(line) if line else {}
    if "url" not in state:
        status = os.waitstatus_to_exitcode(os.waitpid(background.pid, 0)[1])
        state = {"error": f"it ended with status {status}; see {home.log}"} | state
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
    with waiting("actors finish what they have in hand"):
        home.wait_until_free()
    if output is Output.JSON:
        print_json({"ended": pid})
    else:
        console().print("the mesh has ended")
    return DONE
