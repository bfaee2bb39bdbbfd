"""What has come of an answer to a prompt, and how much of it may: others send it, and need not end."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import Final

from bus.errors import BusError
from bus.prompts import Attachment, Response
from bus.wire import Message

EACH: Final = 64
"""Bytes that a message, or a file, takes besides its own: of empty ones, too, there may not be any number."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `chunks` is of how many parts it came."""

    text: str
    attachments: tuple[Attachment, ...] = ()
    chunks: int = 0


class AnswerTooLargeError(BusError):
    """An agent answers with more than is taken of it at once. The rest was left, and so was the prompt."""

    def __init__(self, agent: str, limit: int) -> None:
        super().__init__(agent, limit)
        self.agent = agent
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the answer of {self.agent} exceeds the limit of {self.limit} bytes; go through its chunks as they come, "
            "or raise REVO_PROMPT_MAX_ANSWER"
        )


class Arrivals:
    """The messages of one answer that have arrived and have not been taken, up to so many bytes of them."""

    def __init__(self, agent: str, limit: int) -> None:
        self._agent = agent
        self._limit = limit
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._size = 0
        self._overflown = False

    def put(self, message: Message) -> None:
        """One has arrived."""
        self._size += _size(message)
        if self._size <= self._limit:
            self._queue.put_nowait(message)
        elif not self._overflown:
            self._overflown = True
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(None)

    def end(self) -> None:
        """None will arrive any more."""
        self._queue.put_nowait(None)

    async def get(self) -> Message | None:
        """The next one; None at the end.

        Raises:
            AnswerTooLargeError: more has arrived than is taken; all of it has been dropped.
        """
        message = await self._queue.get()
        if self._overflown:
            raise AnswerTooLargeError(self._agent, self._limit)
        if message is not None:
            self._size -= _size(message)
        return message


class Whole:
    """Puts together what came of an answer, up to so many bytes."""

    def __init__(self, agent: str, limit: int) -> None:
        self._agent = agent
        self._limit = limit
        self._size = 0
        self._text = io.StringIO()  # a list of many small parts would be much larger than they are
        self._attachments: list[Attachment] = []
        self._chunks = 0

    def add(self, part: Response) -> None:
        """One part more.

        Raises:
            AnswerTooLargeError: they are too much together.
        """
        files = sum(EACH + len(one.content) for one in part.attachments)
        self._size += len(part.text.encode(errors="surrogatepass")) + files
        if self._size > self._limit:
            raise AnswerTooLargeError(self._agent, self._limit)
        self._text.write(part.text)
        self._attachments += part.attachments
        self._chunks += 1

    @property
    def answer(self) -> Answer:
        """All of it."""
        return Answer(self._text.getvalue(), tuple(self._attachments), self._chunks)


def _size(message: Message) -> int:
    return EACH + len(message.data) + len(message.head)
