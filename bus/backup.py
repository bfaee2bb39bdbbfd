"""A mesh's streams as a folder: taken while the mesh works, and checked. `bus.restore` puts them back.

The streams are taken one after the other, so no two of them are of the same instant. TASKS comes first, as in an audit,
for what leaves it is by then in the next: a worker stores a task's result, and its dead letter, before the task leaves
the queue. So of all tasks that were accepted before the backup began, each is in the copy of TASKS, or its end is in
those that were taken later. With RESULTS first, a task that ended in between would be in neither, and lost.

The other way round, a task in the copy of TASKS may have its result in that of RESULTS too. It is delivered once more
after the restore, its handler may run once more, and the result that stands is the result. The same with its tries:
ATTEMPTS, being younger than the deliveries that TASKS counts, blames no task for a death that was none.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import ConfigError, InvalidSubjectError, NotFoundError
from bus.snapshots import reading, snapshot, writing
from bus.streams import streams

M = TypeVar("M", bound=BaseModel)

MARK: Final = "backup.json"
"""Written last: a folder without it is no backup."""
_PIECE: Final = 1024 * 1024
_OF_THE_MOMENT: Final = {subjects.PROBES, subjects.PROGRESS, subjects.bucket(subjects.SESSIONS_BUCKET)}
"""What means nothing later. Locks of sessions that are gone are taken away, as those of the dead are."""

OnBytes = Callable[[str, int], object]
"""Is told the stream that is worked at, and how many more bytes of its file have been written or read."""


class Kept(BaseModel):
    """One stream of a backup: what `<STREAM>.json` says of `<STREAM>.tar.s2`, which is as the server sent it."""

    model_config = ConfigDict(frozen=True)

    config: dict[str, Any]
    state: dict[str, Any]
    """When its snapshot began."""
    size: int
    sha256: str
    at: float
    """Unix seconds, by the server's clock: when its snapshot began."""
    created: float
    """Unix seconds: when the stream was made. A restored one is made anew, and the server forgets this."""

    @property
    def stream(self) -> str:
        """Its name."""
        return str(self.config["name"])

    @property
    def messages(self) -> int:
        """How many there were."""
        return int(self.state.get("messages", 0))

    @property
    def consumers(self) -> int:
        """How many there were."""
        return int(self.state.get("consumer_count", 0))


class Mark(BaseModel):
    """What `backup.json` says: the streams in the order in which they were taken, and what each file must be."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    at: float
    """Unix seconds, by the server's clock: when the backup began. What was accepted before is in it."""
    streams: list[str]
    files: dict[str, str]
    """Their SHA-256."""


class Backup(BaseModel):
    """A complete backup."""

    model_config = ConfigDict(frozen=True)

    at: float
    streams: list[Kept]

    @property
    def size(self) -> int:
        """Bytes of all that the server sent."""
        return sum(kept.size for kept in self.streams)


def data_file(folder: Path, stream: str) -> Path:
    """The file of a stream as the server sent it."""
    return folder / f"{stream}.tar.s2"


# --- taking ---------------------------------------------------------------------------------------------------


async def create(connection: Connection, folder: Path, on_bytes: OnBytes) -> Backup:
    """Write all streams of a mesh to a folder that is new or empty. The mesh may be at work.

    Complete when this returns; what was accepted before it was called is in it.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
        NotFoundError: there is no mesh on the server.
        PermissionDeniedError: the credentials are no operator's.
        ServerError, TransportError: the server broke it off, or is gone. What is in the folder is no backup.
    """
    await asyncio.to_thread(_prepare, folder)
    taken: list[Kept] = []
    files: dict[str, str] = {}
    wanted = streams(connection.settings, connection.max_payload)
    names = [config["name"] for config in wanted if config["name"] not in _OF_THE_MOMENT]
    names.sort(key=lambda name: name != subjects.TASKS)  # which comes first, see above
    for name in names:
        try:
            info = await jetstream.call(connection, "STREAM.INFO", name)
        except NotFoundError:
            if not taken:
                raise
            continue  # of an older mesh, which did not have it
        path = data_file(folder, name)
        got = await snapshot(connection, name, path, functools.partial(on_bytes, name))
        kept = Kept(
            config=dict(got.config),
            state=dict(got.state),
            size=got.size,
            sha256=got.sha256,
            at=jetstream.unix_ns(info["ts"]) / 1e9,
            created=jetstream.unix_ns(info["created"]) / 1e9,
        )
        files[path.name] = got.sha256
        files[f"{name}.json"] = await asyncio.to_thread(_write, folder / f"{name}.json", kept)
        taken.append(kept)
    mark = Mark(at=taken[0].at, streams=[kept.stream for kept in taken], files=files)
    await asyncio.to_thread(_write, folder / MARK, mark)
    return Backup(at=mark.at, streams=taken)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(str(folder), "is not empty; a backup needs a folder of its own")
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(str(folder), (error.strerror or "cannot be used").lower()) from error


def _write(path: Path, content: BaseModel) -> str:
    """Write one of the small files; returns its SHA-256."""
    data = content.model_dump_json(indent=2).encode() + b"\n"
    with writing(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


# --- looking at -----------------------------------------------------------------------------------------------


async def load(folder: Path, on_bytes: OnBytes) -> Backup:
    """The backup in a folder, every byte of it checked.

    Raises:
        ConfigError: it is none, or not complete, or a file is not what was written.
    """
    mark = await asyncio.to_thread(_read, folder / MARK, Mark, None)
    stood = []
    for name in mark.streams:
        try:
            subjects.token(name, "stream")
        except InvalidSubjectError as error:
            raise ConfigError(str(folder / MARK), "it is not what `revo backup create` writes") from error
        path = data_file(folder, name)
        kept = await asyncio.to_thread(_read, folder / f"{name}.json", Kept, mark.files.get(f"{name}.json", ""))
        digest = await _digest(path, functools.partial(on_bytes, name))
        if kept.config.get("name") != name or not digest == kept.sha256 == mark.files.get(path.name):
            raise _damaged(path)
        stood.append(kept)
    return Backup(at=mark.at, streams=stood)


def _read(path: Path, kind: type[M], sha256: str | None) -> M:
    if kind is Mark and not path.is_file():
        raise ConfigError(str(path.parent), f"is no backup, or one that did not come to its end: it has no {MARK}")
    with reading(path) as file:
        data = file.read()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise _damaged(path)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        reason = "a newer revo wrote it" if kind is Mark and b'"format"' in data else "it is damaged"
        raise ConfigError(str(path), f"cannot be read: {reason}") from error


async def _digest(path: Path, on_bytes: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with reading(path) as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            await asyncio.to_thread(digest.update, piece)
            on_bytes(len(piece))
    return digest.hexdigest()


def _damaged(path: Path) -> ConfigError:
    return ConfigError(str(path), "is not what was written (its SHA-256 differs); nothing was changed")
