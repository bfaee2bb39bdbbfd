"""Counts, from the streams alone, what became of every task that was accepted.

Each task that TASKS stored has a sequence there, and each result names the sequence that it ends. So a sequence is in
the queue, or has one result, or is noted as the double of another, or is lost: no table of states is needed to see it.
Results are kept for a time; the stewards' anchors tell which sequences are young enough to have theirs still. What is
of the time before a restore from a backup is told from what came after by a note (`bus.restore`).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bus import codec, jetstream, reading, subjects
from bus.connection import Connection
from bus.errors import DecodeError
from bus.messages import Result
from bus.reading import stored_since
from bus.tasks import envelope_of
from bus.wire import Message

log = logging.getLogger(__name__)

OVERDUE: Final = 5.0
"""Seconds after its deadline from which a task that has not ended is in limbo: nobody is going to end it."""
SHOWN: Final = 20
"""Names of each kind that a report carries, so that it stays a page."""

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the tasks. Accepted are those that TASKS stored, less doubles that it dropped."""

    accepted: int
    ended: int
    """With a result of their own, or as the double of a task that has one."""
    waiting: int
    """Queued or running."""
    lost: int
    """Neither waiting nor ended."""
    limbo: int
    """Waiting, of those above, past their deadline: nobody ends them. Is a steward running?"""
    doubled: int
    """With more than one result."""
    unburied: int
    """Failed, and gone from the queue, without a dead letter."""
    doubles: int = 0
    """Submitted again under an id that had its result; counted as ended."""
    statuses: dict[str, int] = field(default_factory=dict)
    """How many results of each status."""
    redelivered: int = 0
    """Ended tasks that more than one delivery was needed for."""
    since: float = 0.0
    """Unix seconds: tasks accepted before are too old for their results to be still there. 0: all were counted."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Of what is wrong: sequences of the lost, names of the others, the first of them."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.limbo or self.doubled or self.unburied)


async def audit(connection: Connection, *, progress: Progress | None = None) -> Audit:
    """Count all tasks whose results must still be there: of the last `REVO_RESULT_TTL` at the least.

    The mesh may be at work meanwhile: the queue is looked at first, and a task leaves it only after its end is stored.
    `progress` is called with the number of messages read.
    """
    restores = await _restores(connection)
    info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
    state, now = info["state"], jetstream.unix_ns(info["ts"]) / 1e9
    first, last = int(state["first_seq"]), int(state["last_seq"])
    # In this order: queue, results, dead letters, notes. What leaves one is by then in the next.
    waiting, overdue = await _waiting(connection, first, last, now)
    results = _Results(last, restores)
    async for message in stored_since(connection, subjects.RESULTS, 0.0):
        results.add(message)
        if progress is not None:
            progress(1)
    buried = await _names(connection, subjects.DEAD)
    notes = await _read_notes(connection, restores)
    buried |= {".".join(name) for name, _ in notes["dropped"]}
    # How long results are kept is the mesh's setting, and may not be ours: the stewards have said theirs.
    ttl = min([connection.settings.result_ttl, *(body["ttl"] for _, body in notes["anchor"])])
    created = min([jetstream.unix_ns(info["created"]) / 1e9, *(restore.created for restore in restores)])
    anchors = [_anchor(body, restores) for _, body in notes["anchor"]]
    base, since = _base(anchors, now - ttl, created)
    if base is None:
        base = results.oldest(waiting)
    doubles = {sequence for (name, *_), _ in notes["double"] if (sequence := int(name)) <= last}
    moved = _moved(notes["moved"], results.ended.keys() | waiting | doubles, last)
    moved = {sequence for sequence in moved if base < sequence <= last} - results.ended.keys() - waiting - doubles
    known = results.ended.keys() | waiting | doubles | moved
    lost = [sequence for sequence in range(base + 1, last + 1) if sequence not in known]
    limbo = [name for sequence, name in overdue.items() if sequence not in results.ended]
    doubled = [str(sequence) for sequence, count in results.ended.items() if count > 1]
    unburied = [name for sequence, name in results.failed.items() if sequence not in waiting and name not in buried]
    wrong = {"lost": [str(sequence) for sequence in lost], "limbo": limbo, "doubled": doubled, "unburied": unburied}
    return Audit(
        accepted=last - base - len(moved),
        ended=sum(sequence > base for sequence in results.ended.keys() | doubles),
        waiting=len(waiting - results.ended.keys()),
        lost=len(lost),
        limbo=len(limbo),
        doubled=len(doubled),
        unburied=len(unburied),
        doubles=len(doubles),
        statuses=dict(results.statuses),
        redelivered=results.redelivered,
        since=since,
        names={kind: names[:SHOWN] for kind, names in wrong.items() if names},
    )


class _Restore(NamedTuple):
    """A restore from a backup, as it was noted."""

    at: float
    """Unix seconds, by the server's clock."""
    last: int
    """The queue's last sequence then: it counted on from there, whatever it had counted to before."""
    created: float
    """Unix seconds: since when there is a queue, which the server does not know after a restore."""

    def is_before(self, message: Message, sequence: int) -> bool:
        """Whether a message is of the time before it, and of a task that came after the backup."""
        return sequence > self.last and subjects.parse_ack(message.reply).stored_at_ns < self.at * 1e9


