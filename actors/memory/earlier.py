"""Writes that may have been carried out already: by a coordinator whose answer was lost, so that another was asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, get_args

from actors.memory import asking, versions
from actors.memory.backend import Outcome, Written
from actors.memory.errors import OutcomeUnknownError
from actors.memory.orders import Job, Order
from actors.memory.sending import Sender
from bus.jetstream import StoredMessage

SLACK: Final = asking.TRY + 1.0
"""Seconds that the question may have been on its way, for then its deadline is over, and those by which the server's
clock may have jumped since.
"""


async def find(sender: Sender, job: Job, orders: Sequence[Order]) -> list[Written] | None:
    """What became of the writes, if they were carried out; None: they were not.

    Raises:
        OutcomeUnknownError: they were asked for before, and so much was written since that it cannot be known.
        TransportError: no answer.
    """
    found: list[Written] = []
    for one in orders:
        kept, limit, now = await sender.kept(one.subject)
        ours = next((stored for stored in reversed(kept) if stored.headers.get(versions.WRITE) == job.id), None)
        if ours is not None:
            found.append(_written(one.write.key, ours))
        elif found or (job.asked and not _complete(one, kept, limit, now - (time.monotonic() - job.asked) - SLACK)):
            raise OutcomeUnknownError(one.write.key)  # all or none are there: this one is no longer kept
        else:
            return None
    return found


def _complete(one: Order, kept: Sequence[StoredMessage], limit: int, began: float) -> bool:
    """Whether all versions are kept that a write made, if it made one: the oldest go first."""
    return len(kept) < limit or kept[0].sequence <= (one.write.base or 0) or kept[0].stored_at < began


def _written(key: str, stored: StoredMessage) -> Written:
    """What became of a write, by the version that it made."""
    said = stored.headers.get(versions.OUTCOME)
    outcome: Outcome = said if said in get_args(Outcome) else "written"  # type: ignore[assignment]
    value = versions.entry_of(stored, key).value if outcome == "merged" else None
    return Written(key, stored.sequence, outcome, value)
