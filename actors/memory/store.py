"""Entries as they stand in the stream, for those who may touch it: clients with full rights, and coordinators."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from actors.memory.backend import Author, Write, Written
from actors.memory.model import Entry, Fence, Namespace, Page
from bus.connection import Connection
from bus.telemetry import Telemetry


class Store:
    """A `Backend` on the bucket MEMORY. It keeps nothing that another one would have to know."""

    def __init__(self, connection: Connection, telemetry: Telemetry) -> None:
        """Spans of its calls are `telemetry`'s. Nothing is sent before the first call."""
        self._connection = connection
        self._telemetry = telemetry

    async def close(self) -> None:
        """Follow nothing any more. May be repeated."""

    async def read(self, namespace: str, key: str, version: int = 0) -> Entry | None:
        """As `Backend.read`; the newest version is what the stream's leader has."""
        raise NotImplementedError

    async def write(
        self, namespace: str, writes: Sequence[Write], author: Author, fence: Fence | None = None
    ) -> list[Written]:
        """As `Backend.write`."""
        raise NotImplementedError

    async def history(self, namespace: str, key: str) -> list[Entry]:
        """As `Backend.history`."""
        raise NotImplementedError

    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 100) -> Page:
        """As `Backend.list`."""
        raise NotImplementedError

    async def conflicts(self, namespace: str, after: str = "", limit: int = 100) -> Page:
        """As `Backend.conflicts`."""
        raise NotImplementedError

    async def watch(self, namespace: str, prefix: str = "", since: int | None = None) -> AsyncGenerator[Entry, None]:
        """As `Backend.watch`."""
        raise NotImplementedError(namespace, prefix, since)
        yield

    async def describe(self, namespace: str) -> Namespace:
        """As `Backend.describe`."""
        raise NotImplementedError

    async def configure(self, namespace: str, how: Namespace) -> None:
        """As `Backend.configure`."""
        raise NotImplementedError
