"""All tables of locks as a keeper has heard of them: whose sessions stand in which, and who waits for whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from actors.memory import locktable
from actors.memory.deadlock import Wait
from actors.memory.locktable import EMPTY, Claim, Table


class Overview:
    """The tables, by their keys in the bucket."""

    def __init__(self) -> None:
        self.tables: Final[dict[str, Table]] = {}
        """Those that are not empty."""
        self.of_session: Final[defaultdict[str, set[str]]] = defaultdict(set)
        """The tables that a session stands in."""
        self._holding: defaultdict[str, set[str]] = defaultdict(set)
        self._waiting: defaultdict[str, set[str]] = defaultdict(set)
        """Tables, by owner."""
        self.held = 0
        """Locks that are held."""
        self.waiting = 0
        """Locks that are waited for."""

    def take(self, key: str, table: Table) -> None:
        """A table is so from now on."""
        before = self.tables.pop(key, EMPTY)
        if not table.empty:
            self.tables[key] = table
        self.held += len(table.holders) - len(before.holders)
        self.waiting += len(table.waiters) - len(before.waiters)
        for index, old, new in (
            (self.of_session, before.sessions, table.sessions),
            (self._holding, owners(before.holders), owners(table.holders)),
            (self._waiting, owners(before.waiters), owners(table.waiters)),
        ):
            for one in old - new:
                index[one].discard(key)
                if not index[one]:
                    del index[one]
            for one in new - old:
                index[one].add(key)

    def forget(self) -> None:
        """Nothing is known any more."""
        for key in [*self.tables]:
            self.take(key, EMPTY)

    def suspects(self, keys: Iterable[str]) -> list[str]:
        """Owners in these tables that hold something and wait for something: one of them is in every circle."""
        found: set[str] = set()
        for key in keys:
            table = self.tables.get(key, EMPTY)
            found |= owners(table.holders) | owners(table.waiters)
        return sorted(one for one in found if one in self._holding and one in self._waiting)

    def waits(self, owner: str) -> list[Wait]:
        """What an owner waits for, and for whom in it; whoever those wait for in the same table may be left out."""
        return [
            Wait(owner, key, one.id, one.number, frozenset(owners(locktable.nearest(self.tables[key], one))))
            for key in self._waiting.get(owner, ())
            for one in self.tables[key].waiters
            if one.owner == owner
        ]


def owners(claims: Iterable[Claim]) -> set[str]:
    """Whose they are."""
    return {one.owner for one in claims}
