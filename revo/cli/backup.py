"""`revo backup`: all streams of a mesh in a folder, and back."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from actors.meshfile import DEFAULT_NAME, MeshFile, ServerEntry
from actors.meshhome import MeshHome
from bus import backup as backups
from bus import restore as restores
from bus.backup import Backup, OnBytes
from bus.connection import Connection
from bus.errors import NoMeshError
from bus.restore import Restored
from bus.settings import Settings
from revo.cli.common import DONE, Output, console, print_json, quiet_logs, run_async, table
from revo.cli.embedded import server_alone

_NAME: Final = "revo-backup"


def create(folder: Path, *, url: str | None, output: Output) -> int:
    """Take a backup; returns the exit status."""
    quiet_logs()
    made = run_async(_create(folder, url))
    _tell(f"backup in {folder}", folder, made.at, _rows(made), output)
    return DONE


def show(folder: Path, *, output: Output) -> int:
    """Check a backup and show what is in it; returns the exit status. Needs no server."""
    quiet_logs()
    found = run_async(_load(folder))
    _tell(f"{folder} is complete and undamaged", folder, found.at, _rows(found), output)
    return DONE


def restore(folder: Path, mesh_file: Path | None, *, replace: bool, url: str | None, output: Output) -> int:
    """Put a backup back; returns the exit status."""
    quiet_logs()
    at, done = run_async(_restore(folder, mesh_file, url, replace=replace))
    _tell(f"restored from {folder}", folder, at, done, output)
    return DONE


async def _create(folder: Path, url: str | None) -> Backup:
    settings = Settings.from_env().at(url)
    async with await Connection.open(settings.find_url(), name=_NAME, settings=settings) as connection:
        with _bar("taking") as on_bytes:
            return await backups.create(connection, folder, on_bytes)


async def _load(folder: Path) -> Backup:
    with _bar("checking", _size(folder)) as on_bytes:
        return await backups.load(folder, on_bytes)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(backups.data_file(folder, "*").name))


async def _restore(
    folder: Path, mesh_file: Path | None, url: str | None, *, replace: bool
) -> tuple[float, list[Restored]]:
    backup = await _load(folder)
    async with (
        _server(mesh_file, Settings.from_env().at(url)) as settings,
        await Connection.open(settings.find_url(), name=_NAME, settings=settings) as connection,
    ):
        with _bar("restoring", backup.size) as on_bytes:
            return backup.at, await restores.restore(connection, folder, backup, replace=replace, on_bytes=on_bytes)


@contextlib.asynccontextmanager
async def _server(mesh_file: Path | None, settings: Settings) -> AsyncIterator[Settings]:
    """How the server is reached: the one named, that of the mesh which runs here, or the one that `revo up` would start
    here, alone and for as long as this takes.
    """
    try:
        settings.find_url()
    except NoMeshError:
        async with server_alone(MeshHome(settings.home.absolute()), settings, _entry(mesh_file)) as alone:
            yield alone
    else:
        yield settings


def _entry(mesh_file: Path | None) -> ServerEntry:
    if mesh_file is None and Path(DEFAULT_NAME).is_file():
        mesh_file = Path(DEFAULT_NAME)
    return (MeshFile.load(mesh_file) if mesh_file is not None else MeshFile.default()).server


@contextlib.contextmanager
def _bar(doing: str, total: int | None = None) -> Iterator[OnBytes]:
    """On a terminal, what is done to which stream and how many bytes that were."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    terminal = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task(doing, total=total)

        def on_bytes(stream: str, more: int) -> None:
            progress.update(bar, advance=more, description=f"{doing} {stream}")

        yield on_bytes


def _rows(backup: Backup) -> list[Restored]:
    return [Restored(kept.stream, kept.messages, kept.consumers, kept.size) for kept in backup.streams]


def _tell(said: str, folder: Path, at: float, rows: Sequence[Restored], output: Output) -> None:
    if output is Output.JSON:
        streams: list[dict[str, Any]] = [
            {"stream": row.stream, "messages": row.messages, "consumers": row.consumers, "bytes": row.size}
            for row in rows
        ]
        print_json({"folder": str(folder), "at": at, "streams": streams})
        return
    from rich.filesize import decimal

    when = datetime.datetime.fromtimestamp(at).astimezone()
    shown = table(f"what was accepted until {when:%Y-%m-%d %H:%M:%S}", "=stream", ">messages", ">consumers", ">size")
    for row in rows:
        shown.add_row(row.stream, f"{row.messages:,}", f"{row.consumers:,}", decimal(row.size))
    console().print(shown)
    console().print(f"{said}, {decimal(sum(row.size for row in rows))}", markup=False, soft_wrap=True)
