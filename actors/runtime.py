"""From bytes to an actor's typed method and back: what a worker and the services call.

What is made here has the shape of `bus.worker.Handler`, `bus.rpc.RpcHandler` or `bus.prompts.PromptHandler`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from actors.actor import Actor, Handler, TaskContext
from actors.descendants import kill_those_of
from actors.mailbox import Mailbox
from actors.prompting import Prompted
from bus import codec, subjects
from bus.errors import EncodeError
from bus.health import Meter
from bus.messages import Envelope
from bus.prompts import Prompt, PromptHandler, PromptService
from bus.rpc import Request, RpcHandler
from bus.workbench import WORKBENCH
from bus.worker import Handler as TaskHandler

GRACE: Final = 0.2
"""Seconds that a thread has, once it is told to stop, before the processes that it started are killed."""


class Threads:
    """Where plain `def` handlers run: as many threads as the actor handles messages at once."""

    def __init__(self, name: str, size: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._running = 0

    @property
    def busy(self) -> bool:
        """Whether a handler still runs; a process that must end then cannot wait for it."""
        return self._running > 0

    async def run(self, stop: Callable[[], None], call: Callable[[], Any]) -> Any:
        """Run `call` in a thread. When cancelled, `stop` is called and the thread's end awaited: it cannot be killed,
        and until it ends its slot is not free. Processes that it started are, after a moment to end them itself.
        """
        context = contextvars.copy_context()
        threads: list[int] = []

        def noted() -> Any:
            threads.append(threading.get_native_id())
            return context.run(call)

        self._running += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, noted)
        work.add_done_callback(self._ended)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop()
            while not (await asyncio.wait((work,), timeout=GRACE))[0]:
                for thread in threads:
                    kill_those_of(thread)
            raise

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not work.cancelled():
            work.exception()  # whoever was cancelled while it ran does not read it

    def close(self) -> None:
        """Start no more; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def task_handler(actor: Actor, handler: Handler, mailbox: Mailbox, threads: Threads) -> TaskHandler:
    """Takes a task's envelope, runs the actor's method on its turn, and returns the value as plain data."""
    method = getattr(actor, handler.attribute)
    assert handler.message is not None
    message_type = handler.message

    async def with_context(envelope: Envelope, message: object) -> object:
        context = TaskContext(
            task_id=envelope.task_id,
            capability=envelope.capability,
            priority=envelope.priority,
            client=envelope.client,
            attempt=envelope.attempt,
            deadline=envelope.deadline,
            bench=(bench := WORKBENCH.get()),
            states=handler.saves,
        )
        arguments = (message, context) if handler.wants_context else (message,)
        if handler.in_thread:

            def stop() -> None:
                context.stop.set()
                if bench is not None:
                    bench.close()  # which lets go of a thread that waits for something to be stored

            return await threads.run(stop, functools.partial(method, *arguments))
        value: object = await method(*arguments)
        return value

    async def handle(envelope: Envelope) -> object:
        plain = codec.decode(envelope.body, envelope.content_type, subject=envelope.subject)
        message = codec.validate(message_type, plain, subject=envelope.subject)
        if not mailbox.enter_at_once():
            await mailbox.enter(bounded=False)
        try:
            if handler.in_thread or handler.wants_context:
                value = await with_context(envelope, message)
            else:
                value = await method(message)
        finally:
            mailbox.leave()
        return plain_value(handler, value, envelope.subject)

    return handle


def rpc_handler(actor: Actor, handler: Handler, mailbox: Mailbox, threads: Threads) -> RpcHandler:
    """Takes a request, runs the actor's method on its turn, and returns the reply as plain data."""
    method = getattr(actor, handler.attribute)

    async def handle(request: Request) -> object:
        mailbox.check_room()  # before it takes more memory
        arguments: tuple[Any, ...] = ()
        if handler.message is not None:
            plain = codec.decode(request.body, request.content_type, subject=request.method)
            arguments = (codec.validate(handler.message, plain, subject=request.method),)
        await mailbox.enter(bounded=True)
        try:
            if handler.in_thread:
                value = await threads.run(_nobody, functools.partial(method, *arguments))
            else:
                value = await method(*arguments)
        finally:
            mailbox.leave()
        return plain_value(handler, value, request.method)

    return handle


def broadcast_handler(actor: Actor, handler: Handler, mailbox: Mailbox, threads: Threads) -> RpcHandler:
    """Takes what was sent to all instances at once, and runs the method that does tasks on its turn."""
    run = task_handler(actor, handler, mailbox, threads)

    async def handle(request: Request) -> object:
        envelope = Envelope(
            subject=subjects.broadcast(handler.name),
            capability=handler.name,
            priority="normal",
            client=subjects.ANONYMOUS,
            task_id=secrets.token_hex(16),
            body=request.body,
            headers=dict(request.headers),
            content_type=request.content_type,
            sequence=0,
            stored_at=time.time(),
            deadline=request.deadline,
            deliveries=1,
            reply="",
            named=False,
        )
        return await run(envelope)

    return handle


def prompt_handler(actor: Actor, prompted: Prompted, threads: Threads) -> PromptHandler:
    """Takes a prompt, runs the actor's method, and sends what it returns or yields."""
    method, attribute = getattr(actor, prompted.attribute), prompted.attribute

    async def handle(prompt: Prompt) -> None:
        if prompted.streams:
            async with contextlib.aclosing(method(prompt)) as parts:
                async for part in parts:
                    await _say(prompt, part, attribute)
        elif prompted.in_thread:
            await _say(prompt, await threads.run(prompt.stop.set, functools.partial(method, prompt)), attribute)
        else:
            await _say(prompt, await method(prompt), attribute)

    return handle


async def _say(prompt: Prompt, value: object, attribute: str) -> None:
    """Send a part of an answer.

    Raises:
        EncodeError: it is neither text nor a model.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump_json()
    if isinstance(value, str):
        if value:
            await prompt.send(value)
    elif value is not None:
        reason = f"{attribute} answered with {type(value).__name__}; return text or a pydantic model"
        raise EncodeError("a prompt", reason)


def prompt_service(
    actor: Actor, prompted: Prompted, mailbox: Mailbox, threads: Threads, instance: str, *, meter: Meter | None = None
) -> PromptService:
    """What answers the prompts of one instance, each on its turn in the mailbox. `meter` counts them."""
    connection = actor.mesh.connection
    settings = connection.settings

    @contextlib.asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        await mailbox.enter(bounded=True)
        try:
            yield
        finally:
            mailbox.leave()

    return PromptService(
        connection,
        actor.mesh.telemetry,
        subjects.prompt_address(actor.name, settings.owner, settings.session),
        instance,
        actor.version,
        (type(actor).__doc__ or "").strip().partition("\n")[0],
        prompt_handler(actor, prompted, threads),
        turn,
        mailbox.check_room,
        attachments=prompted.attachments,
        meter=meter,
    )


def plain_value(handler: Handler, value: object, subject: str) -> object:
    """What a handler returned, as plain data.

    Raises:
        EncodeError: when it is not what the method's annotation says.
    """
    try:
        return handler.value.dump_python(handler.value.validate_python(value), warnings="error")
    except (ValidationError, PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise EncodeError(subject, f"{handler.attribute} did not return what it declares: {reason}") from error


def _nobody() -> None:
    """A request's thread has nobody to tell."""
