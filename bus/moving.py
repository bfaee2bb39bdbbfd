"""Moves tasks from their queue to the lane beside it, and back: how, whatever the reason (`bus.lanes`).

One steward at a time moves anything: a claim in AUDIT, which it renews and which another takes over when it is silent.
The claim only spares work twice done. That no task is lost hangs on something else: an original is deleted only after
its copy is known to have been stored, a copy is never deleted, and what is a copy has a higher sequence than what it
was made of. So the last copy of a task always stands, or has ended, however many stewards move at once.

A move is: name the originals in the claim, store the copies, see that the originals are still far from being delivered,
note for the audit which copy is in whose place, delete the originals. Whoever takes the claim over carries on with what
it names.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from bus import codec, endings, jetstream, reading, subjects
from bus.backlog import Backlog
from bus.connection import Connection
from bus.errors import DecodeError, NotFoundError, PayloadTooLargeError, QueueFullError, WrongSequenceError
from bus.messages import (
    CONTENT_TYPE,
    DEADLINE,
    EXPECTED_SUBJECT_SEQUENCE,
    FRESH,
    FROM,
    HEADROOM,
    MSG_ID,
    MSGPACK,
    SUBMITTED,
    TASK_ID,
    Envelope,
    without_control_headers,
)
from bus.tasks import envelope_of

log = logging.getLogger(__name__)

SILENT: Final = 2.0
"""Seconds after which a claim that was not renewed is anybody's."""
RENEWED: Final = 0.8
"""Seconds from which it is renewed."""
AT_ONCE: Final = 100
"""Tasks that are moved side by side, and that a claim names."""
CLAIM: Final = subjects.note("moving")

Moved = tuple[int, int]
"""The sequence of an original, and that of its copy."""

_T = TypeVar("_T")


