"""What a running handler's submits know of the task that it does: whose children they are, and which of them.

A child that nobody named gets an id that its parent's attempt determines, so that an attempt which is begun anew after
a death submits no child twice. Must not know how tasks are sent (`bus.tasks`).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bus.budgets import Budget
from bus.errors import DecodeError, TooDeepError, TooManyChildrenError
from bus.messages import CHILDREN
from bus.pending import Nothing
from bus.wallet import Wallet

_UNREADABLE: Final = 1_000_000
"""The depth of a task whose header makes no sense: it has no children."""
_SHORT: Final = 4
"""Bytes of a key by which is counted: all that a handler may submit fits in one header. Two that are equal by chance
count as one; only their order matters then.
"""


class Child(NamedTuple):
    """Which child of its parent's attempt: the `ordinal`-th that says the same; `key` stands for what it says."""

    key: bytes
    ordinal: int


@dataclass(slots=True)
class Family:
    """What a running handler's submits know of it: its task is the parent of theirs."""

    parent: str
    """Its full name, `<client>.<capability>.<task id>`."""
    deadline: float = math.inf
    """Unix seconds: no child lives longer."""
    depth: int = 0
    """How many generations there are above it."""
    attempt: int = 1
    named: bool = False
    """Whether somebody chose its id: then an earlier task may have had it, and children of the same ids."""
    again: bool = False
    """Whether this attempt may have been run before, by a process that died: its children are looked for."""
    children: int = 0
    """How many this run has submitted."""
    sent: bool = False
    """Whether it has tried to."""
    wallet: Wallet | None = None
    """The budgets that count for it, and for all that it submits."""
    standing: dict[str, int] | None = None
    """Where children of an earlier run stand in TASKS, by capability and task id; None: nobody has looked."""
    _next: dict[bytes, int] = field(default_factory=dict)
    _free: dict[bytes, list[int]] = field(default_factory=dict)

    def check(self, max_depth: int, max_children: int) -> None:
        """See that it may have one child more.

        Raises:
            TooDeepError, TooManyChildrenError: it may not.
        """
        if self.depth >= max_depth:
            raise TooDeepError(self.parent, self.depth + 1, max_depth)
        if self.children >= max_children:
            raise TooManyChildrenError(self.parent, max_children)

    def name(self, capability: str, work: str, body: bytes, secret: bytes) -> tuple[str, Child, bool]:
        """The task id of a child that nobody named, which child it is, and whether no task can have had this id.

        The same in every run of the attempt, as long as the handler submits the same; who does not know the secret
        cannot tell.
        """
        content = hashlib.blake2b(f"{capability} {work} ".encode(), digest_size=16)
        content.update(body)
        key = content.digest()
        free, short = self._free.get(key), key[:_SHORT]
        if free:
            ordinal, new = free.pop(0), False
        else:
            ordinal, new = self._next.get(short, 0), not (self.again or self.named)
            self._next[short] = ordinal + 1
        text = f"{self.parent} {self.attempt} {ordinal} ".encode()
        task_id = hashlib.blake2b(text + key, digest_size=16, key=secret).hexdigest()
        return task_id, Child(key, ordinal), new

    def so_far(self) -> str:
        """How often it has said what so far: `<times>:<keys>`, one after the other; empty: nothing. It is kept with
        what the handler saves, for a run that goes on from there.
        """
        keys: dict[int, bytearray] = {}
        for short, times in self._next.items():
            keys.setdefault(times, bytearray()).extend(short)
        return " ".join(f"{times}:{base64.b64encode(some).decode()}" for times, some in keys.items())

    def go_on(self, so_far: str) -> None:
        """From now on it says what comes after that; whatever it has said already was said by the run before, too.

        Raises:
            DecodeError: it makes no sense.
        """
        try:
            for part in so_far.split():
                times, _, encoded = part.partition(":")
                keys = base64.b64decode(encoded, validate=True)
                for start in range(0, len(keys), _SHORT):
                    short = keys[start : start + _SHORT]
                    self._next[short] = max(self._next.get(short, 0), int(times))
        except ValueError as error:
            raise DecodeError(f"the checkpoint of {self.parent}", f"header {CHILDREN}: {error}") from error

    def add(self) -> None:
        """One more is sent."""
        self.children += 1
        self.sent = True

    def lost(self, child: Child | None) -> None:
        """One that was counted could not be stored, or nobody knows: who submits the same again means the same."""
        self.children -= 1
        if child is not None:
            self._free.setdefault(child.key, []).append(child.ordinal)


FAMILY: ContextVar[Family | None] = ContextVar("revo_family", default=None)
"""Set where a handler runs."""


def depth_of(said: str | None) -> int:
    """How deep a task stands, by its header; what makes no sense is as deep as can be."""
    if said is None:
        return 0
    return int(said) if said.isascii() and said.isdigit() and len(said) <= 6 else _UNREADABLE


def spend(*, tokens: int = 0, money: float = 0.0) -> Awaitable[None]:
    """Count what the handler that runs here has spent; see `actors.actor.TaskContext.spend`."""
    family = FAMILY.get()
    if family is None or family.wallet is None:
        Budget(tokens, money).check("spend")
        return Nothing()
    return family.wallet.spend(tokens=tokens, money=money)


async def left() -> Budget | None:
    """What the handler that runs here, and all that it submits, may still spend; None: as much as they like."""
    family = FAMILY.get()
    return None if family is None or family.wallet is None else await family.wallet.left()
