"""What one attempt of a task has beside its message: a way to say how far it is, to show and to save what it has.

A handler's thread may use it as well as the loop; there each call blocks until it is done.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from bus.checkpoints import Checkpoint
from bus.connection import Connection
from bus.emitting import Emitter
from bus.errors import AttemptEndedError, QueueFullError, SupersededError, TransportError
from bus.family import Family
from bus.messages import Envelope
from bus.pending import Pending, block, runs_here

log = logging.getLogger(__name__)


class Workbench:
    """Of one attempt. It costs next to nothing until something of it is used."""

    __slots__ = (
        "_checkpoint",
        "_closed",
        "_connection",
        "_emitter",
        "_envelope",
        "_on_superseded",
        "_run",
        "family",
        "used",
    )

    def __init__(self, connection: Connection, envelope: Envelope, on_superseded: Callable[[], None]) -> None:
        """`on_superseded` is called when a later run has taken the task over and nobody awaits what says so."""
        self._connection = connection
        self._envelope = envelope
        self._run = envelope.deliveries
        self._on_superseded = on_superseded
        self._emitter: Emitter | None = None
        self._checkpoint: Checkpoint | None = None
        self._closed = False
        self.used = False
        """Whether anything of it is, so that it must be flushed."""
        self.family: Family | None = None
        """What the attempt submits: a state that is saved covers it."""

    @property
    def chunks(self) -> int:
        """The number of the last thing that was said, 0: nothing was."""
        return self._emitter.number if self._emitter is not None else 0

    @property
    def superseded(self) -> SupersededError | None:
        """The error that says so, once a later run has taken the task over."""
        return self._checkpoint.superseded if self._checkpoint is not None else None

    @property
    def saves(self) -> bool:
        """Whether a checkpoint of this attempt stands."""
        return self._checkpoint is not None and self._checkpoint.stands

    # --- what a handler calls -----------------------------------------------------------------------------

    def progress(self, share: float, text: str) -> Awaitable[None]:
        """See `bus.emitting.Emitter.progress`."""
        return self._do(lambda: self._said().progress(share, text), self._room)

    def emit(self, chunk: Any) -> Awaitable[None]:
        """See `bus.emitting.Emitter.emit`."""
        return self._do(lambda: self._said().emit(chunk), self._room)

    def save(self, state: Any) -> Awaitable[None]:
        """See `bus.checkpoints.Checkpoint.save`; what was said before is stored before."""
        return self._do(lambda: self._save(state), None)

    def saved(self) -> tuple[bool, Any]:
        """What an earlier attempt has saved; see `bus.checkpoints.Checkpoint.found`. Whoever has seen it goes on from
        it: what he submits after this comes after what was submitted before it was saved.
        """
        if self._checkpoint is None:
            return False, None
        found = self._checkpoint.found()
        if self.family is not None:
            self.family.go_on(self._checkpoint.children)
        return found

    def _do(self, call: Callable[[], Pending], room: Callable[[], Awaitable[None]] | None) -> Awaitable[None]:
        if self._closed:
            raise AttemptEndedError(self._envelope.task_id)
        loop = self._connection.closed.get_loop()
        if runs_here(loop):
            return call()

        async def there() -> None:
            if room is not None:
                await room()
                call()
            else:
                await call()

        return block(loop, there())

    async def _room(self) -> None:
        await self._said().room()

    def _said(self) -> Emitter:
        if self._closed:
            raise AttemptEndedError(self._envelope.task_id)
        if self._emitter is None:
            self.used = True
            self._emitter = Emitter(self._connection, self._envelope, self._run)
        return self._emitter

    def _save(self, state: Any) -> Pending:
        if self._closed:
            raise AttemptEndedError(self._envelope.task_id)
        mark = self._emitter.last if self._emitter is not None else None
        return self._kept().save(state, mark, self.family.so_far() if self.family is not None else "")

    def _kept(self) -> Checkpoint:
        if self._checkpoint is None:
            self.used = True
            self._checkpoint = Checkpoint(self._connection, self._envelope, self._run, self._on_lost)
        return self._checkpoint

    def _on_lost(self, pending: Pending) -> None:
        if not pending.seen:
            self._on_superseded()

    # --- what the worker calls ----------------------------------------------------------------------------

    async def claim(self) -> None:
        """Take over the checkpoint of an earlier run, of a task that may have had one. One that is new need not: its
        first save finds out.

        Raises:
            SupersededError: a later run has.
            TransportError: it cannot be done now.
        """
        if self._envelope.deliveries > 1 or self._envelope.named:
            await self._kept().claim()

    async def flush(self) -> None:
        """Return once all that was said is stored, and the last state if it can be: the value that follows takes that
        away.

        Raises:
            SupersededError: a later run has taken the task over.
            TransportError: something that was said could not be stored, and nobody has awaited that; call it again.
            BusError: the same, for good; or a state could not be, for good.
        """
        if self._emitter is not None:
            await self._emitter.flush()
        if self._checkpoint is not None:
            try:
                await self._checkpoint.flush()
            except TransportError as error:
                log.info("task %s has its value and not its last state: %s", self._envelope.task_id, error)
        if self.superseded is not None:
            raise self.superseded

    async def wind_up(self) -> None:
        """Return once all that was said and saved is stored that can be, of an attempt that has no value.

        Raises:
            TransportError: something could not be stored now; call it again.
        """
        for part in (self._emitter, self._checkpoint):
            if part is not None:
                try:
                    await part.flush()
                except QueueFullError:
                    continue  # that lasts for longer than anybody waits
                except TransportError:
                    raise
                except Exception:  # noqa: BLE001, S112  (the attempt's own error is the one to tell)
                    continue

    def close(self) -> None:
        """The attempt is over: whoever still says something is refused. May be called more than once."""
        self._closed = True
        self._on_superseded = _nobody  # who is called knows of us: a cycle for each task would wait for the collector
        if self._emitter is not None:
            self._emitter.close()
        if self._checkpoint is not None:
            self._checkpoint.close()


WORKBENCH: ContextVar[Workbench | None] = ContextVar("revo_workbench", default=None)
"""Set where the handler of a task runs."""


def _nobody() -> None:
    """Who hears that an attempt was superseded when it is over."""
