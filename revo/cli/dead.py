"""`revo dead`: tasks that failed for good."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bus import codec, inspection, subjects
from bus.errors import BusError, ConfigError, DecodeError
from bus.inspection import Letter, Link
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import (
    DONE,
    FAILED,
    Output,
    ago,
    console,
    print_json,
    quiet_logs,
    run_async,
    say_error,
    table,
    to_json,
)

T = TypeVar("T")

BODY_SHOWN = 2000
"""Characters of the original message that are shown; JSON has all of them."""


def ls(capability: str, *, url: str | None, output: Output) -> int:
    """List dead letters; returns the exit status."""
    quiet_logs()

    async def read(mesh: Mesh) -> list[Letter]:
        return await inspection.letters(mesh.connection, capability=capability)

    letters = _with_mesh(read, url)
    if output is Output.JSON:
        print_json([_as_json(letter) for letter in letters])
        return DONE
    title = f"{len(letters)} dead letters" if letters else "no dead letters"
    found = table(title, "=task", "capability", "died", "class", "reason", ">attempts", "redriven as")
    for one in letters:
        letter = one.letter
        found.add_row(
            letter.task_id,
            letter.capability,
            f"{ago(letter.died_at)} ago",
            letter.error.fault,
            letter.reason,
            str(letter.attempts),
            one.redriven_as,
        )
    found.show_header = found.row_count > 0
    console().print(found)
    return DONE


def show(task_id: str, *, url: str | None, output: Output) -> int:
    """Show one dead letter and the chain that it stands in; returns the exit status."""
    quiet_logs()
    subjects.token(task_id, "task id")

    async def read(mesh: Mesh) -> tuple[Letter, list[Link]]:
        return await inspection.letter(mesh.connection, task_id), await inspection.chain(mesh.connection, task_id)

    letter, chain = _with_mesh(read, url)
    if output is Output.JSON:
        links = [
            {"task_id": link.task_id, "status": link.status, "error": link.error, "dead": link.dead} for link in chain
        ]
        print_json({**_as_json(letter), "message": _message(letter), "chain": links})
        return DONE
    said = letter.letter
    rows = [
        ("task", said.task_id),
        ("subject", said.subject),
        ("died", f"{ago(said.died_at)} ago, after {said.attempts} attempts and {said.deliveries} deliveries"),
        ("by", said.instance),
        ("reason", said.reason),
        ("error", said.error.message),
    ]
    terminal = console()
    for key, value in rows:
        _line(key, value)
    if said.error.fault:
        _line("class", said.error.fault)
    if said.error.details:
        _line("details", to_json(said.error.details))
    _line("message", to_json(_message(letter))[:BODY_SHOWN])
    if said.error.traceback:
        terminal.print(f"\n{said.error.traceback.rstrip()}", style="dim", markup=False, soft_wrap=True)
    if len(chain) > 1:
        terminal.print("\nchain of redrives:", style="bold")
        for link in chain:
            state = link.status or "waiting or running"
            terminal.print(f"  {link.task_id}  {state}  {link.error}".rstrip(), markup=False, soft_wrap=True)
    return DONE


def _line(key: str, value: str) -> None:
    from rich.text import Text

    console().print(Text(f"{key:<10}", style="bold").append(value, style="default"), soft_wrap=True)


def _as_json(letter: Letter) -> dict[str, Any]:
    return {**letter.letter.model_dump(), "redriven_as": letter.redriven_as}


def _message(letter: Letter) -> Any:
    """The original message as plain data; what cannot be read is shown as text."""
    if letter.missing:
        return f"({letter.missing})"
    try:
        return codec.decode(letter.body, codec.content_type_of(letter.headers))
    except DecodeError:
        return letter.body.decode(errors="backslashreplace")


def redrive(task_ids: list[str], *, every: bool, capability: str, url: str | None, output: Output) -> int:
    """Submit dead tasks anew; returns 1 when one could not be."""
    quiet_logs()

    async def one(mesh: Mesh, task_id: str) -> dict[str, Any]:
        done = await mesh.redrive(task_id, capability=capability)
        return {**done.model_dump(), "text": f"task {task_id} is submitted anew as {done.task_id}"}

    async def still(mesh: Mesh) -> list[str]:
        letters = await inspection.letters(mesh.connection, capability=capability)
        return [letter.letter.task_id for letter in letters if not letter.redriven_as]

    return _each(task_ids, every, still, one, url=url, output=output)


def drop(task_ids: list[str], *, every: bool, capability: str, yes: bool, url: str | None, output: Output) -> int:
    """Take dead letters away; returns 1 when one could not be."""
    quiet_logs()
    if every and not yes and not _sure(capability):
        return FAILED

    async def one(mesh: Mesh, task_id: str) -> dict[str, Any]:
        letter = await mesh.drop_dead(task_id, capability=capability)
        return {"task_id": letter.task_id, "text": f"the dead letter of task {task_id} is gone"}

    async def all_of_them(mesh: Mesh) -> list[str]:
        letters = await inspection.letters(mesh.connection, capability=capability)
        return [letter.letter.task_id for letter in letters]

    return _each(task_ids, every, all_of_them, one, url=url, output=output)


def _sure(capability: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("--all", "takes every dead letter away; say --yes when nobody can be asked")
    what = f" of {capability}" if capability else ""
    return console().input(f"Take away every dead letter{what}? [y/N] ").strip().lower() in ("y", "yes")


def _each(
    task_ids: list[str],
    every: bool,
    listed: Callable[[Mesh], Awaitable[list[str]]],
    one: Callable[[Mesh, str], Awaitable[dict[str, Any]]],
    *,
    url: str | None,
    output: Output,
) -> int:
    """Do one thing to each, with a bar when they are many; what fails is said, and the rest is done."""
    if bool(task_ids) == every:
        raise ConfigError("dead letters", "name task ids, or say --all, and not both")

    async def work(mesh: Mesh) -> int:
        from rich.progress import track

        chosen = await listed(mesh) if every else task_ids
        terminal = console(stderr=True)
        shown = track(chosen, console=terminal, transient=True, disable=not terminal.is_terminal or len(chosen) < 20)
        done, status = [], DONE
        for task_id in shown:
            try:
                done.append(await one(mesh, task_id))
            except BusError as error:
                status = max(status, say_error(error))
                continue
            if output is Output.TEXT:
                console().print(done[-1]["text"], markup=False, soft_wrap=True)
        if output is Output.JSON:
            print_json([{key: value for key, value in row.items() if key != "text"} for row in done])
        elif not chosen:
            console().print("no dead letters")
        return status

    return _with_mesh(work, url)


def _with_mesh(work: Callable[[Mesh], Awaitable[T]], url: str | None) -> T:
    async def connected() -> T:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-dead") as mesh:
            return await work(mesh)

    return run_async(connected(), "reading dead letters")
