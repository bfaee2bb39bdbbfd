"""Counts, from the streams alone, what became of every task that was ever accepted.

Each task that TASKS stored has a sequence there, and each result names the sequence that it ends. So a sequence is in
the queue, or has one result, or is lost: no table of states is needed to see it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bus import codec, jetstream, subjects
from bus.connection import Connection
from bus.messages import Result
from bus.traces import stored_since


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the tasks. Accepted are those that TASKS stored, less doubles that it dropped."""

    accepted: int
    ended: int
    waiting: int
    lost: int
    doubled: int


async def audit(connection: Connection) -> Audit:
    """Count all tasks since the stream was made, as far back as results are kept (`REVO_RESULT_TTL`).

    A task that was submitted twice under one id, the second time after the server's window for doubles, has two
    sequences and one result; it is not lost.
    """
    info = await jetstream.call(
        connection, "STREAM.INFO", subjects.TASKS, body={"deleted_details": True, "subjects_filter": ""}
    )
    state = info["state"]
    last = int(state["last_seq"])
    waiting = set(range(int(state["first_seq"]), last + 1)) - set(state.get("deleted") or ())
    ended: Counter[int] = Counter()
    async for message in stored_since(connection, subjects.RESULTS, 0.0):
        result = codec.read(Result, message.headers or {}, message.data, subject=message.subject)
        ended[result.sequence] += 1
    lost = [sequence for sequence in range(1, last + 1) if sequence not in ended and sequence not in waiting]
    return Audit(
        accepted=last,
        ended=len(ended),
        waiting=len(waiting - set(ended)),
        lost=len(lost),
        doubled=sum(count > 1 for count in ended.values()),
    )
