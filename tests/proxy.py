"""A wire between a client and a server that a test can cut, for one client alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on while it is whole; while it is cut, nobody listens at its end."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._own_port = 0
        self._listening: socket.socket | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients of the wire connect."""
        return f"nats://127.0.0.1:{self._own_port}"

    def mend(self) -> None:
        """Let connections through, always at the same port."""
        self._listening = socket.create_server(("127.0.0.1", self._own_port))
        self._listening.setblocking(False)
        self._own_port = self._listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    async def cut(self) -> None:
        """Cut the wire: every connection breaks, and none comes through."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        while self._serving:  # one may be in the middle of coming through
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.wait(self._serving, timeout=0.05)

    def _accept(self, listening: socket.socket) -> None:
        """By hand: a server of asyncio that is closed as somebody comes in forgets him."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            task = asyncio.create_task(self._serve(listening.accept()[0]))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, taken: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=taken)
        if self._listening is None:  # it came through as the wire was cut
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(reader, far_writer))
            group.create_task(_pass_on(far_reader, writer))
        self._writers -= pair
        for one in pair:
            with contextlib.suppress(ConnectionError):
                await one.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    """A wire to `target` (a NATS URL) for the length of a block."""
    proxy = Proxy(target)
    proxy.mend()
    try:
        yield proxy
    finally:
        await proxy.cut()