async def _restores(connection: Connection) -> list[_Restore]:
    found = []
    async for message in stored_since(connection, subjects.AUDIT, 0.0, subject=subjects.note("restored")):
        try:
            body = codec.read(dict, message.headers, message.data, subject=message.subject)
            found.append(_Restore(float(body["at"]), int(body["last"]), float(body["created"])))
        except (DecodeError, KeyError, TypeError, ValueError) as error:
            log.warning("a note that cannot be read is left out: %s", error)
    return found


class _Results:
    """What RESULTS says."""

    def __init__(self, last: int, restores: list[_Restore]) -> None:
        self._last = last
        self._restores = restores
        self.ended: Counter[int] = Counter()
        self.failed: dict[int, str] = {}
        self.statuses: Counter[str] = Counter()
        self.redelivered = 0

    def add(self, message: Message) -> None:
        try:
            result = codec.read(Result, message.headers, message.data, subject=message.subject)
        except DecodeError as error:
            log.warning("%s", error)  # it ends nothing that anybody could read
            return
        if result.sequence > self._last:
            return  # of a task that came after we began to look
        if result.sequence == 0:
            return  # of one that never stood in the queue: it was scheduled, and ended before
        if any(restore.is_before(message, result.sequence) for restore in self._restores):
            return  # of a task that this queue never had, and another has its sequence now
        self.ended[result.sequence] += 1
        self.statuses[result.status] += 1
        self.redelivered += result.deliveries > 1
        if result.status == "failed":
            self.failed[result.sequence] = f"{result.client}.{result.capability}.{result.task_id}"

    def oldest(self, waiting: set[int]) -> int:
        """The sequence before the first that is known of: without an anchor nothing can be said of older ones."""
        return min(self.ended.keys() | waiting, default=self._last + 1) - 1


Notes = dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]]


async def _read_notes(connection: Connection, restores: list[_Restore]) -> Notes:
    notes: Notes = {"anchor": [], "double": [], "dropped": [], "moved": []}
    async for message in stored_since(connection, subjects.AUDIT, 0.0):
        _, _, what, *names = message.subject.split(".")
        if what not in notes:
            continue
        try:
            body = codec.read(dict, message.headers, message.data, subject=message.subject)
            if what == "anchor":
                body = {"at": float(body["at"]), "last": int(body["last"]), "ttl": float(body.get("ttl", math.inf))}
            elif what == "double":
                names = [str(int(names[0]))]
            elif what == "moved":
                pairs = [(int(sequence), int(copy)) for sequence, copy in body["moved"]]
                old = [any(one.is_before(message, sequence) for one in restores) for sequence, _ in pairs]
                body = {"moved": [pair for pair, was in zip(pairs, old, strict=True) if not was]}
        except (DecodeError, KeyError, TypeError, ValueError) as error:
            log.warning("a note that cannot be read is left out: %s", error)
        else:
            notes[what].append((tuple(names), body))
    return notes


def _moved(notes: list[tuple[tuple[str, ...], dict[str, Any]]], known: set[int], last: int) -> set[int]:
    """The sequences that are no task's any more, for a steward moved the task to a lane, or back: its copy is known of,
    or came after we began to look, or was itself moved so.
    """
    pairs = sorted((pair for _, body in notes for pair in body["moved"]), reverse=True)
    found: set[int] = set()
    for sequence, copy in pairs:  # a copy is younger than what it was made of, so its own note was looked at before
        if copy > sequence and (copy in known or copy > last or copy in found):
            found.add(sequence)
    return found


def _anchor(body: dict[str, Any], restores: list[_Restore]) -> tuple[float, int]:
    """When an anchor was noted, and the sequence after which tasks are younger: no more than what a restore kept."""
    at, last = float(body["at"]), int(body["last"])
    return at, min([last, *(restore.last for restore in restores if at < restore.at)])


def _base(anchors: list[tuple[float, int]], cutoff: float, created: float) -> tuple[int | None, float]:
    """The sequence after which every task must have a result or wait, and since when that is; None: not known."""
    if created >= cutoff:
        return 0, 0.0
    young = [(at, last) for at, last in anchors if at >= cutoff]
    if not young:
        return None, cutoff
    at, sequence = min(young)
    return sequence, at


async def _waiting(connection: Connection, first: int, last: int, now: float) -> tuple[set[int], dict[int, str]]:
    """The sequences of all that stand in the queue, and the names of those that are past their deadline."""
    waiting: set[int] = set()
    overdue: dict[int, str] = {}
    async for stored in reading.scan(connection, subjects.TASKS, first, last):
        envelope = envelope_of(stored, connection.settings.deadline)
        waiting.add(stored.sequence)
        if envelope.deadline + OVERDUE < now:
            overdue[stored.sequence] = envelope.name
    return waiting, overdue


async def _names(connection: Connection, stream: str) -> set[str]:
    """The names of all tasks that a stream has something of."""
    found = set()
    async for message in stored_since(connection, stream, 0.0, headers_only=True):
        found.add(".".join(subjects.parse_name(message.subject)))
    return found
