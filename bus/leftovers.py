"""Consumers of TASKS that nobody needs any more, of whoever set them up.

A task that comes to an address without consumers waits in the stream, as one does to which nobody has come yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import NotFoundError
from bus.topology import agent_of

_IN_USE: Final = ("num_pending", "num_ack_pending", "num_waiting", "paused")
"""What waits, what is in hand or comes again, who pulls, and that somebody wants it to be kept from working."""


async def unused(connection: Connection, agent: str, age: float) -> set[str]:
    """The addresses whose consumers an agent set up more than `age` seconds ago, and nobody uses any of them now.

    Raises:
        PermissionDeniedError: the credentials may not look at them.
    """
    found: dict[str, bool] = {}
    offset, total = 0, 1
    while offset < total:
        page = await jetstream.call(connection, "CONSUMER.LIST", subjects.TASKS, body={"offset": offset})
        rows = page.get("consumers") or []
        offset, total = offset + max(1, len(rows)), int(page["total"])
        for row in rows:
            name = subjects.parse_consumer(row["name"])
            if name is not None:
                found[name.capability] = found.get(name.capability, True) and _is_unused(row, agent, age)
    return {address for address, free in found.items() if free}


async def forget(connection: Connection, address: str, agent: str, age: float) -> bool:
    """Delete the consumers of an address, unless one of them is used by now; whether they are gone. May be repeated."""
    names = [
        name(address, priority)
        for priority in subjects.PRIORITIES
        for name in (subjects.consumer, subjects.lane_consumer)
    ]
    for name in names:
        try:
            if not _is_unused(await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, name), agent, age):
                return False
        except NotFoundError:
            continue
    for name in reversed(names):  # the last that is made is the first to be missed
        try:
            await jetstream.call(connection, "CONSUMER.DELETE", subjects.TASKS, name)
        except NotFoundError:
            continue
    return True


def _is_unused(info: Mapping[str, Any], agent: str, age: float) -> bool:
    old = (jetstream.unix_ns(info["ts"]) - jetstream.unix_ns(info["created"])) / 1e9 > age
    return old and agent_of(info) == agent and not any(info.get(key) for key in _IN_USE)
