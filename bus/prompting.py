"""Prompts an agent that speaks the Synadia Agent Protocol, ours or another's, and reads its answer as it comes.

At most once, and nothing is stored: who leaves, or is cut off, has no answer. What must not be lost is a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from typing import Any, Final

from bus import subjects
from bus.answers import Answer, Arrivals, Whole
from bus.connection import Connection
from bus.directory import Directory
from bus.errors import (
    BusError,
    ConfigError,
    DecodeError,
    InvalidSubjectError,
    NoRespondersError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from bus.prompts import (
    MAX_SILENCE,
    AgentInfo,
    Attachment,
    Chunk,
    Envelope,
    Query,
    Response,
    is_end,
    read_chunk,
    read_failure,
    write_envelope,
)
from bus.telemetry import Attributes, Span, Telemetry
from bus.wire import Message

__all__ = ["Answer", "Asking", "OnQuery", "UnansweredQueryError", "prompt"]

OnQuery = Callable[[Query], Awaitable[str | Envelope]]
"""Answers what an agent asks in the middle of its answer."""

_INBOX: Final = "_INBOX"
"""What the first token of an inbox begins with, whoever made it."""


class UnansweredQueryError(BusError):
    """An agent asked something in the middle of its answer, and there is nobody to answer."""

    def __init__(self, agent: str, question: str) -> None:
        super().__init__(agent, question)
        self.agent = agent
        self.question = question

    def __str__(self) -> str:
        return f"agent {self.agent} asks, and nobody is there to answer: {self.question!r:.500}"


class Asking:
    """One prompt. `await` it for the whole answer, or go through its chunks with `async for`; either sends it. Who
    leaves the loop has left the prompt; `contextlib.aclosing(asking.chunks())` says exactly when.

    Raises, from either:
        NoRespondersError: at once, when nobody takes prompts there.
        RequestTimeoutError: no sign for `inactivity` seconds, or no end within `timeout`.
        AnswerTooLargeError: the whole answer, or what the caller has not taken of its chunks, exceeds the setting
            `prompt_max_answer`.
        RemoteError: the agent failed or refused; `code` is the protocol's number, `retryable` whether to try again.
        ConnectionLostError: the connection broke, and the rest of the answer with it.
        ConfigError, PayloadTooLargeError: nothing was sent.
    """

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        find: Callable[[], Awaitable[AgentInfo]],
        envelope: Envelope,
        *,
        agent: str,
        timeout: float | None = None,
        inactivity: float = MAX_SILENCE,
        on_query: OnQuery | None = None,
        forget: Callable[[], None] = lambda: None,
        max_answer: int | None = None,
    ) -> None:
        """`find` says where the agent is, `forget` hears that it is not there. `max_answer` is bytes, by default the
        setting. Without `on_query` a query is a chunk like others, for `answer`; whoever awaits the whole answer has an
        `UnansweredQueryError` then.
        """
        self._connection = connection
        self._telemetry = telemetry
        self._find = find
        self._envelope = envelope
        self._agent = agent
        self._timeout = timeout
        self._inactivity = inactivity
        self._on_query = on_query
        self._forget = forget
        self._max_answer = connection.settings.prompt_max_answer if max_answer is None else max_answer

    def __await__(self) -> Generator[Any, None, Answer]:
        return self._whole().__await__()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self.chunks()

    async def _whole(self) -> Answer:
        whole = Whole(self._agent, self._max_answer)
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Query):
                    raise UnansweredQueryError(self._agent, chunk.prompt)
                if isinstance(chunk, Response):
                    whole.add(chunk)
        return whole.answer

    async def answer(self, query: Query, answer: str | Envelope) -> None:
        """Answer what the agent asked. At most once: nothing says whether it arrived.

        Raises:
            DecodeError: it wants the answer on a subject that is none for answers.
            PayloadTooLargeError: nothing was sent.
        """
        envelope = Envelope(prompt=answer) if isinstance(answer, str) else answer
        subject = query.reply_subject
        # Others named it: nobody may have us publish what we may publish and he may not.
        ours = subjects.answer(self._agent, "*", "*").removesuffix("*.*")
        if not subject.partition(".")[0].startswith(_INBOX) and not subject.startswith(ours):
            raise DecodeError(subject, f"agent {self._agent} wants its answer where no answers are heard")
        await self._connection.publish(subject, write_envelope(envelope))

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Send the prompt and go through its answer."""
        info = await self._find()
        _check(info, self._envelope)
        body, headers = write_envelope(self._envelope), dict[str, str]()
        if info.max_payload is not None and len(body) > info.max_payload:
            raise PayloadTooLargeError(info.prompt, len(body), info.max_payload)
        # A chunk of an attachment is larger on its way than it is: of those on their way there may be more.
        inbox, arrived = self._connection.client.new_inbox(), Arrivals(self._agent, 2 * self._max_answer)
        with self._span(info, headers) as span, self._connection.unbroken(f"the answer of {self._agent}") as lost:
            lost.add_done_callback(lambda _: arrived.end())
            subscription = await self._connection.subscribe(inbox, arrived.put)
            until = None if self._timeout is None else time.monotonic() + self._timeout
            number = 0
            try:
                await self._connection.publish(info.prompt, body, headers, reply=inbox)
                while (message := await self._next(arrived, until, info.prompt)) is not None:
                    chunk = read_chunk(message.data, subject=info.prompt)
                    if isinstance(chunk, Query) and self._on_query is not None:
                        await self.answer(chunk, await self._on_query(chunk))
                    elif chunk is not None:
                        number += isinstance(chunk, Response)
                        yield chunk
                if lost.done():
                    lost.result()
            except NoRespondersError:
                self._forget()
                raise
            finally:
                span.set("revo.chunks", number)
                await subscription.drain()

    async def _next(self, arrived: Arrivals, until: float | None, subject: str) -> Message | None:
        """What comes next; None at the end, and when the connection is lost."""
        patience = self._inactivity
        if until is not None:
            patience = min(patience, until - time.monotonic())
        try:
            async with asyncio.timeout(patience):
                message = await arrived.get()
        except TimeoutError:
            whole = self._timeout is not None and patience < self._inactivity
            raise RequestTimeoutError(subject, self._timeout or 0.0 if whole else self._inactivity) from None
        if message is None:
            return None
        if message.headers.get("Status") == "503" and not message.data:
            raise NoRespondersError(subject)
        failure = read_failure(message.headers)
        if failure is not None:
            raise failure
        return None if is_end(message.headers, message.data) else message

    @contextlib.contextmanager
    def _span(self, info: AgentInfo, headers: dict[str, str]) -> Iterator[Span]:
        """The client's span, from the question to the end of the answer. It is current in a context of its own: who
        goes through the chunks does his own things between them.
        """

        def attributes() -> Attributes:
            return {
                "messaging.system": "nats",
                "messaging.destination.name": info.prompt,
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": self._agent,
                "gen_ai.agent.id": info.instance,
                "revo.attachments": len(self._envelope.attachments),
            }

        scope = self._telemetry.sending(f"prompt {self._agent}", headers, attributes, kind="client")
        context = contextvars.copy_context()
        span = context.run(scope.__enter__)
        try:
            yield span
        except BaseException as error:
            context.run(scope.__exit__, type(error), error, error.__traceback__)
            raise
        else:
            context.run(scope.__exit__, None, None, None)


