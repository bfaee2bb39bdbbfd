"""What a bridge set up for names that nobody has any more: forgotten when they have been away for long.

Names may be made anew at every start, as `hermes-<pid>`, and each leaves five consumers behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Set as AbstractSet
from typing import Final

from bus import leftovers, subjects, topology
from bus.connection import Connection

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two looks, at most."""
AT_ONCE: Final = 20
"""Names that are forgotten at one look: leases do not wait long for it."""


class Leftovers:
    """Any bridge looks for itself, and they need not agree: who is forgotten and comes back is set up anew."""

    def __init__(self, connection: Connection, age: float) -> None:
        """`age` is the seconds that a name must have been away."""
        self._connection = connection
        self._age = age
        self._due = time.monotonic()
        self._unused: dict[str, float] = {}
        """By address, since when nobody has used it, as far as we know."""

    async def look(self, known: AbstractSet[str]) -> None:
        """Forget the names that are not `known` to us or to the registry, and that nothing waits for. Where users have
        roles nobody makes up names, and nothing is done.

        Raises:
            TransportError: the server cannot be asked.
        """
        now = time.monotonic()
        if now < self._due or not topology.is_ours(self._connection):
            return
        self._due = now + min(EVERY, self._age / 4)
        found = await leftovers.unused(self._connection, subjects.BRIDGE, self._age)
        found -= {subjects.agent_address(agent) for agent in known}
        self._unused = {address: self._unused.get(address, now) for address in found}
        old = [address for address, since in self._unused.items() if now - since >= self._age]
        for address in old[:AT_ONCE]:
            if await leftovers.forget(self._connection, address, subjects.BRIDGE, self._age):
                log.info("the queue of foreign agent %s is forgotten: nobody came for %g s", address[1:], self._age)
            del self._unused[address]
