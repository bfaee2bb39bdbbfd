"""`revo up` and `revo down`: a whole mesh on one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from actors.meshfile import DEFAULT_NAME, MeshFile
from actors.meshhome import MeshHome
from bus.errors import NoMeshError
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, RelayedError, console, print_json, run_async, waiting
from revo.cli.whole import READY_FD, Whole


def up(mesh_file: Path | None, *, detach: bool, url: str | None, output: Output) -> int:
    """Start a mesh and, unless detached, stay with it; returns the exit status."""
    settings = Settings.from_env().at(url)
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    mesh = MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()
    home = MeshHome(settings.home.absolute())
    if detach:
        with waiting("starting the mesh"):
            return _detach(mesh_file, home, url, output)
    path = mesh_file.absolute() if mesh_file is not None else None
    with home.held():
        return run_async(Whole(mesh, path, home, settings, output=output).run(settings.nats_url))


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
    with waiting("actors finish what they have in hand"):
        home.wait_until_free()
    if output is Output.JSON:
        print_json({"ended": pid})
    else:
        console().print("the mesh has ended")
    return DONE
