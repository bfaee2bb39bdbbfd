"""Asking an actor's HTTP port, as a kubelet or Prometheus does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.error
import urllib.request
from typing import cast

from tests.eventually import in_time


async def get(port: int, path: str, accept: str = "*/*", *, patience: float = 10.0) -> tuple[int, str]:
    """Status and body.

    Raises:
        TimeoutError: no answer within `patience` seconds.
    """

    def ask() -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=patience) as reply:  # noqa: S310  (the URL is ours)
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def ready(port: int) -> bool:
    """Whether `/readyz` says so."""
    return (await get(port, "/readyz"))[0] == 200


async def samples(port: int) -> dict[str, float]:
    """What `/metrics` shows, by name and labels as they stand there."""
    _, text = await get(port, "/metrics")
    found = re.findall(r"^([a-z_]+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in cast("list[tuple[str, str]]", found)}


async def talk(port: int, *said: bytes) -> bytes:
    """What comes back for these bytes, until the other side closes or says nothing for half a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    try:
        for part in said:
            writer.write(part)
            await writer.drain()
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := await in_time(reader.read(65536), 0.5):
                heard += data
        return heard
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
