"""The worker under test: a process that is started, killed and asked to leave by whoever checks it."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Final

from bus.child import STDOUT, Child
from bus.errors import ConfigError
from revo.conformance.tap import Unmet

_TAIL: Final = 2000


class Candidate:
    """Runs a command, with `REVO_NATS_URL` in its environment and its output in a file."""

    def __init__(self, command: str, url: str, log: Path) -> None:
        """A command of several words is split as a shell splits it; no shell runs it.

        Raises:
            ConfigError: it is no command.
        """
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise ConfigError("--command", f"{command!r} cannot be split into words: {error}") from error
        if not self._argv:
            raise ConfigError("--command", "is empty")
        if shutil.which(self._argv[0]) is None:
            raise ConfigError("--command", f"{self._argv[0]} is no program that can be run")
        self._url = url
        self._log = log
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it; returns at once.

        Raises:
            ConfigError: there is no such program.
        """
        with self._log.open("ab") as log:
            try:
                self._child = await Child.start(
                    self._argv,
                    group=True,
                    stdout=log.fileno(),
                    stderr=STDOUT,
                    env={**os.environ, "REVO_NATS_URL": self._url},
                )
            except OSError as error:
                raise ConfigError("--command", f"{self._argv[0]} cannot be run: {error.strerror}") from error

    async def kill(self) -> None:
        """End it and all that it has started with SIGKILL."""
        child, self._child = self._child, None
        if child is not None:
            await child.finish()

    async def leave(self, within: float) -> int:
        """Send SIGTERM and return its exit status.

        Raises:
            Unmet: it runs on for longer than so many seconds; it has been killed then.
        """
        assert self._child is not None
        self._child.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                return await self._child.wait()
        except TimeoutError:
            raise Unmet(f"it still runs {within:g} s after SIGTERM") from None
        finally:
            await self.kill()

    async def ended(self) -> int:
        """Wait for its end and return the exit status."""
        assert self._child is not None
        return await self._child.wait()

    @property
    def said(self) -> str:
        """The end of its output."""
        return self._log.read_text("utf-8", "replace")[-_TAIL:].strip() if self._log.exists() else ""
