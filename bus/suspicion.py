"""Tells a task that kills its processes from one whose processes are killed.

A death says nothing of its cause: a task that ends its process and somebody who ends processes look the same. But
whoever kills at random hits other tasks too, also such as run alone; a poison hits nobody outside its company.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from bus import codec, subjects
from bus.connection import Connection
from bus.errors import DecodeError
from bus.messages import Attempts, Envelope
from bus.outcomes import Policy
from bus.reading import stored_since

log = logging.getLogger(__name__)

BENEFIT: Final = 4
"""While others die alone too, a task may die alone so many times as often as its policy says; poison does end."""
RECENT: Final = 2.0
"""Ack deadlines that count as lately: within one of them a death is known."""


OthersDie = Callable[[str, float], Awaitable[bool]]
"""Says whether another task than the one of this record was run alone again, after it had died alone, in the last so
many seconds: `others_die_alone`, or whoever may read the records of all.
"""


async def is_poison(others_die: OthersDie, envelope: Envelope, deaths: int, policy: Policy) -> bool:
    """Whether so many deaths alone condemn the task.

    Raises:
        TransportError: nobody says how the others fare.
    """
    if deaths < policy.max_deaths:
        return False
    if deaths >= BENEFIT * policy.max_deaths:
        return True
    own = subjects.attempt(envelope.client, envelope.capability, envelope.task_id)
    if await others_die(own, RECENT * policy.ack_wait):
        log.warning(
            "task %s: %d processes died while they ran it alone, but others die alone too; it is run once more",
            envelope.task_id,
            deaths,
        )
        return False
    return True


async def others_die_alone(connection: Connection, own: str, within: float) -> bool:
    """Whether, in the last `within` seconds, another task than that of the record `own` was run alone again after it
    had died alone.
    """
    records = stored_since(connection, subjects.ATTEMPTS, time.time() - within)
    async with aclosing(records):
        async for message in records:
            if message.subject == own or not message.data:
                continue
            try:
                record = codec.read(Attempts, message.headers, message.data, subject=message.subject)
            except DecodeError:
                continue  # a marker, or a newer version's record
            if record.alone >= 2:
                return True
    return False
