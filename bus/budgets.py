"""What a family of tasks may spend, and what it has spent: counters of the server, one for each budget and unit.

A budget rides in a header to every task of the family. Must not know what a family is (`bus.family`).
"""

from __future__ import annotations

import functools
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import BudgetExceededError, ConfigError, DecodeError
from bus.messages import BUDGET

MOST: Final = 8
"""Budgets that count for one task, one within another."""
_MILLION: Final = 1_000_000
"""Money is counted in millionths, for counters are whole numbers."""
_LIMIT: Final = 10**15
UNITS: Final = ("tokens", "money", "tasks")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\.@?[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,64}\Z")
_AMOUNT: Final = re.compile(r"(\d{1,16})(?:\.(\d{1,6}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a task and all that descends from it may spend together, or has left. None: as much as it likes.

    `tokens` and `money` are what its handlers say by `TaskContext.spend`, `tasks` counts those that they submit.
    """

    tokens: int | None = None
    money: float | None = None
    """In any currency, to a millionth."""
    tasks: int | None = None

    def check(self, what: str = "budget") -> None:
        """See that it makes sense.

        Raises:
            ConfigError: a limit is no number, or there is none.
        """
        for unit in ("tokens", "tasks"):
            value = getattr(self, unit)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and 0 <= value <= _LIMIT):
                raise ConfigError(f"{what}: {unit}", f"{value!r} is not a whole number, 0 or more")
        _millionths(f"{what}: money", self.money)
        if self.tokens is None and self.money is None and self.tasks is None:
            raise ConfigError(what, "limits nothing; give tokens, money or tasks")

    @property
    def amounts(self) -> dict[str, int]:
        """What is limited, as it is counted."""
        found = {"tokens": self.tokens, "money": _millionths("budget: money", self.money), "tasks": self.tasks}
        return {unit: amount for unit, amount in found.items() if amount is not None}


def _millionths(what: str, money: float | None) -> int | None:
    if money is None:
        return None
    number = isinstance(money, int | float) and not isinstance(money, bool)
    if not (number and math.isfinite(money) and 0 <= money * _MILLION <= _LIMIT):
        raise ConfigError(what, f"{money!r} is not an amount of money, 0 or more")
    return round(money * _MILLION)


def shown(unit: str, amount: int) -> float:
    """An amount as its user counts it."""
    return amount / _MILLION if unit == "money" else amount


class Purse(NamedTuple):
    """A budget as it rides along: the id of its counters, the full name of the task it was given to, its limits."""

    id: str
    root: str
    limits: Mapping[str, int]

    def exceeded(self, spent: Mapping[str, int]) -> BudgetExceededError | None:
        """What is used up, if anything is."""
        for unit, limit in self.limits.items():
            if spent.get(unit, 0) > limit:
                return BudgetExceededError(unit, shown(unit, limit), shown(unit, spent[unit]))
        return None

    def __str__(self) -> str:
        limits = (f"{unit}={_text(unit, limit)}" for unit, limit in self.limits.items())
        return ";".join((self.id, self.root, *limits))


def _text(unit: str, amount: int) -> str:
    return f"{amount // _MILLION}.{amount % _MILLION:06}" if unit == "money" else str(amount)


def check(outer: tuple[Purse, ...], budget: Budget | None) -> None:
    """See that a task may have a budget of its own besides those of whoever submits it.

    Raises:
        ConfigError: its own cannot be used, or there are too many.
    """
    if budget is None:
        return
    if not isinstance(budget, Budget):
        raise ConfigError("budget", f"{budget!r:.80} is none; write Budget(tokens=...)")
    budget.check()
    if len(outer) >= MOST:
        raise ConfigError("budget", f"{MOST} count for this task already, one within another; give it none")


def opened(outer: tuple[Purse, ...], budget: Budget | None, root: str) -> tuple[Purse, ...]:
    """The budgets that count for a task: those of whoever submits it, and its own. Raises as `check`."""
    if budget is None:
        return outer
    check(outer, budget)
    return (*outer, Purse(secrets.token_hex(16), root, budget.amounts))


def write(purses: tuple[Purse, ...]) -> str:
    """They as they stand in a header."""
    return " ".join(map(str, purses))


def read(headers: Mapping[str, str], subject: str) -> tuple[Purse, ...]:
    """The budgets that count for a task.

    Raises:
        DecodeError: its header makes no sense.
    """
    said = headers.get(BUDGET)
    if said is None:
        return ()
    return _read(said, subject)


@functools.lru_cache(maxsize=256)
def _read(said: str, subject: str) -> tuple[Purse, ...]:
    purses = tuple(_purse(one) for one in said.split(" "))
    found = tuple(purse for purse in purses if purse is not None)
    if len(found) < len(purses) or len(found) > MOST:
        raise DecodeError(subject, f"header {BUDGET}: {said!r:.80} is no budget")
    return found


def _purse(said: str) -> Purse | None:
    budget_id, *rest = said.split(";")
    if not subjects.is_token(budget_id) or len(rest) < 2 or not _NAME.match(rest[0]):
        return None
    limits: dict[str, int] = {}
    for field in rest[1:]:
        unit, _, amount = field.partition("=")
        match = _AMOUNT.match(amount)
        if unit not in UNITS or unit in limits or match is None or (match[2] and unit != "money"):
            return None
        fraction = int(f"{match[2] or '':0<6}")
        limits[unit] = int(match[1]) * _MILLION + fraction if unit == "money" else int(match[1])
    return Purse(budget_id, rest[0], limits)


def renewed(said: str, subject: str, old: str, new: str) -> str:
    """The budgets of a task that is submitted anew under another name: its own begins anew, those of the family that
    it was of stay as they are.
    """
    purses = read({BUDGET: said}, subject)
    return write(tuple(Purse(secrets.token_hex(16), new, one.limits) if one.root == old else one for one in purses))


async def spent(connection: Connection, budget_id: str) -> dict[str, int]:
    """What has been spent of a budget, as it is counted; for who may read the counters.

    Raises:
        TransportError: the server does not answer.
    """
    found: dict[str, int] = {}
    for unit in UNITS:
        stored = await jetstream.last(connection, subjects.BUDGETS, subjects.spent(budget_id, unit))
        if stored is not None:
            found[unit] = int(json.loads(stored.body)["val"])
    return found
