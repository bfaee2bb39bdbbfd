"""What a steward does for families of tasks: it finds children again, and stops a family whose budget is used up."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field, StringConstraints

from actors.actor import rpc
from bus.backlog import Backlog
from bus.early import Ender
from bus.rpc import CALLER

AT_ONCE: Final = 5000
"""Children that one answer names: of more it would not fit in a message."""

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


class Families:
    """Part of the steward."""

    _ender: Ender
    _backlog: Backlog

    @rpc("children")
    async def children(self, parent: Parent) -> Children:
        """For a handler that is run anew: which of the children that it submitted wait or run?"""
        client = CALLER.get() or parent.client
        await self._backlog.refresh()
        found = [one for one in await self._backlog.children(parent.parent) if one.client == client]
        found = [one for one in found if one.sequence > parent.after]
        standing = {f"{one.capability}.{one.task_id}": one.sequence for one in found[:AT_ONCE]}
        return Children(standing=standing, more=len(found) > AT_ONCE)
