"""The tables of locks that one process has to do with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from actors.memory.tree import Tree
from bus.connection import Connection

log = logging.getLogger(__name__)

_KEPT: Final = 256
"""Tables that are remembered, so that who comes again need not read first."""


class Trees:
    """Each of them once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._trees: dict[str, Tree] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        connection.on_reconnect(self._back)

    def get(self, key: str) -> Tree:
        """A table, by its key in the bucket."""
        tree = self._trees.pop(key, None) or Tree(self._connection, key, self._spawn)
        self._trees[key] = tree  # the one that was used last stands last
        if len(self._trees) > _KEPT:
            for old in list(self._trees.values())[: len(self._trees) - _KEPT]:
                if old.idle and old is not tree:
                    del self._trees[old.key]
        return tree

    async def close(self) -> None:
        """Follow nothing more."""
        self._connection.forget(self._back)
        for tree in self._trees.values():
            tree.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _back(self) -> None:
        for tree in self._trees.values():
            tree.broken()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a table of locks is not left as it should be: %s", error, exc_info=error)
