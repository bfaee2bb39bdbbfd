"""`$REVO_HOME`: the files of the mesh that runs on this machine. One `revo up` at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bus.errors import BusError, ConfigError
from bus.settings import MESH_FILE


class MeshRunningError(BusError):
    """Another `revo up` has this home."""

    def __init__(self, home: str, pid: int) -> None:
        super().__init__(home, pid)
        self.home = home
        self.pid = pid

    def __str__(self) -> str:
        return f"a mesh runs in {self.home} already (process {self.pid}); end it with `revo down`"


class MeshHome:
    """The folder where a mesh keeps its streams, its logs and `mesh.json`, which says where it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / MESH_FILE
        self.log = folder / "up.log"
        self._lock = folder / "lock"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the one mesh of this home for the length of a block. The kernel lets go if we die.

        Raises:
            MeshRunningError: another process is.
            ConfigError: the folder cannot be used.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self._lock.open("a+")
        except OSError as error:
            raise ConfigError(f"REVO_HOME={self.folder}", (error.strerror or str(error)).lower()) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MeshRunningError(str(self.folder), self.holder()) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                self.state.unlink(missing_ok=True)
                lock.truncate(0)

    def holder(self) -> int:
        """The process that holds this home, 0 when none does; a pid that was left behind is not taken for one."""
        try:
            with self._lock.open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(lock.read() or "0")
        except (OSError, ValueError):
            return 0
        return 0

    def wait_until_free(self) -> None:
        """Block until nobody holds this home. For a thread."""
        with self._lock.open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def write(self, url: str, actors: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Say where the mesh is; readers see the old state or the new, never half of one."""
        state = {"url": url, "actors": actors, "pid": os.getpid(), "written_at": time.time(), **more}
        temporary = self.state.with_suffix(".tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file)
        temporary.replace(self.state)
        return state

    def read(self) -> dict[str, Any] | None:
        """What `mesh.json` says, or None when there is none that can be read."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) else None
