"""`revo up` and `revo down`: a whole mesh on one machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from actors.meshfile import DEFAULT_NAME, MeshFile
from actors.meshhome import MeshHome
from bus.errors import BusError, ConfigError, NoMeshError
from bus.forking import close_others
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, RelayedError, console, exit_code, print_json, run_async, waiting
from revo.cli.forks import fork_server
from revo.cli.whole import Whole


def up(mesh_file: Path | None, *, detach: bool, url: str | None, output: Output) -> int:
    """Start a mesh and, unless detached, stay with it; returns the exit status."""
    settings = Settings.from_env().at(url)
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    mesh = MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()
    path = mesh_file.absolute() if mesh_file is not None else None
    home = MeshHome(settings.home.absolute())
    said = None
    if detach:
        with home.held():
            pass  # somebody else's mesh is found before anything is started
        background, said = _detach(home)
        if background:
            return _await_ready(background, said, home, output)
    forks = fork_server(settings)
    whole = Whole(mesh, path, home, settings, output=output, forks=forks, ready=said)
    try:
        with home.held():
            return run_async(whole.run(settings.nats_url))
    except BusError as error:
        whole.report({"error": str(error), "status": exit_code(error)})
        raise


def _detach(home: MeshHome) -> tuple[int, int]:
    """Go on in the background, in a session of its own. Returns twice: to who called, with the process and the file
    that it says one line to, and there, with 0 and the other end.

    Raises:
        ConfigError: it cannot be started; says why.
    """
    try:
        log = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise ConfigError(str(home.log), (error.strerror or str(error)).lower()) from error
    read, write = os.pipe()
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        pid = os.fork()
    except OSError as error:
        raise ConfigError("--detach", f"starts no process: {(error.strerror or str(error)).lower()}") from error
    if pid:
        os.close(write)
        os.close(log)
        return pid, read
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, standard)
    close_others({write})
    return 0, write


def _await_ready(background: int, said: int, home: MeshHome, output: Output) -> int:
    """Return when all is ready; whatever ends us before ends the mesh.

    Raises:
        RelayedError: it is not, and will not be.
    """

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        with waiting("starting the mesh"), os.fdopen(said) as pipe:
            line = pipe.readline()
    except BaseException:
        os.kill(background, signal.SIGTERM)
        os.waitpid(background, 0)
        raise
    state = json.loads(line) if line else {}
    if "url" not in state:
        status = os.waitstatus_to_exitcode(os.waitpid(background, 0)[1])
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
