"""The embedded server of a mesh that runs on this machine: started at a port that people can guess, kept alive."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from actors.keyring import Keyring
from actors.meshfile import ServerEntry
from actors.meshhome import MeshHome
from bus.credentials import OPERATOR
from bus.errors import BusError
from bus.server import Server, ServerStartError
from bus.settings import KEYS, Settings

DEFAULT_PORT: Final = 4222
RESTARTS: Final = 10
WITHIN: Final = 60.0
"""So many ends of the server within so many seconds are too many."""


async def start_server(folder: Path, *, binary: str, entry: ServerEntry, accounts: Path) -> Server:
    """An embedded server at the port, if one is named, else at the usual one, else at any that is free.

    Raises:
        ServerStartError: it does not start; says why.
    """
    port, tls = entry.port, (entry.tls_cert, entry.tls_key) if entry.tls_cert and entry.tls_key else None
    for one in [port] if port else [DEFAULT_PORT, 0] if is_free(DEFAULT_PORT) else [0]:
        server = Server(
            folder, binary=binary, port=one, host=entry.host, accounts=accounts, tls=tls, encrypted=entry.encrypted
        )
        try:
            await server.start()
        except ServerStartError:
            if one == DEFAULT_PORT and not port:
                continue  # somebody took it between our look and our start
            raise
        return server
    raise AssertionError("unreachable: the last port has raised")


@asynccontextmanager
async def server_alone(home: MeshHome, settings: Settings, entry: ServerEntry) -> AsyncIterator[Settings]:
    """The embedded server of a mesh that does not run, without any actor, for the length of a block; yields how its
    operator reaches it. It is on loopback, at a port where no actor looks for it.

    Raises:
        MeshRunningError: the mesh runs.
        ServerStartError: the server does not start; says why.
    """
    with home.held():
        keyring = Keyring(home.folder / KEYS)
        await asyncio.to_thread(keyring.init)
        folder, binary = home.folder / "nats", settings.nats_server
        async with Server(folder, binary=binary, accounts=keyring.accounts, encrypted=entry.encrypted) as server:
            yield settings.model_copy(
                update={"nats_url": server.url, "credentials": str(keyring.path(OPERATOR).absolute())}
            )


async def keep_server(server: Server, *, say: Callable[[str], None], restarted: Callable[[], None]) -> None:
    """Start the server again when it dies, with its streams and its port; returns when that does not help."""
    ends: deque[float] = deque(maxlen=RESTARTS)
    while True:
        status = await server.wait()
        ends.append(time.monotonic())
        if len(ends) == RESTARTS and ends[-1] - ends[0] < WITHIN:
            return
        recent = sum(ends[-1] - end < WITHIN for end in ends)
        say(f"ended with status {status}; starting it again")
        await asyncio.sleep(random.uniform(0, min(5.0, 0.1 * 2.0**recent)))  # noqa: S311
        try:
            await server.start()
        except BusError as error:
            say(str(error))
            return
        restarted()


def is_free(port: int) -> bool:
    """Whether a server could listen there, on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