class Mover:
    """Moves tasks while it has the claim."""

    def __init__(self, connection: Connection, backlog: Backlog) -> None:
        """`backlog` is brought up to date by whoever moves."""
        self._connection = connection
        self._backlog = backlog
        self._claim = 0
        """The sequence of our claim; 0: we have none."""
        self._claimed_at = 0.0
        self._begun: list[int] = []
        """Originals that the claim names, and that may stand with their copies."""
        self.moved = 0
        """How many tasks were moved."""

    async def begun(self) -> bool:
        """Whether somebody may have begun moves and not ended them."""
        last = await jetstream.last(self._connection, subjects.AUDIT, CLAIM)
        return last is not None and bool(_named_in(last))

    async def hold(self) -> bool:
        """Whether we are the one who moves. What was begun, by ourselves or by who had the claim before, is done then.

        Raises:
            BusError: a step could not be done; it is gone on with at the next call.
        """
        if not self._claim and not await self._take():
            return False
        if asyncio.get_running_loop().time() > self._claimed_at + RENEWED and not await self._name(self._begun):
            return False
        if self._begun:
            await self._carry_on(self._begun)
            self._begun = []
        return True

    async def _take(self) -> bool:
        last = await jetstream.last(self._connection, subjects.AUDIT, CLAIM)
        if last is not None and self._backlog.server_time < last.stored_at + SILENT:
            return False
        begun = _named_in(last) if last is not None else []
        return await self._name(begun, last.sequence if last is not None else 0)

    async def _name(self, begun: list[int], expected: int | None = None) -> bool:
        """Renew the claim, which names these originals; False: somebody else has it now."""
        headers = {CONTENT_TYPE: MSGPACK, EXPECTED_SUBJECT_SEQUENCE: str(self._claim if expected is None else expected)}
        self._claim = 0
        try:
            stored = await jetstream.store(self._connection, CLAIM, codec.encode({"begun": begun}), headers)
        except WrongSequenceError:
            self._begun = []  # they are named in the claim that took ours over, or in ours if its answer was lost
            return False
        self._claim, self._begun = stored.sequence, begun
        self._claimed_at = asyncio.get_running_loop().time()
        return True

    async def move(self, originals: Sequence[Envelope], *, lane: bool) -> tuple[int, bool]:
        """Move tasks of one queue to its lane, or back; return how many were, and whether to go on.

        Raises:
            BusError: a step could not be done; `hold` goes on with it.
        """
        done = 0
        for some in (originals[start : start + AT_ONCE] for start in range(0, len(originals), AT_ONCE)):
            if not await self._name([original.sequence for original in some]):
                return done, False
            copies, full = await self._copy(some, lane=lane)
            done += await self._settle(some[0], copies)
            self._begun = []
            if full:
                return done, False
        return done, True

    async def _copy(self, originals: Sequence[Envelope], *, lane: bool) -> tuple[list[Moved], bool]:
        """Store copies; return which stand, and whether there is no room for more."""

        async def one(original: Envelope) -> jetstream.Stored:
            address = subjects.TaskAddress(original.capability, original.priority, original.client)
            subject, headers = address.subject(lane=lane), copy_headers(original)
            return await jetstream.store(self._connection, subject, original.body, headers, room=HEADROOM)

        ends = await asyncio.gather(*(one(original) for original in originals), return_exceptions=True)
        copies: list[Moved] = []
        full = False
        for original, end in zip(originals, ends, strict=True):
            if isinstance(end, PayloadTooLargeError):
                self._backlog.gone(original.sequence)  # no room for our headers: it waits where it is
            elif isinstance(end, QueueFullError):
                full = True
            elif isinstance(end, BaseException):
                raise end
            else:
                copies.append((original.sequence, end.sequence))
        return copies, full

    async def _settle(self, place: Envelope, copies: Sequence[Moved]) -> int:
        """Delete the originals whose copies were stored; how many were moved. What may be in somebody's hands by now
        stays, with its copy: whichever ends first is the result, and the other finds it.
        """
        name = _consumer_of(place)
        try:
            info = await jetstream.call(self._connection, "CONSUMER.INFO", subjects.TASKS, name)
        except NotFoundError:
            return 0
        delivered = int(info["delivered"]["stream_seq"])
        moved = [(sequence, copy) for sequence, copy in copies if sequence > delivered]
        if moved:
            await self._note(moved)
            await together(jetstream.delete(self._connection, subjects.TASKS, sequence) for sequence, _ in moved)
        for sequence, _ in copies:
            self._backlog.gone(sequence)
        self.moved += len(moved)
        return len(moved)

    async def _note(self, moved: Sequence[Moved]) -> None:
        """Tell the audit in whose place which copies are; before the originals are deleted, or they would be lost."""
        body = codec.encode({"moved": [list(pair) for pair in moved]})
        await jetstream.store(self._connection, subjects.note("moved"), body, {CONTENT_TYPE: MSGPACK})

    async def _carry_on(self, begun: Sequence[int]) -> None:
        """End moves that were begun: of those originals that still stand and have a copy, or whose copy has ended."""
        standing = await together(jetstream.at(self._connection, subjects.TASKS, sequence) for sequence in begun)
        queues: dict[str, list[Envelope]] = defaultdict(list)
        for stored in filter(None, standing):
            envelope = envelope_of(stored, self._connection.settings.deadline)
            queues[_consumer_of(envelope)].append(envelope)
        for originals in queues.values():
            # The results first: a copy that is not there any more had one before it left.
            copies = await self._copies_of(originals)
            ended = await together(
                endings.stored_result(self._connection, subjects.result(one.client, one.capability, one.task_id))
                for one in originals
            )
            for original, result in zip(originals, ended, strict=True):
                if result is not None and result.sequence > original.sequence:
                    copies[original.sequence] = result.sequence
            if copies:
                await self._settle(originals[0], list(copies.items()))

    async def _copies_of(self, originals: Sequence[Envelope]) -> dict[int, int]:
        """Their copies that stand, by original."""
        lines: dict[str, list[int]] = defaultdict(list)
        for one in originals:
            address = subjects.TaskAddress(one.capability, one.priority, one.client)
            lines[address.subject(lane=not subjects.in_lane(one.subject))].append(one.sequence)
        found: dict[int, int] = {}
        for subject, sequences in lines.items():
            info = await jetstream.call(self._connection, "STREAM.INFO", subjects.TASKS)
            first, last = min(sequences), int(info["state"]["last_seq"])
            async for stored in reading.scan(self._connection, subjects.TASKS, first, last, subject=subject):
                made_of = stored.headers.get(FROM, "")
                if made_of.isdecimal() and int(made_of) in sequences:
                    found[int(made_of)] = stored.sequence
        return found


def copy_headers(original: Envelope) -> dict[str, str]:
    """The headers of a task's copy: those it had, and what was known of it by where it stood."""
    headers = without_control_headers(original.headers)
    headers.pop(FRESH, None)  # the original may stand, too, and have a result by the time that the copy is delivered
    return headers | {
        TASK_ID: original.task_id,
        DEADLINE: f"{original.deadline:.3f}",
        SUBMITTED: f"{original.stored_at:.6f}",
        FROM: str(original.sequence),
        MSG_ID: f"{original.name}.{subjects.FAIR}.{original.sequence}",
    }


async def together(calls: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """What these return, side by side.

    Raises:
        BusError: the first of them that failed, once all are over.
    """
    ends = await asyncio.gather(*calls, return_exceptions=True)
    found: list[_T] = []
    for end in ends:
        if isinstance(end, BaseException):
            raise end
        found.append(end)
    return found


def _consumer_of(envelope: Envelope) -> str:
    """The consumer that delivers a task from where it stands."""
    named = subjects.lane_consumer if subjects.in_lane(envelope.subject) else subjects.consumer
    return named(envelope.capability, envelope.priority)


def _named_in(claim: jetstream.StoredMessage) -> list[int]:
    try:
        body = codec.read(dict, claim.headers, claim.body, subject=claim.subject)
        return [int(sequence) for sequence in body["begun"]]
    except (DecodeError, KeyError, TypeError, ValueError) as error:
        log.warning("a claim that cannot be read names nothing: %s", error)
        return []
