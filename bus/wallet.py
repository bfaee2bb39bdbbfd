"""Spends what a family of tasks may, as one run of a task does, and has a steward stop the family when all is spent."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from bus import jetstream, stewards, subjects
from bus.budgets import Budget, Purse, shown
from bus.connection import Connection
from bus.errors import BusError, TransportError
from bus.messages import MSG_ID
from bus.pending import Pending, block, runs_here
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

INCR: Final = "Nats-Incr"


class _Spending:
    """Something that is being spent, whether it is awaited or not."""

    __slots__ = ("amounts", "id", "pending", "task")

    def __init__(self, amounts: Mapping[str, int]) -> None:
        self.amounts = amounts
        self.id = secrets.token_hex(16)
        self.pending = Pending()
        self.task: asyncio.Task[None] | None = None

    @property
    def untold(self) -> BaseException | None:
        """Its error, if nobody was told."""
        return None if self.pending.seen else self.pending.error


class Wallet:
    """The budgets that count for one run of a task."""

    def __init__(self, connection: Connection, telemetry: Telemetry, purses: tuple[Purse, ...]) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self.purses = purses
        self._loop = asyncio.get_running_loop()
        self._spendings: set[_Spending] = set()
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._charged: set[str] = set()

    def spend(self, *, tokens: int = 0, money: float = 0.0) -> Awaitable[None]:
        """Spend so much; see `actors.actor.TaskContext.spend`."""
        budget = Budget(tokens, money)
        budget.check("spend")
        amounts = {unit: amount for unit, amount in budget.amounts.items() if amount}
        if not runs_here(self._loop):  # in the thread of a plain handler
            return block(self._loop, self._add(amounts, _counted_once(secrets.token_hex(16))))
        spending = _Spending(amounts)
        self._spendings.add(spending)
        self._begin(spending)
        return spending.pending

    def _begin(self, spending: _Spending) -> None:
        spending.task = self._loop.create_task(self._carry_out(spending))

    async def _carry_out(self, spending: _Spending) -> None:
        try:
            await self._add(spending.amounts, _counted_once(spending.id))
        except Exception as error:  # noqa: BLE001  (it is the error of who awaits it, or of the handler)
            spending.pending.fail(error)
        else:
            spending.pending.succeed()
            self._spendings.discard(spending)

    async def charge(self, name: str) -> None:
        """Count a child, by its full name, before it is sent; the same child again counts once.

        Raises:
            BudgetExceededError: there may be no more.
            TransportError: nobody knows whether it was counted; it must not be sent.
        """
        if name in self._charged:
            return
        await self._add({"tasks": 1}, lambda purse, unit: f"{purse.id}.{unit}.{name}")
        self._charged.add(name)

    async def _add(self, amounts: Mapping[str, int], msg_id: Callable[[Purse, str], str]) -> None:
        """Add to all counters at once, and then see whether anything is used up.

        Raises:
            BudgetExceededError: it is; what was to be spent is spent.
        """
        wanted = [(purse, unit) for purse in self.purses for unit in amounts if unit in purse.limits]
        adding = (self._count(purse, unit, amounts[unit], msg_id(purse, unit)) for purse, unit in wanted)
        totals = await asyncio.gather(*adding)
        for (purse, unit), total in zip(wanted, totals, strict=True):
            exceeded = purse.exceeded({unit: total})
            if exceeded is not None:
                self._tell(purse)
                raise exceeded

    async def _count(self, purse: Purse, unit: str, amount: int, msg_id: str) -> int:
        """Add to one counter and return what it says then."""
        subject = subjects.spent(purse.id, unit)
        headers = {INCR: f"+{amount}", MSG_ID: msg_id} if msg_id else {INCR: "+0"}
        stored = await jetstream.store(self._connection, subject, b"", headers)
        if stored.total is None:  # the server has counted it before, and does not say what came of it
            return await self._count(purse, unit, 0, "")
        return stored.total

    async def left(self) -> Budget:
        """What is left of each unit, by whichever budget has least of it, after all that was spent here so far.

        Raises:
            TransportError: nobody says.
        """
        if runs_here(self._loop):
            return await self._left()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._left(), self._loop))

    async def _left(self) -> Budget:
        await self._ended()
        wanted = [(purse, unit) for purse in self.purses for unit in purse.limits]
        totals = await asyncio.gather(*(self._count(purse, unit, 0, "") for purse, unit in wanted))
        left: dict[str, int] = {}
        for (purse, unit), total in zip(wanted, totals, strict=True):
            amount = max(0, purse.limits[unit] - total)
            left[unit] = min(left.get(unit, amount), amount)
        money = left.get("money")
        return Budget(left.get("tokens"), None if money is None else shown("money", int(money)), left.get("tasks"))

    def _tell(self, purse: Purse) -> None:
        """Have a steward stop the family, beside. Whatever is spent, or submitted, after this tells again."""
        if purse.id not in self._telling:
            self._telling[purse.id] = self._loop.create_task(self._told(purse))

    async def _told(self, purse: Purse) -> None:
        message = {"budget": purse.id, "root": purse.root}
        try:
            await stewards.ask(self._connection, self._telemetry, "overspent", message)
        except BusError as error:
            log.warning("the family of %s has used up its budget and may run on: %s", purse.root, error)
        finally:
            del self._telling[purse.id]

    async def _ended(self) -> None:
        """Return when nothing is being spent any more."""
        while tasks := [one.task for one in self._spendings if one.task is not None and not one.task.done()]:
            await asyncio.wait(tasks)

    async def settle(self) -> None:
        """Return when all that the handler spends is spent. What could not be, and nobody was told, is tried again.

        Raises:
            BudgetExceededError: one is used up, and nobody was told.
            TransportError: something could not be counted; call it again, and it counts once.
        """
        for one in self._spendings:
            if isinstance(one.untold, TransportError):
                self._begin(one)
        await self._ended()
        for one in list(self._spendings):
            error = one.untold
            if not isinstance(error, TransportError):
                self._spendings.discard(one)
            if error is not None:
                raise error

    async def close(self) -> None:
        """Return when all is counted that can be, and a steward has been told what there is to tell."""
        await self._ended()
        for one in self._spendings:
            if (error := one.untold) is not None:
                log.warning("%s", error)
        self._spendings.clear()
        if self._telling:
            await asyncio.wait(list(self._telling.values()))


def _counted_once(spending_id: str) -> Callable[[Purse, str], str]:
    return lambda purse, unit: f"{purse.id}.{unit}.{spending_id}"
