"""Placeholder until the real one comes."""

from __future__ import annotations

import asyncio

from bus.connection import Connection


class Sweeper:
    def __init__(self, connection: Connection) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()
