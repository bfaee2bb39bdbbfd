"""Orders to a worker: end a task, say what you have in hand.

Published at most once, so nothing may depend on them alone: what ends a task stands in RESULTS first, and a worker that
was cut off looks there when it is back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import BaseModel, Field

from bus import codec, subjects
from bus.connection import Connection, Subscription
from bus.errors import DecodeError
from bus.messages import CONTENT_TYPE, MSGPACK, Beat, Status
from bus.wire import Message

log = logging.getLogger(__name__)


class EndOrder(BaseModel):
    """The task at this sequence has a result: whoever runs it stops."""

    sequence: int
    status: Status
    task: str = ""
    """Its full name: it may be with a worker under the sequence of a copy (`bus.moving`)."""


class PauseOrder(BaseModel):
    """Take nothing more, for this reason; with an empty one: go on."""

    reason: str = Field("", max_length=256)


class TasksQuestion(BaseModel):
    """What have you in hand? With a task id only who has that one answers."""

    task_id: str = ""


class ShedOrder(BaseModel):
    """Leave, if you are idle: others on your host need the room."""

    reason: str = ""


class LanesOrder(BaseModel):
    """These lanes, each as `capability.priority`, hold something: who does such tasks takes them from there, too."""

    lanes: list[str]


class Control:
    """Listens to the orders for one worker."""

    def __init__(
        self,
        connection: Connection,
        agent: str,
        instance: str,
        *,
        on_end: Callable[[EndOrder], None],
        on_shed: Callable[[ShedOrder], None],
        beat: Callable[[], Beat],
        on_pause: Callable[[str], None],
        on_lanes: Callable[[list[str]], None],
    ) -> None:
        self._connection = connection
        self._names = ((subjects.EVERYONE, subjects.EVERYONE), (agent, instance))
        self._on_end = on_end
        self._on_shed = on_shed
        self._own = subjects.control(agent, instance, "shed")
        self._beat = beat
        self._on_pause = on_pause
        self._on_lanes = on_lanes
        self._subscriptions: list[Subscription] = []

    async def open(self) -> None:
        """Listen from now on; returns once the server knows."""
        for agent, instance in self._names:
            subject = subjects.control(agent, instance, "*")
            self._subscriptions.append(await self._connection.subscribe(subject, self._on_message))

    async def close(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            await subscription.drain()

    def _on_message(self, message: Message) -> None:
        verb = message.subject.rpartition(".")[2]
        headers = message.headers
        try:
            if verb == "end":
                self._on_end(codec.read(EndOrder, headers, message.data, subject=message.subject))
            elif verb == "lanes":
                self._on_lanes(codec.read(LanesOrder, headers, message.data, subject=message.subject).lanes)
            elif verb == "pause" and message.reply:
                order = codec.read(PauseOrder, headers, message.data or b"{}", subject=message.subject)
                self._on_pause(order.reason)
                self._connection.send(message.reply, codec.encode(order.model_dump()), {CONTENT_TYPE: MSGPACK})
            elif message.subject == self._own:  # an order to one, never to all
                self._on_shed(codec.read(ShedOrder, headers, message.data or b"{}", subject=message.subject))
            elif verb == "tasks" and message.reply:
                question = codec.read(TasksQuestion, headers, message.data or b"{}", subject=message.subject)
                self._answer(question, headers, message.reply)
        except DecodeError as error:
            log.warning("%s", error)

    def _answer(self, question: TasksQuestion, headers: dict[str, str], reply: str) -> None:
        beat = self._beat()
        if question.task_id:
            beat.in_hand = [task for task in beat.in_hand if task.task_id == question.task_id]
            if not beat.in_hand:
                return
        content_type = codec.content_type_of(headers)
        body = codec.encode(beat.model_dump(), content_type)
        self._connection.send(reply, body, {CONTENT_TYPE: content_type})
