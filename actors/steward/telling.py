"""Tells clients that may read no stream what the handlers of their tasks have said."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from pydantic import BaseModel, Field

from actors.actor import Actor, rpc
from bus import subjects
from bus.errors import NotFoundError
from bus.fields import Address, Token
from bus.following import stored_after, to_page
from bus.rpc import CALLER

PAGE: Final = 500
"""Messages of one answer."""
PAGE_BYTES: Final = 256 * 1024
"""Bytes of one answer, unless a single message is larger."""


class Asked(BaseModel):
    """What a task's handler has said that stands behind a sequence of PROGRESS."""

    task_id: Token
    capability: Address
    client: Token
    after: int = Field(0, ge=0)


class Told(BaseModel):
    """Some of it, in order, as `bus.following.to_page`; `more`: ask again behind the last one."""

    messages: list[dict[str, Any]]
    more: bool = False


class Telling(Actor):
    """The part of a steward that reads PROGRESS for others."""

    @rpc("progress")
    async def progress(self, asked: Asked) -> Told:
        """For a client that may not read streams: what has the handler of its task said?"""
        caller = CALLER.get()
        if caller not in ("", asked.client):
            raise NotFoundError(f"task {asked.task_id}", f"client {caller} has none of this id")
        subject = subjects.progress(asked.client, asked.capability, asked.task_id)
        told, size = Told(messages=[]), 0
        async with aclosing(stored_after(self.mesh.connection, subject, asked.after)) as found:
            async for stored in found:
                if told.messages and (len(told.messages) >= PAGE or size + len(stored.body) > PAGE_BYTES):
                    told.more = True
                    break
                told.messages.append(to_page(stored))
                size += len(stored.body)
        return told
