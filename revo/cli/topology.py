"""`revo topology`: what a mesh needs on a server, for those whose NATS is run by somebody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from actors.admission import load_all, read_wanted, wanted, write_wanted
from actors.meshfile import DEFAULT_NAME, MeshFile
from bus.connection import Connection
from bus.plan import Change, Done, Wanted, carry_out, plan
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, console, print_json, quiet_logs, run_async, say_line, table

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


def export(mesh_file: Path | None, *, output: Output) -> int:
    """Print what a mesh file wants, as JSON or as a table; returns the exit status."""
    found = wanted_by(mesh_file)
    if output is Output.JSON:
        sys.stdout.write(write_wanted(found))
        return DONE
    made = table("", "capability", "agent", ">attempts", ">time limit", ">ack wait")
    for one in found:
        policy = one.policy
        made.add_row(
            one.capability, one.agent, str(policy.max_attempts), f"{policy.time_limit:g} s", f"{policy.ack_wait:g} s"
        )
    console().print(made)
    return DONE


def wanted_by(mesh_file: Path | None) -> list[Wanted]:
    """The capabilities of the agents that a mesh file names, or that `export` wrote of one, and how each is run.

    Raises:
        ConfigError: the file or one of its actors cannot be used.
    """
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    if mesh_file is not None and mesh_file.suffix == ".json":
        return read_wanted(mesh_file)
    mesh = MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()
    folder = mesh_file.absolute().parent if mesh_file is not None else Path.cwd()
    return wanted(load_all(mesh, folder, strict=True), Settings.from_env())


def _public(change: Change) -> dict[str, Any]:
    return {"action": change.action, "what": change.what, "differs": list(change.lines)}


def _print(change: Change) -> None:
    from rich.text import Text

    sign, style = _SIGN[change.action]
    terminal = console()
    terminal.print(Text(f"{sign} {change.what}", style=style), soft_wrap=True)
    for line in change.lines:
        terminal.print(Text(f"    {line}", style="dim"), soft_wrap=True)
