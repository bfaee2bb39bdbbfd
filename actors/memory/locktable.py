"""The table of locks of one tree: who holds one, who waits for one, in which order. Pure: no clock, no server.

Nobody overtakes whom he would exclude, so a stream of shared locks does not starve an exclusive one. Only who holds a
lock already goes before those that wait for him: behind them he would wait for himself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from actors.memory.claims import CODES, MODES, Claim, conflict, covers, outdoes
from bus import codec
from bus.errors import DecodeError
from bus.messages import MSGPACK

__all__ = [
    "CODES",
    "EMPTY",
    "MARKED",
    "MODES",
    "MOST",
    "Claim",
    "Mark",
    "Refusal",
    "Table",
    "blockers",
    "conflict",
    "covers",
    "decode",
    "encode",
    "evict",
    "full",
    "moved",
    "nearest",
    "promote",
    "refuse",
    "release",
    "request",
    "settled",
    "swept",
]

MARKED: Final = 15.0
"""Seconds for which it is known that a lock was given up: as long as a request for it may be under way, and more."""
_MARKS: Final = 512
MOST: Final = 500
"""Locks that are held or waited for in one table, and of one session half of them: each change looks at all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One that is to wait no more, until he has seen it."""

    id: str
    session: str
    circle: str
    """Why his wait would never have ended."""
    more: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """That a lock was given up while a request for it might have been under way, which is to find that."""

    id: str
    at: float
    """Unix seconds, by the clock of whoever gave it up."""
    more: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All locks of one tree. Waiters stand in the order in which they came."""

    holders: tuple[Claim, ...] = ()
    waiters: tuple[Claim, ...] = ()
    refused: tuple[Refusal, ...] = ()
    marks: tuple[Mark, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    """What a later version has written."""

    @property
    def empty(self) -> bool:
        """Whether nobody holds, waits, or is to be told something."""
        return not (self.holders or self.waiters or self.refused)

    @property
    def sessions(self) -> set[str]:
        """Of all that stand in it."""
        return {one.session for part in (self.holders, self.waiters, self.refused) for one in part}

    def holder(self, id_: str) -> Claim | None:
        """The lock that is held under an id."""
        return next((one for one in self.holders if one.id == id_), None)

    def waiter(self, id_: str) -> Claim | None:
        """The lock that is waited for under an id."""
        return next((one for one in self.waiters if one.id == id_), None)

    def refusal(self, id_: str) -> Refusal | None:
        """What is to be told to whom waited under an id."""
        return next((one for one in self.refused if one.id == id_), None)

    def marked(self, id_: str) -> bool:
        """Whether a lock was given up, and is nobody's any more."""
        return any(one.id == id_ for one in self.marks)

    def knows(self, id_: str) -> bool:
        """Whether anything stands in it under an id."""
        return any(one.id == id_ for part in (self.holders, self.waiters, self.refused) for one in part)


EMPTY: Final = Table()


# --- who is in whose way ----------------------------------------------------------------------------------------


def blockers(table: Table, claim: Claim) -> list[Claim]:
    """Those that a lock waits for, or would: who holds what it excludes, and those before it that it excludes."""
    return list(_blockers(claim, table.holders, list(_before(table.waiters, claim.id))))


def nearest(table: Table, claim: Claim) -> list[Claim]:
    """As many of those that a waiter waits for as it takes to find all that it waits for at first or second hand.

    Beyond one that excludes on the same key all that this one excludes, and whose owner holds nothing that others could
    wait for, all that is in its way is in the way of that one, too.
    """
    holding = {one.owner for one in table.holders}
    if claim.owner in holding:
        return blockers(table, claim)
    found = []
    for one in reversed(list(_before(table.waiters, claim.id))):
        if not conflict(claim, one):
            continue
        found.append(one)
        if outdoes(one, claim) and one.owner not in holding:
            return found
    return found + [one for one in table.holders if conflict(claim, one)]


def _before(waiters: Sequence[Claim], id_: str) -> Iterator[Claim]:
    for one in waiters:
        if one.id == id_:
            return
        yield one


def _blockers(claim: Claim, holders: Iterable[Claim], ahead: Sequence[Claim]) -> Iterator[Claim]:
    mine = []
    for one in holders:
        if conflict(claim, one):
            yield one
        elif one.owner == claim.owner:
            mine.append(one)
    contenders = (one for one in ahead if conflict(claim, one))
    if mine:
        for_me = _waiting_for(mine, ahead)
        contenders = (one for one in contenders if one.id not in for_me)
    yield from contenders


def _waiting_for(mine: Iterable[Claim], ahead: Iterable[Claim]) -> set[str]:
    """The ids of those that go on only when one of these locks is given up, at first or second hand."""
    found = list(mine)
    ids = set()
    for one in ahead:
        if any(conflict(one, other) for other in found):
            found.append(one)
            ids.add(one.id)
    return ids


# --- what becomes of a table; the same table, and no other like it, where nothing does --------------------------


def request(table: Table, claim: Claim, *, queue: bool = True) -> Table:
    """Have it held, or if it cannot be, and `queue`, waited for. What stands there already, under its id, stands; what
    was given up stays so, and a full table takes nothing more.
    """
    if table.knows(claim.id) or table.marked(claim.id) or full(table, claim):
        return table
    if next(_blockers(claim, table.holders, table.waiters), None) is None:
        return dataclasses.replace(table, holders=(*table.holders, claim))
    return dataclasses.replace(table, waiters=(*table.waiters, claim)) if queue else table


def full(table: Table, claim: Claim) -> bool:
    """Whether a table has no room for one more."""
    claims = (*table.holders, *table.waiters)
    return len(claims) >= MOST or sum(one.session == claim.session for one in claims) >= MOST // 2


def release(table: Table, id_: str, now: float, *, mark: bool = False) -> Table:
    """Have it neither held nor waited for, and whoever may go on hold his. With `mark` that stays known for a while."""
    left = _without(table, lambda one: one.id == id_, now)
    if mark and not left.marked(id_):
        left = dataclasses.replace(left, marks=(*left.marks[1 - _MARKS :], Mark(id_, now)))
    return left


def swept(table: Table, now: float) -> Table:
    """The table without the marks that no request can find any more."""
    marks = tuple(one for one in table.marks if now - one.at < MARKED)
    return table if len(marks) == len(table.marks) else dataclasses.replace(table, marks=marks)


def evict(table: Table, sessions: Iterable[str], now: float) -> Table:
    """The same with all that sessions have."""
    gone = frozenset(sessions)
    return _without(table, lambda one: one.session in gone, now)


def refuse(table: Table, id_: str, circle: str, now: float) -> Table:
    """Have it waited for no more; it is left to be told to him."""
    waiter = table.waiter(id_)
    if waiter is None:
        return table
    left = tuple(one for one in table.waiters if one is not waiter)
    refused = (*table.refused, Refusal(id_, waiter.session, circle))
    return promote(dataclasses.replace(table, waiters=left, refused=refused), now)


def _without(table: Table, gone: Any, now: float) -> Table:
    holders = tuple(one for one in table.holders if not gone(one))
    waiters = tuple(one for one in table.waiters if not gone(one))
    refused = tuple(one for one in table.refused if not gone(one))
    left = dataclasses.replace(table, holders=holders, waiters=waiters, refused=refused)
    return table if left == table else promote(left, now)


def promote(table: Table, now: float) -> Table:
    """Have everybody hold his lock who may."""
    holders, waiters = list(table.holders), table.waiters
    while True:
        left: list[Claim] = []
        for one in waiters:
            if next(_blockers(one, holders, left), None) is None:
                holders.append(dataclasses.replace(one, number=0, since=now))
            else:
                left.append(one)
        if len(left) == len(waiters):
            break
        waiters = tuple(left)  # an owner that now holds something may go before those that wait for him
    if len(waiters) == len(table.waiters):
        return table
    return dataclasses.replace(table, holders=tuple(holders), waiters=waiters)


def settled(table: Table, revision: int) -> Table:
    """The table as whoever reads it has it, once it was written as this revision."""
    if not any(one.number == 0 for part in (table.holders, table.waiters) for one in part):
        return table
    holders, waiters = (
        tuple(one if one.number else dataclasses.replace(one, number=revision) for one in part)
        for part in (table.holders, table.waiters)
    )
    return dataclasses.replace(table, holders=holders, waiters=waiters)


def moved(before: Table, after: Table) -> set[str]:
    """The ids of those that waited and wait no more."""
    return {one.id for one in before.waiters} - {one.id for one in after.waiters}


# --- as it stands in the bucket ---------------------------------------------------------------------------------


def encode(table: Table) -> bytes:
    """As msgpack, with lists for claims: those of many contenders travel with every change. Empty: nothing at all."""
    if table.empty and not table.marks and not table.more:
        return b""
    document: dict[str, Any] = {**table.more}
    for name, claims in (("h", table.holders), ("w", table.waiters)):
        if claims:
            document[name] = [_packed(one) for one in claims]
    if table.refused:
        document["r"] = [[one.id, one.session, one.circle, *one.more] for one in table.refused]
    if table.marks:
        document["g"] = [[one.id, one.at, *one.more] for one in table.marks]
    return codec.encode(document)


def _packed(one: Claim) -> list[Any]:
    owner = one.owner.removeprefix(one.session)
    return [one.id, one.session, owner, one.key, one.code, one.since, one.number, *one.more]


def decode(body: bytes, revision: int, *, subject: str = "") -> Table:
    """The table that was written as a revision.

    Raises:
        DecodeError: it is none.
    """
    if not body:
        return EMPTY
    document = codec.decode(body, MSGPACK, subject=subject)
    try:
        more = {name: value for name, value in document.items() if name not in ("h", "w", "r", "g")}
        return Table(
            tuple(_claim(one, revision) for one in document.get("h", ())),
            tuple(_claim(one, revision) for one in document.get("w", ())),
            tuple(Refusal(one[0], one[1], one[2], tuple(one[3:])) for one in document.get("r", ())),
            tuple(Mark(one[0], float(one[1]), tuple(one[2:])) for one in document.get("g", ())),
            more,
        )
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise DecodeError(subject, f"no table of locks: {error!r:.200}") from error


def _claim(raw: list[Any], revision: int) -> Claim:
    id_, session, owner, key, code, since, number, *more = raw
    _ = MODES[code]
    return Claim(id_, session, session + owner, key, code, float(since), int(number) or revision, tuple(more))
