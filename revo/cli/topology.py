"""`revo topology`: what a mesh needs on a server, for those whose NATS is run by somebody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from actors.actor import Agent, check_class
from actors.loading import default_policy, load
from actors.meshfile import DEFAULT_NAME, MeshFile
from bus import subjects
from bus.connection import Connection
from bus.errors import ConfigError
from bus.plan import Change, Done, Wanted, carry_out, plan
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, console, print_json, quiet_logs, run_async, say_line

_SIGN: Final = {"create": ("+", "green"), "update": ("~", "yellow"), "impossible": ("!", "red")}


def show(mesh_file: Path | None, *, check: bool, url: str | None, output: Output) -> int:
    """Show what would be done; returns the exit status: with `check` 1 when there is anything."""
    quiet_logs()
    changes = run_async(_plan(wanted_by(mesh_file), url), "comparing")
    if output is Output.JSON:
        print_json([_public(change) for change in changes])
    else:
        for change in changes:
            _print(change)
        summary = f"{len(changes)} to do: `revo topology apply`" if changes else "all is as this version wants it"
        console().print(summary)
    return FAILED if check and changes else DONE


def apply(mesh_file: Path | None, *, url: str | None, output: Output) -> int:
    """Create what is missing and change what differs; returns the exit status."""
    quiet_logs()
    done: list[Done] = []

    def tell(one: Done) -> None:
        done.append(one)
        if output is Output.TEXT:
            _print(one.change)
            if one.error:
                say_line(f"{one.change.what}: {one.error}")

    good = run_async(_apply(wanted_by(mesh_file), url, tell))
    if output is Output.JSON:
        print_json([{**_public(one.change), "error": one.error} for one in done])
    elif good:
        console().print(f"{len(done)} done" if done else "all is as this version wants it")
    return DONE if good else FAILED


async def _plan(wanted: list[Wanted], url: str | None) -> list[Change]:
    settings = Settings.from_env().at(url)
    async with await Connection.open(settings.find_url(), name="revo-topology", settings=settings) as connection:
        return await plan(connection, wanted)


async def _apply(wanted: list[Wanted], url: str | None, tell: Callable[[Done], None]) -> bool:
    settings = Settings.from_env().at(url)
    async with await Connection.open(settings.find_url(), name="revo-topology", settings=settings) as connection:
        return await carry_out(connection, await plan(connection, wanted), tell)


def wanted_by(mesh_file: Path | None) -> list[Wanted]:
    """The capabilities of the agents that a mesh file names, and how each is run.

    Raises:
        ConfigError: the file or one of its actors cannot be used.
    """
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    mesh = MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()
    folder = mesh_file.absolute().parent if mesh_file is not None else Path.cwd()
    default = default_policy(Settings.from_env())
    sys.path.insert(0, str(folder))
    found: dict[str, Wanted] = {}
    for name, entry in mesh.actors.items():
        where, _, attribute = entry.target.rpartition(":")
        target = f"{folder / where}:{attribute}" if where.endswith(".py") else entry.target
        actor = load(target)
        if not issubclass(actor, Agent):
            continue
        for handler in check_class(actor):
            if handler.kind == "task":
                one = Wanted(handler.name, handler.policy_over(default), name)
                before = found.setdefault(handler.name, one)
                if before.policy != one.policy:
                    reason = f"agents {before.agent} and {name} disagree on how it is run"
                    raise ConfigError(f"capability {handler.name}", reason)
        found[subjects.agent_address(name)] = Wanted(subjects.agent_address(name), default, name)
    return list(found.values())


def _public(change: Change) -> dict[str, Any]:
    return {"action": change.action, "what": change.what, "differs": list(change.lines)}


def _print(change: Change) -> None:
    from rich.text import Text

    sign, style = _SIGN[change.action]
    terminal = console()
    terminal.print(Text(f"{sign} {change.what}", style=style), soft_wrap=True)
    for line in change.lines:
        terminal.print(Text(f"    {line}", style="dim"), soft_wrap=True)
