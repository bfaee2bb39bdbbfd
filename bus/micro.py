"""What a NATS micro service says of itself (ADR-32): who it is, what it answers, and how often it has.

Must not know what its endpoints do.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from bus import subjects
from bus.connection import Connection, Subscription
from bus.wire import Message, OnMessage


@dataclass(slots=True)
class Endpoint:
    """One subject that a micro service answers, and what it counts."""

    name: str
    subject: str
    queue: str
    metadata: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    processing: float = 0.0
    """Seconds, of all requests."""

    def failed(self, reason: str) -> None:
        """Count an error."""
        self.errors += 1
        self.last_error = reason[:200]


@dataclass(slots=True)
class Micro:
    """One instance of a micro service, to those who list and measure such services."""

    connection: Connection
    name: str
    instance: str
    version: str
    description: str
    metadata: dict[str, str]
    endpoints: Collection[Endpoint]
    also: Callable[[str, str], str] | None = None
    """Where else it hears a verb, of all instances (the second is empty) or of this one."""
    _control: list[Subscription] = field(default_factory=list)
    _started: str = ""

    async def start(self) -> None:
        """Answer PING, INFO and STATS; returns when the server knows of it."""
        self._started = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        for verb, build in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            heard = [subjects.micro(verb, *who) for who in ((), (self.name,), (self.name, self.instance))]
            if self.also is not None:
                heard += [self.also(verb, ""), self.also(verb, self.instance)]
            for subject in heard:
                self._control.append(await self.connection.subscribe(subject, self._answer(build)))

    async def drain(self) -> None:
        """Answer no more."""
        for subscription in self._control:
            await subscription.drain()

    def _answer(self, build: Callable[[], dict[str, Any]]) -> OnMessage:
        def answer(message: Message) -> None:
            if message.reply:
                self.connection.send(message.reply, json.dumps(build()).encode())

        return answer

    def _identity(self, kind: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": self.name,
            "id": self.instance,
            "version": self.version,
            "metadata": self.metadata,
        }

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def _info(self) -> dict[str, Any]:
        endpoints = [{**_place(endpoint), "metadata": endpoint.metadata} for endpoint in self.endpoints]
        return {**self._identity("info"), "description": self.description, "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [
            {
                **_place(endpoint),
                "num_requests": endpoint.requests,
                "num_errors": endpoint.errors,
                "last_error": endpoint.last_error,
                "processing_time": int(endpoint.processing * 1e9),
                "average_processing_time": int(endpoint.processing * 1e9 / max(1, endpoint.requests)),
            }
            for endpoint in self.endpoints
        ]
        return {**self._identity("stats"), "started": self._started, "endpoints": endpoints}


def _place(endpoint: Endpoint) -> dict[str, Any]:
    return {"name": endpoint.name, "subject": endpoint.subject, "queue_group": endpoint.queue}
