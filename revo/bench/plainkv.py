"""A key-value bucket in plain nats-py, as large and as durable as shared memory is: what that is compared with."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import nats
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from bus.settings import Settings

_PLAIN: Final = "PLAIN"
_DIRECT: Final = "PLAIN_DIRECT"
BODY: Final = b"x" * 1024


class PlainKv:
    """Two buckets: one whose gets go to the stream's leader, as nats-py's own default is, and one with direct gets."""

    def __init__(self, leader: KeyValue, direct: KeyValue) -> None:
        self._leader = leader
        self._direct = direct
        self._numbers = itertools.count()

    async def fill(self, keys: list[str]) -> None:
        """Have something stand under each of the keys."""
        for key in keys:
            await self._leader.put(key, BODY)
            await self._direct.put(key, BODY)

    async def get(self, key: str) -> None:
        """Read from the leader."""
        await self._leader.get(key)

    async def get_direct(self, key: str) -> None:
        """Read from whichever copy answers."""
        await self._direct.get(key)

    async def put(self, key: str) -> None:
        """Write, whatever stands there."""
        await self._leader.put(key, BODY)

    async def lock(self) -> None:
        """Create a key that nobody had, and delete it: two requests. One that was deleted before takes four."""
        key = f"lock-{id(self)}-{next(self._numbers)}"
        await self._leader.create(key, b"mine")
        await self._leader.delete(key)

    async def watch(self, count: int, begun: asyncio.Event) -> list[tuple[str, float]]:
        """Follow the bucket until so many changes were seen; each value, and when it was seen."""
        watcher = await self._leader.watch("watched", include_history=False)
        found: list[tuple[str, float]] = []
        async for update in watcher:
            if update is None:
                begun.set()  # what stood there has been told
            elif begun.is_set() and update.value:
                found.append((update.value.decode(), time.monotonic()))
                if len(found) == count:
                    break
        await watcher.stop()
        return found

    async def tell(self, value: str) -> None:
        """Change what is watched."""
        await self._leader.put("watched", value.encode())


@asynccontextmanager
async def plain_kv(url: str) -> AsyncIterator[PlainKv]:
    """A connected client. The buckets are made where they are not there."""
    settings = Settings.from_env()
    client = await nats.connect(url)
    jetstream = client.jetstream()

    async def bucket(name: str, *, direct: bool) -> KeyValue:
        try:
            return await jetstream.key_value(name)
        except NotFoundError:
            config = KeyValueConfig(
                bucket=name,
                history=settings.memory_history,
                storage=StorageType.FILE,
                max_bytes=settings.memory_max_bytes,
                direct=direct,
            )
            return await jetstream.create_key_value(config)

    try:
        yield PlainKv(await bucket(_PLAIN, direct=False), await bucket(_DIRECT, direct=True))
    finally:
        await client.close()