def _check(info: AgentInfo, envelope: Envelope) -> None:
    """See that a prompt can be sent there.

    Raises:
        ConfigError: the prompt is empty, or has attachments that the agent does not take.
        InvalidSubjectError: it wants its prompts where no prompts are sent.
    """
    if not envelope.prompt.strip():
        raise ConfigError("prompt", "is empty")
    if envelope.attachments and not info.attachments:
        raise ConfigError(f"agent {info.agent}", "takes no attachments")
    if subjects.parse_prompt_address(info.prompt).prompt != info.prompt:
        raise InvalidSubjectError(info.prompt, "not the subject of an agent that takes prompts")


def prompt(
    connection: Connection,
    telemetry: Telemetry,
    directory: Directory,
    agent: str,
    text: str,
    *,
    attachments: Sequence[Attachment] = (),
    owner: str | None = None,
    session: str | None = None,
    timeout: float | None = None,
    inactivity: float = MAX_SILENCE,
    on_query: OnQuery | None = None,
) -> Asking:
    """A prompt for an agent that is found by its name; see `Mesh.prompt`."""
    envelope = Envelope(prompt=text, attachments=tuple(attachments))

    async def find() -> AgentInfo:
        return await directory.find(agent, owner, session)

    return Asking(
        connection,
        telemetry,
        find,
        envelope,
        agent=agent,
        timeout=timeout,
        inactivity=inactivity,
        on_query=on_query,
        forget=directory.forget,
    )
