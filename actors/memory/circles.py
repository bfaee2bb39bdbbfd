"""Ends waits that would never end: of those that wait for each other the youngest is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable

from actors.memory import deadlock, locktable, tree
from actors.memory.deadlock import Wait
from actors.memory.locktable import MODES, Table
from actors.memory.overview import Overview, owners
from actors.memory.sessions import by_of
from actors.memory.trees import Trees
from bus.connection import Connection
from bus.errors import BusError

log = logging.getLogger(__name__)

Told = Callable[[str, str, str], None]
"""Hears of a wait that was ended: in which table, under which id, and the circle in words."""


class Circles:
    """Looks for circles in what a keeper has heard of, and for each in the tables themselves."""

    def __init__(self, connection: Connection, trees: Trees, overview: Overview, told: Told) -> None:
        self._connection = connection
        self._trees = trees
        self._overview = overview
        self._told = told

    async def end(self, changed: Iterable[str], dead: Collection[str]) -> set[str]:
        """End those that lead through tables that have changed; return those tables that have to be looked at again.

        Circles in which somebody is dead end by themselves: what he has is taken away.
        """
        left: set[str] = set()
        """The ids of those that have left a circle."""
        known: dict[str, list[Wait]] = {}
        again: set[str] = set()

        def waits(owner: str) -> list[Wait]:
            if owner not in known:
                known[owner] = self._overview.waits(owner)
            return [one for one in known[owner] if one.id not in left]

        for owner in self._overview.suspects(changed):
            await asyncio.sleep(0)  # where many wait one search takes long
            while circle := deadlock.circle(owner, waits):
                victim = deadlock.youngest(circle)
                left.add(victim.id)
                if any(_session(one.owner) in dead for one in circle):
                    continue
                try:
                    if await self._stands(circle):
                        await self._refuse(victim, circle)
                except BusError as error:
                    log.warning("a deadlock is ended late: %s", error)
                    again |= {one.table for one in circle}
        return again

    async def _stands(self, circle: list[Wait]) -> bool:
        """Whether a circle is one also by what stands in the tables now: we may have heard of that late."""
        keys = list({one.table for one in circle})
        found = await asyncio.gather(*(tree.read(self._connection, key) for key in keys))
        tables = {key: standing.table for key, standing in zip(keys, found, strict=True)}
        return all(_waits(tables[one.table], one, circle) for one in circle)

    async def _refuse(self, victim: Wait, circle: list[Wait]) -> None:
        words = "; ".join(self._words(one, victim.table) for one in circle)

        def alter(table: Table) -> Table:
            if not _waits(table, victim, circle):  # somebody has gone since we looked
                return table
            return locktable.refuse(table, victim.id, words, time.time())

        change = await self._trees.get(victim.table).change(alter)
        if change.after is not change.before:
            log.warning("deadlock: %s", words)
            self._told(victim.table, victim.id, words)

    def _words(self, wait: Wait, told_in: str) -> str:
        """Who waits for what; in another namespace than where it is told, keys are nobody's business."""
        table = self._overview.tables.get(wait.table, locktable.EMPTY)
        claim = table.waiter(wait.id)
        what = f"{claim.key} ({MODES[claim.code]})" if claim is not None else wait.table
        if namespace_of(wait.table) != namespace_of(told_in):
            what = f"a lock in namespace {namespace_of(wait.table)}"
        return f"{by_of(_session(wait.owner))} waits for {what}"


def _waits(table: Table, wait: Wait, circle: list[Wait]) -> bool:
    """Whether one in a circle waits for the next, by a table."""
    next_ = circle[(circle.index(wait) + 1) % len(circle)]
    waiter = table.waiter(wait.id)
    return waiter is not None and next_.owner in owners(locktable.blockers(table, waiter))


def _session(owner: str) -> str:
    return owner.rpartition(".")[0]


def namespace_of(table: str) -> str:
    """The namespace of a table, by its key in the bucket."""
    return table.split(".")[1]
