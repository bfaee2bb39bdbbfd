"""Three nats-servers as one cluster, on loopback; any of them can be killed."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

from actors.keyring import Keyring
from bus import jetstream
from bus.connection import Connection
from bus.errors import BusError
from bus.server import Server
from bus.settings import Settings
from tests.eventually import eventually

SIZE = 3


class Node(Server):
    """One server of the cluster."""

    def __init__(
        self, folder: Path, name: str, port: int, route: int, routes: list[int], *, accounts: Path | None
    ) -> None:
        super().__init__(folder / name, port=port, accounts=accounts)
        self.name = name
        self._route = route
        self._routes = routes

    def _write_config(self) -> Path:
        config = super()._write_config()
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
        more = f'cluster {{ name: "trio", listen: "127.0.0.1:{self._route}", routes: [{routes}] }}\n'
        config.write_text(config.read_text().replace('server_name: "revo"', f'server_name: "{self.name}"') + more)
        return config


class Cluster:
    """The nodes by name, and who leads what."""

    def __init__(self, folder: Path, accounts: Path | None) -> None:
        ports = free_ports(2 * SIZE)
        clients, routes = ports[:SIZE], ports[SIZE:]
        self.nodes = {
            f"n{number}": Node(folder, f"n{number}", clients[number], routes[number], routes, accounts=accounts)
            for number in range(SIZE)
        }

    @property
    def url(self) -> str:
        """All three, as one setting."""
        return ",".join(node.url for node in self.nodes.values())

    async def leader(self, connection: Connection, stream: str) -> Node:
        """Who leads a stream, once somebody does."""

        async def name() -> str:
            try:
                info = await jetstream.call(connection, "STREAM.INFO", stream)
            except BusError:
                return ""
            return str(info["cluster"].get("leader") or "")

        return self.nodes[await eventually(name, timeout=30)]

    async def whole(self, connection: Connection, stream: str) -> None:
        """Return once the stream has all its copies up to date."""

        async def current() -> bool:
            try:
                info = await jetstream.call(connection, "STREAM.INFO", stream)
            except BusError:
                return False
            replicas = info["cluster"].get("replicas") or []
            return len(replicas) == SIZE - 1 and all(one.get("current") for one in replicas)

        await eventually(current, timeout=40)


@asynccontextmanager
async def cluster(folder: Path, keyring: Keyring | None = None) -> AsyncIterator[Cluster]:
    """A cluster that has elected its leader, and knows the users of a keyring."""
    trio = Cluster(folder, keyring.accounts if keyring else None)
    settings = Settings(credentials=str(keyring.path("operator")) if keyring else "")
    async with AsyncExitStack() as stack:
        for node in trio.nodes.values():
            await stack.enter_async_context(node)
        async with await Connection.open(trio.url, settings=settings) as connection:

            async def elected() -> bool:
                try:
                    await jetstream.call(connection, "INFO")
                    await jetstream.call(connection, "STREAM.NAMES")
                except BusError:
                    return False
                return True

            await eventually(elected, timeout=30)
        yield trio


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on: all held at once, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
