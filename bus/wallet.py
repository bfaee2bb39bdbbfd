"""Spends what a family of tasks may, as one run of a task does, and has a steward stop the family when all is spent."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, Final

from bus import jetstream, stewards, subjects
from bus.budgets import Budget, Purse, shown
from bus.connection import Connection
from bus.errors import BusError
from bus.messages import MSG_ID
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

INCR: Final = "Nats-Incr"


class Spending(Awaitable[None]):
    """Something that is being spent, whether it is awaited or not. Who awaits it is told what is wrong."""

    def __init__(self, task: asyncio.Task[None] | None) -> None:
        self._task = task
        self._awaited = False

    def __await__(self) -> Generator[Any, None, None]:
        self._awaited = True
        if self._task is not None:
            yield from asyncio.shield(self._task).__await__()

    @property
    def untold(self) -> BaseException | None:
        """Its error, if nobody was told."""
        if self._awaited or self._task is None or self._task.cancelled():
            return None
        return self._task.exception()

    async def ended(self) -> None:
        """Return when it is done, well or not."""
        if self._task is not None:
            await asyncio.wait((self._task,))


NOTHING: Final = Spending(None)


class Wallet:
    """The budgets that count for one run of a task."""

    def __init__(self, connection: Connection, telemetry: Telemetry, purses: tuple[Purse, ...]) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self.purses = purses
        self._loop = asyncio.get_running_loop()
        self._spendings: set[Spending] = set()
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._charged: set[str] = set()

    def spend(self, *, tokens: int = 0, money: float = 0.0) -> Spending:
        """Spend so much; see `actors.actor.TaskContext.spend`."""
        amounts = Budget(tokens, money)
        amounts.check("spend")
        spending = self._spend({unit: amount for unit, amount in amounts.amounts.items() if amount})
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # in the thread of a plain handler
            asyncio.run_coroutine_threadsafe(spending, self._loop).result()
            return NOTHING
        return self._keep(spending)

    def _keep(self, work: Coroutine[Any, Any, None]) -> Spending:
        task = self._loop.create_task(work)
        spending = Spending(task)
        self._spendings.add(spending)
        task.add_done_callback(lambda _: None if spending.untold else self._spendings.discard(spending))
        return spending

    async def _spend(self, amounts: Mapping[str, int]) -> None:
        spending_id = secrets.token_hex(16)
        await self._add(amounts, lambda purse, unit: f"{purse.id}.{unit}.{spending_id}")

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
        for spending in list(self._spendings):
            await spending.ended()
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

    async def settle(self) -> None:
        """Return when all that the handler spends is spent.

        Raises:
            BudgetExceededError, TransportError: the first error that nobody was told.
        """
        while self._spendings:
            some = list(self._spendings)
            for one in some:
                await one.ended()
            self._spendings.difference_update(some)
            for one in some:
                if (error := one.untold) is not None:
                    raise error

    async def close(self) -> None:
        """Return when all is counted that can be, and a steward has been told what there is to tell."""
        for one in list(self._spendings):
            await one.ended()
            if (error := one.untold) is not None:
                log.warning("%s", error)
        self._spendings.clear()
        if self._telling:
            await asyncio.wait(list(self._telling.values()))
