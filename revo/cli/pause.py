"""`revo pause` and `revo resume`: an instance, or a whole capability, takes nothing for a while."""

from __future__ import annotations

from actors.registry import pausing
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async


def pause(name: str, reason: str, *, url: str | None, output: Output) -> int:
    """Pause an instance or a capability; returns the exit status."""
    return _show(run_async(_turn(name, reason, url), f"pausing {name}"), output)


def resume(name: str, *, url: str | None, output: Output) -> int:
    """Resume it; returns the exit status."""
    return _show(run_async(_turn(name, "", url), f"resuming {name}"), output)


async def _turn(name: str, reason: str, url: str | None) -> pausing.Paused:
    quiet_logs()
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-pause") as mesh:
        return await (pausing.pause(mesh, name, reason) if reason else pausing.resume(mesh, name))


def _show(done: pausing.Paused, output: Output) -> int:
    if output is Output.JSON:
        print_json(done.model_dump())
        return DONE
    if not done.reason:
        line = f"{done.kind} {done.name} goes on"
    elif done.kind == "instance":
        line = f"instance {done.name} is paused: it finishes what it has and takes nothing more"
    else:
        line = f"capability {done.name} is paused: its tasks wait on the server until `revo resume {done.name}`"
    console().print(line, soft_wrap=True, highlight=False)
    return DONE
