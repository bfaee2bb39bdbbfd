"""One actor as a child process: start it, know when it is ready, hear it, end it.

The child is `revo run` in a session of its own, so that Ctrl-C in the terminal is its parent's to act on.
It dies with its parent. It is forked where there is a fork server, otherwise an interpreter starts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from actors.parent import ACTOR_SETTINGS, LIFELINE_FD, READY_FD, RESTARTS
from bus.child import PIPE, STDOUT, Child, pipe_end
from bus.errors import BusError
from bus.forkserver import ForkServer, ForkServerLostError
from bus.lifeline import Lifeline

LAST_LINES: Final = 0.5
"""Seconds for the last lines of a process that has ended."""


class ActorExitedError(BusError):
    """The actor's process ended before it was ready."""

    def __init__(self, name: str, status: int, said: str) -> None:
        super().__init__(name, status, said)
        self.name = name
        self.status = status
        self.said = said

    def __str__(self) -> str:
        return f"{self.name} ended with status {self.status} before it was ready: {self.said or 'it said nothing'}"


class ActorProcess:
    """A child that runs one actor. `on_line` gets every line that it writes; it comes from `forks` if that is given."""

    def __init__(
        self, name: str, target: str, *, on_line: Callable[[str], None], forks: ForkServer | None = None
    ) -> None:
        self.name = name
        self.target = target
        self.instance = ""
        """The actor's own name for itself, known once it is ready."""
        self.said: deque[str] = deque(maxlen=20)
        """The last lines that it wrote."""
        self._on_line = on_line
        self._forks = forks
        self._process: Child | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.status is None

    async def start(
        self,
        *,
        url: str,
        cwd: Path,
        settings: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        credentials: str = "",
        restarts: int = 0,
        timeout: float = 15.0,
    ) -> None:
        """Start the process; returns when the actor is ready. `credentials` is the file of the user that it is to be;
        `restarts` is how often it was started before.

        Raises:
            ActorExitedError: it ended instead.
            TimeoutError: it is not ready within `timeout` seconds; it is killed.
        """
        env = {
            **os.environ,
            "REVO_NATS_URL": url,
            "REVO_CREDENTIALS": credentials,  # never those that we were given ourselves
            ACTOR_SETTINGS: json.dumps(settings or {}),
            RESTARTS: str(restarts),
            "PYTHONUNBUFFERED": "1",
            # One port cannot be that of all of them: each says in its log which it has.
            "REVO_HTTP": re.sub(r":\d+$", ":0", os.environ.get("REVO_HTTP", "")),
        }
        if labels:
            env["REVO_LABELS"] = ",".join(f"{key}={value}" for key, value in labels.items())
        read, write = os.pipe()
        try:
            self._process = await self._begin(env, cwd, write)
        finally:
            os.close(write)
        self._reading = asyncio.create_task(self._read(self._process), name=f"lines of {self.name}")
        try:
            async with asyncio.timeout(timeout):
                ready = await _first_line(read)
        except TimeoutError:
            self.kill()
            await self.wait()
            raise
        if not ready:
            status = await self.wait()
            raise ActorExitedError(self.name, status, self.said[-1] if self.said else "")
        self.instance = str(json.loads(ready)["instance"])

    async def _begin(self, env: dict[str, str], cwd: Path, ready: int) -> Child:
        arguments = ["run", self.target, "--name", self.name]
        if self._forks is not None:
            lifeline = Lifeline()
            handed = {READY_FD: ready, LIFELINE_FD: lifeline.fd}
            try:
                return await Child.fork(self._forks, arguments, env=env, cwd=cwd, handed=handed, lifeline=lifeline)
            except ForkServerLostError as error:
                self._on_line(f"{error}; an interpreter of its own is started")
        lifeline = Lifeline()
        env |= {READY_FD: str(ready), LIFELINE_FD: str(lifeline.fd)}
        command = [sys.executable, "-m", "revo", *arguments]
        return await Child.start(
            command, cwd=cwd, env=env, stdout=PIPE, stderr=STDOUT, pass_fds=(ready,), lifeline=lifeline
        )

    async def _read(self, process: Child) -> None:
        assert process.stdout is not None
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:
                continue  # a line beyond the reader's limit: dropped, the rest is read on
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip("\n")
            self.said.append(line)
            self._on_line(line)

    async def wait(self) -> int:
        """Wait for the end; returns the exit status, negative for a signal. What it wrote has been read; what others
        write, who were started by it and have its output too, is not.
        """
        assert self._process is not None
        await self._process.wait()
        reading = self._reading
        if reading is not None:
            await asyncio.wait((reading,), timeout=LAST_LINES)
            if reading.cancel():
                await asyncio.wait((reading,))
            elif not reading.cancelled():
                reading.result()  # who is told of lines may have raised
        return await self._process.finish()

    def terminate(self) -> None:
        """Ask it to drain (SIGTERM)."""
        if self.running and self._process is not None:
            self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self.running and self._process is not None:
            self._process.signal(signal.SIGKILL)


async def _first_line(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe_end(fd, "rb"))
    try:
        return await reader.readline()
    finally:
        transport.close()
