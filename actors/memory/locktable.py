"""The table of locks of one tree: who holds one, who waits for one, in which order. Pure: no clock, no server.

Two locks exclude each other by the standard matrix of multiple granularity locking. On one key their modes meet; of two
keys of which one is above the other, the mode of the upper meets the intent that the lower implies there; any others
have nothing to do with each other. The locks of one owner never exclude each other.

Nobody overtakes whom he would exclude, so a stream of shared locks does not starve an exclusive one. Only who holds a
lock already goes before those that wait for him: behind them he would wait for himself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from actors.memory.model import Mode
from bus import codec
from bus.errors import DecodeError
from bus.messages import MSGPACK

CODES: Final = {
    Mode.INTENT_SHARED: "IS",
    Mode.INTENT_EXCLUSIVE: "IX",
    Mode.SHARED: "S",
    Mode.EXCLUSIVE: "X",
}
"""The modes as they stand in a table."""
MODES: Final = {code: mode for mode, code in CODES.items()}
_EXCLUDES: Final = {
    "IS": frozenset({"X"}),
    "IX": frozenset({"S", "X"}),
    "S": frozenset({"IX", "X"}),
    "X": frozenset({"IS", "IX", "S", "X"}),
}
_INTENT: Final = {"IS": "IS", "IX": "IX", "S": "IS", "X": "IX"}
"""What a lock means to those above it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A lock that is held or waited for."""

    id: str
    session: str
    owner: str
    """Begins with the session."""
    key: str
    code: str
    """Its mode, as in `CODES`."""
    since: float
    """Unix seconds, by the clock of whoever put it where it stands."""
    number: int = 0
    """The revision of the write that put it where it stands: the fencing token of a lock that is held, the place of one
    that is waited for. 0: the write that it stands in."""
    more: tuple[Any, ...] = ()
    """What a later version has written of it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One that is to wait no more, until he has seen it."""

    id: str
    session: str
    circle: str
    """Why his wait would never have ended."""
    more: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All locks of one tree. Waiters stand in the order in which they came."""

    holders: tuple[Claim, ...] = ()
    waiters: tuple[Claim, ...] = ()
    refused: tuple[Refusal, ...] = ()
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

    def knows(self, id_: str) -> bool:
        """Whether anything stands in it under an id."""
        return any(one.id == id_ for part in (self.holders, self.waiters, self.refused) for one in part)


EMPTY: Final = Table()


# --- who excludes whom ----------------------------------------------------------------------------------------


def covers(upper: str, key: str) -> bool:
    """Whether a key is another, or under it."""
    return key == upper or key.startswith(upper + "/")


def conflict(one: Claim, other: Claim) -> bool:
    """Whether two locks exclude each other."""
    if one.owner == other.owner:
        return False
    above, below = one.key, other.key
    if above == below:
        return other.code in _EXCLUDES[one.code]
    if below.startswith(above + "/"):
        return _INTENT[other.code] in _EXCLUDES[one.code]
    if above.startswith(below + "/"):
        return _INTENT[one.code] in _EXCLUDES[other.code]
    return False


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
        if one.key == claim.key and _EXCLUDES[one.code] >= _EXCLUDES[claim.code] and one.owner not in holding:
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
    """Have it held, or if it cannot be, and `queue`, waited for. What stands there already, under its id, stands."""
    if table.knows(claim.id):
        return table
    if next(_blockers(claim, table.holders, table.waiters), None) is None:
        return dataclasses.replace(table, holders=(*table.holders, claim))
    return dataclasses.replace(table, waiters=(*table.waiters, claim)) if queue else table


def release(table: Table, id_: str, now: float) -> Table:
    """Have it neither held nor waited for, and whoever may go on hold his."""
    return _without(table, lambda one: one.id == id_, now)


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
    if table.empty and not table.more:
        return b""
    document: dict[str, Any] = {**table.more}
    for name, claims in (("h", table.holders), ("w", table.waiters)):
        if claims:
            document[name] = [_packed(one) for one in claims]
    if table.refused:
        document["r"] = [[one.id, one.session, one.circle, *one.more] for one in table.refused]
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
        more = {name: value for name, value in document.items() if name not in ("h", "w", "r")}
        return Table(
            tuple(_claim(one, revision) for one in document.get("h", ())),
            tuple(_claim(one, revision) for one in document.get("w", ())),
            tuple(Refusal(one[0], one[1], one[2], tuple(one[3:])) for one in document.get("r", ())),
            more,
        )
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise DecodeError(subject, f"no table of locks: {error!r:.200}") from error


def _claim(raw: list[Any], revision: int) -> Claim:
    id_, session, owner, key, code, since, number, *more = raw
    _ = MODES[code]
    return Claim(id_, session, session + owner, key, code, float(since), int(number) or revision, tuple(more))
