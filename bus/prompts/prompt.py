"""One prompt that is being answered: what came, and the stream back to the caller.

Must not know who answers it, nor when it is its turn (`service`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from bus import codec, subjects
from bus.connection import Connection, Message
from bus.errors import BusClosedError, BusError, DecodeError, PromptRefusedError, RequestTimeoutError
from bus.prompts.envelope import (
    ACK,
    Attachment,
    Chunk,
    Envelope,
    Query,
    Response,
    StatusChunk,
    failure_headers,
    read_envelope,
    write_chunk,
)
from bus.telemetry import Span

log = logging.getLogger(__name__)

LEFT: Final = "left"
"""The caller did."""
SENDER: Final = "Agent-Sender"
_MAX_SENDER: Final = 2048
_ESCAPED: Final = 6
"""Bytes that one character may take in JSON."""
_ROOM: Final = 1024
"""Bytes of a message for what stands around the text of a chunk."""
_ACROSS: Final = "_R_."
"""How the reply subjects begin that the server makes for callers in other accounts."""


class Sender(BaseModel):
    """Who a caller says that he is. A claim: nothing here proves it, so let nothing depend on it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    v: Literal[1]
    account: str = Field(max_length=256)
    user: str = Field(max_length=256)
    name: str = Field("", max_length=64)


def sender_of(headers: Mapping[str, str]) -> Sender | None:
    """What a message says of its sender; None when it says nothing that makes sense."""
    said = headers.get(SENDER, "")
    if not said or len(said) > _MAX_SENDER:
        return None
    try:
        return codec.read(Sender, {}, said.encode(errors="replace"))
    except DecodeError:
        return None


class Ears:
    """What one instance hears of the prompts that it works on, by token: one subscription for all of them."""

    def __init__(self, connection: Connection, agent: str, instance: str) -> None:
        self._connection = connection
        self._subject: Callable[[str], str] = functools.partial(subjects.answer, agent, instance)
        self._heard: dict[str, Callable[[Message], None]] = {}

    async def start(self) -> None:
        """Hear from now on."""
        await self._connection.subscribe(self._subject("*"), self._hear)

    def add(self, heard: Callable[[Message], None]) -> str:
        """Have `heard` called for what comes on the subject that is returned. Nobody can guess it."""
        token = secrets.token_hex(16)
        self._heard[token] = heard
        return self._subject(token)

    def drop(self, subject: str) -> None:
        """Hear nothing more on it."""
        self._heard.pop(subject.rpartition(".")[2], None)

    def _hear(self, message: Message) -> None:
        heard = self._heard.get(message.subject.rpartition(".")[2])
        if heard is not None:
            heard(message)


@dataclass(slots=True)
class Stream:
    """The way back to one caller."""

    connection: Connection
    ears: Ears
    reply: str
    stopped: asyncio.Future[str]
    """Done with `LEFT` when the server says that nobody listens there any more."""
    over: bool = False
    chunks: int = 0
    _ear: str = ""

    def open(self) -> None:
        """Say that the prompt has come."""
        # A server answers at once what nobody hears, if it is told where. Between accounts it does not, and would make
        # a subject of its own for every chunk.
        if not self.reply.startswith(_ACROSS):
            self._ear = self.ears.add(self._no_responders)
        self.ack()

    def ack(self) -> None:
        """Say that it is still worked on. Raises nothing: the next chunk, or the end, meets the same fault."""
        if self.over:
            return
        try:
            self.connection.send(self.reply, write_chunk(StatusChunk(status=ACK)), reply=self._ear)
        except BusError as error:
            log.debug("no sign of life to %s: %s", self.reply, error)

    async def send(self, chunk: Chunk) -> None:
        """Send a chunk.

        Raises:
            BusClosedError: the stream has ended.
            PayloadTooLargeError: it is larger than the server takes.
        """
        if self.over:
            raise BusClosedError("the prompt has ended; nothing can be sent to its caller any more")
        self.chunks += 1
        await self.connection.publish(self.reply, write_chunk(chunk), reply=self._ear)

    async def end(self, failure: PromptRefusedError | None) -> None:
        """Say how it ended, with an error or without, and that it did. May be repeated."""
        if self.over:
            return
        self.over = True
        self.ears.drop(self._ear)
        try:
            if failure is not None:
                headers = failure_headers(failure.number, str(failure) or "no reason was given")
                await self.connection.publish(self.reply, b"", headers)
            await self.connection.publish(self.reply)
        except BusError as error:
            log.warning("the caller of a prompt was not told that it has ended: %s", error)

    def _no_responders(self, message: Message) -> None:
        gone = bool(message.head) and not message.data and message.headers.get("Status") == "503"
        if gone and not self.stopped.done():
            self.stopped.set_result(LEFT)


class Prompt:
    """A prompt, as its handler sees it."""

    def __init__(self, envelope: Envelope, sender: Sender | None, stream: Stream, span: Span) -> None:
        self.text = envelope.prompt
        """What is asked."""
        self.attachments: Sequence[Attachment] = envelope.attachments
        """The files that came with it, each with its `filename`, a bare one, and `content`, bytes."""
        self.sender = sender
        """Who the caller says that he is, if he says it. A claim."""
        self.extras: Mapping[str, Any] = dict(envelope.model_extra or {})
        """Fields of the envelope that the protocol does not know."""
        self.stop = threading.Event()
        """Set when the caller has left, or the time is up. A plain `def` handler runs in a thread, which nobody can
        kill."""
        self._stream = stream
        self._span = span

    async def send(self, text: str, attachments: Sequence[Attachment] = ()) -> None:
        """Send a part of the answer; the caller sees it at once. A long text travels in several chunks.

        Raises:
            PayloadTooLargeError: the attachments are larger than one message may be.
            BusClosedError: the prompt has ended.
        """
        most = max(1, (self._stream.connection.max_payload - _ROOM) // _ESCAPED)
        while len(text) > most:
            await self._stream.send(Response(text=text[:most]))
            text = text[most:]
        await self._stream.send(Response(text=text, attachments=tuple(attachments)))

    async def status(self, text: str) -> None:
        """Tell how it stands. Callers may show it or not.

        Raises:
            BusClosedError: the prompt has ended.
        """
        await self._stream.send(StatusChunk(status=text))

    async def ask(self, question: str, *, timeout: float = 120.0, attachments: Sequence[Attachment] = ()) -> str:
        """Ask the caller something in the middle of it, and return what he answers. Other prompts wait meanwhile, as
        for any handler that waits.

        Raises:
            RequestTimeoutError: no answer within `timeout` seconds.
            PromptRefusedError: the answer cannot be read; the caller is told so if the handler lets it pass.
            BusClosedError: the prompt has ended.
        """
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def heard(message: Message) -> None:
            if not answered.done():
                answered.set_result(message)

        ears = self._stream.ears
        subject = ears.add(heard)
        self._span.event("query")
        try:
            token = subject.rpartition(".")[2]
            query = Query(id=token[:8], reply_subject=subject, prompt=question, attachments=tuple(attachments))
            await self._stream.send(query)
            async with asyncio.timeout(timeout):
                message = await answered
        except TimeoutError as error:
            raise RequestTimeoutError("a question to the caller", timeout) from error
        finally:
            ears.drop(subject)
        try:
            return read_envelope(message.data, subject=subject, may_be_empty=True).prompt
        except DecodeError as error:
            raise PromptRefusedError(f"the answer to a question: {error.reason}") from error
