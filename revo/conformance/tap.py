"""Hears what goes over the wire about one capability, in the order in which the server passes it on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from bus import subjects
from bus.connection import Connection
from bus.errors import BusError, InvalidSubjectError
from bus.wire import Message

Kind = Literal["told", "result", "done", "dead", "record", "double", "settled", "extended", "beat"]

SETTLES: Final = ("+ACK", "", "+TERM", "+NXT")
"""What takes a task out of the queue; an empty body acknowledges."""


class Unmet(BusError):  # noqa: N818  (a verdict, and no failure of ours)
    """The worker does not do what a requirement asks; says what was seen instead."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True)
class Seen:
    """One message."""

    order: int
    kind: Kind
    name: str
    """`<client>.<capability>.<task id>`; what a task was told to tell by; an instance."""
    sequence: int
    """In TASKS, where the message says so."""
    deliveries: int
    stored_at_ns: int
    body: bytes
    headers: dict[str, str]
    at: float

    @property
    def settles(self) -> bool:
        """Whether it takes its task out of the queue."""
        return self.kind == "settled" and self.body.decode(errors="replace").partition(" ")[0] in SETTLES

    @property
    def event(self) -> str:
        """What a handler told: `begin`, `end` or `stopped`."""
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(self.body).get("event", ""))
        return ""


class Tap:
    """Everything that was heard since `open`, and a way to wait for what is to come."""

    def __init__(self, capability: str, told: str) -> None:
        """What handlers tell they tell below the subject `told`."""
        self._capability = capability
        self._told = told
        self._waiting: list[tuple[Callable[[Seen], bool], asyncio.Future[Seen]]] = []
        self.log: list[Seen] = []

    async def open(self, connection: Connection) -> None:
        """Listen from now on."""
        names = f"*.{self._capability}.*"
        for kind, subject in (
            ("told", f"{self._told}.*"),
            ("result", f"revo.result.{names}"),
            ("done", f"revo.done.{names}"),
            ("dead", f"revo.dead.{names}"),
            ("record", f"$KV.ATTEMPTS.{names}"),
            ("double", subjects.note("double", "*")),
            ("settled", f"$JS.ACK.{subjects.TASKS}.>"),
            ("beat", subjects.BEATS),
        ):
            await connection.subscribe(subject, _hand_to(self, kind))

    def hear(self, kind: Kind, message: Message) -> None:
        """Keep a message and wake who waits for it."""
        parts = message.subject.split(".")
        sequence = deliveries = stored_at_ns = 0
        name = ".".join(parts[-3:])
        if kind in ("told", "beat"):
            name = parts[-1]
        elif kind == "double":
            name, sequence = "", int(parts[-1])
        elif kind == "settled":
            if f".{self._capability}-" not in message.subject:
                return
            if message.data.startswith(b"+WPI"):
                kind = "extended"
            try:
                token = subjects.parse_ack(message.subject)
            except InvalidSubjectError:
                return
            name, sequence, deliveries, stored_at_ns = "", token.sequence, token.deliveries, token.stored_at_ns
        seen = Seen(
            len(self.log),
            kind,
            name,
            sequence,
            deliveries,
            stored_at_ns,
            message.data,
            dict(message.headers),
            time.time(),
        )
        self.log.append(seen)
        for waiting in list(self._waiting):
            match, future = waiting
            if not future.done() and match(seen):
                future.set_result(seen)

    async def until(self, what: str, match: Callable[[Seen], bool], within: float) -> Seen:
        """The first message that matches, heard already or to come.

        Raises:
            Unmet: there is none within so many seconds.
        """
        for seen in self.log:
            if match(seen):
                return seen
        future: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._waiting.append((match, future))
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            raise Unmet(f"no {what} within {within:g} s") from None
        finally:
            self._waiting.remove((match, future))

    def all(self, kind: Kind, name: str = "", *, sequence: int = 0) -> Iterator[Seen]:
        """What was heard of a kind, of one name or one sequence if that is given."""
        for seen in self.log:
            if seen.kind == kind and name in ("", seen.name) and sequence in (0, seen.sequence):
                yield seen


def _hand_to(tap: Tap, kind: Any) -> Callable[[Message], None]:
    return lambda message: tap.hear(kind, message)
