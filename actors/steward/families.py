"""What a steward does for families of tasks: it finds children again, and stops a family whose budget is used up."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from pydantic import BaseModel, Field, StringConstraints

from actors.actor import rpc
from bus import budgets
from bus.backlog import Backlog
from bus.early import MAX_FAMILY, Ender
from bus.errors import BudgetExceededError, DecodeError, TaskCancelledError
from bus.mesh import Mesh
from bus.messages import Envelope, Token
from bus.rpc import CALLER

AT_ONCE: Final = 5000
"""Children that one answer names: of more it would not fit in a message."""
SIDE_BY_SIDE: Final = 32
"""Tasks that are ended at once."""

_NAME: Final = "[A-Za-z0-9_-]{1,64}"
FullName = Annotated[str, StringConstraints(pattern=rf"^{_NAME}\.@?{_NAME}\.{_NAME}$")]


class Parent(BaseModel):
    """A task, by its full name, whose handler `client` submits others."""

    parent: FullName
    client: str
    after: int = Field(0, ge=0, description="name those whose sequence is higher")


class Children(BaseModel):
    """Where its children stand in TASKS, by capability and task id. With `more`, ask on after the last of them."""

    standing: dict[str, int]
    more: bool


class Overspent(BaseModel):
    """A budget, by the id of its counters, and the task that it was given to."""

    budget: Token
    root: FullName


class Stopped(BaseModel):
    """How many tasks were ended."""

    ended: int


class Families:
    """Part of the steward."""

    mesh: Mesh
    _ender: Ender
    _backlog: Backlog
    _stopping: dict[tuple[str, str], asyncio.Task[int]]
    """Sweeps through families that go on, by budget and root."""

    @rpc("children")
    async def children(self, parent: Parent) -> Children:
        """For a handler that is run anew: which of the children that it submitted wait or run?"""
        client = CALLER.get() or parent.client
        await self._backlog.refresh()
        found = [one for one in await self._backlog.children(parent.parent) if one.client == client]
        found = [one for one in found if one.sequence > parent.after]
        standing = {f"{one.capability}.{one.task_id}": one.sequence for one in found[:AT_ONCE]}
        return Children(standing=standing, more=len(found) > AT_ONCE)

    @rpc("overspent")
    async def overspent(self, told: Overspent) -> Stopped:
        """For a handler that has used up a budget: end the task that it was given to, and all that descends from it.

        Nobody's word is taken for it: a task ends when its own header says that it may spend no more than the counters
        say. Asked again it ends those that were submitted since. All that ask at the same time wait for one sweep.
        """
        key = (told.budget, told.root)
        sweep = self._stopping.get(key)
        if sweep is None:
            self._stopping[key] = sweep = asyncio.get_running_loop().create_task(self._stop(told))
            sweep.add_done_callback(lambda _: self._stopping.pop(key))
        return Stopped(ended=await asyncio.shield(sweep))

    async def _stop(self, told: Overspent) -> int:
        spent = await budgets.spent(self.mesh.connection, told.budget)
        await self._backlog.refresh()
        ended, seen, left = 0, {told.root}, [told.root]
        for root in await self._backlog.find(told.root.rpartition(".")[2]):
            over = _over(root, told, spent) if root.name == told.root else None
            if over is not None:
                ended += (await self._ender.end(root, "failed", over)).status == "failed"
        while left and len(seen) < MAX_FAMILY:
            children = await self._backlog.children(left.pop())
            for start in range(0, len(children), SIDE_BY_SIDE):
                some = children[start : start + SIDE_BY_SIDE]
                ended += sum(await asyncio.gather(*(self._stop_child(one, told, spent) for one in some)))
            left += [child.name for child in children if child.name not in seen]
            seen.update(child.name for child in children)
        return ended

    async def _stop_child(self, child: Envelope, told: Overspent, spent: dict[str, int]) -> bool:
        if _over(child, told, spent) is None:
            return False
        why = TaskCancelledError(child.task_id, f"the budget of {told.root}, which is used up")
        return (await self._ender.end(child, "cancelled", why)).status == "cancelled"


def _over(task: Envelope, told: Overspent, spent: dict[str, int]) -> BudgetExceededError | None:
    """What a task has used up of the budget, by its own header."""
    try:
        purses = budgets.read(task.headers, task.subject)
    except DecodeError:
        return None  # whoever runs it finds out
    return next((one.exceeded(spent) for one in purses if (one.id, one.root) == (told.budget, told.root)), None)
