"""What a task handler may say and keep while it runs: the methods of its `TaskContext`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from bus import codec
from bus.errors import ConfigError, EncodeError
from bus.pending import Nothing
from bus.workbench import Workbench


class Saying:
    """The part of a `TaskContext` that others hear of."""

    __slots__ = ()

    capability: str
    bench: Workbench | None
    """What carries it out; None: of a broadcast or a topic's request, which nobody follows."""
    states: TypeAdapter[Any] | None
    """Of what is saved, as `@task(..., saves=...)` says."""

    def progress(self, share: float, text: str = "") -> Awaitable[None]:
        """Say how far the task is, from 0 to 1, to whoever follows it. See `emit` for what holds.

        Raises:
            ConfigError: the share is no number from 0 to 1, or the text none, or too long.
        """
        return self.bench.progress(share, text) if self.bench is not None else Nothing()

    def emit(self, chunk: object) -> Awaitable[None]:
        """Show a part of what the task makes, as plain data, text or bytes, to whoever follows it.

        It is sent at once and in order, awaited or not, and stands before the task's result does; await it to know
        that it is stored, and to go no faster than that. In a plain `def` handler the call waits until it is sent.
        Whoever answers a broadcast or a topic's request has no task: nothing happens then.

        Raises:
            EncodeError, PayloadTooLargeError, ConfigError: it cannot be sent, or too much waits already.
            BusError: when awaited, why it could not be stored; else it is the attempt's error at its end.
        """
        return self.bench.emit(chunk) if self.bench is not None else Nothing()

    def save(self, state: object) -> Awaitable[None]:
        """Keep what the handler has so far for the next attempt, after all that it has emitted before; the last state
        counts. Awaited or not, it stands before the task's result does. In a plain `def` handler the call waits for it.

        Raises:
            ConfigError: the capability does not declare what it saves.
            EncodeError, PayloadTooLargeError: it is not what is declared, or too large for a message.
            SupersededError: this attempt was thought dead and another one goes on; nothing is kept of it.
            BusError: why it could not be stored, as in `emit`.
        """
        if self.states is None:
            raise ConfigError(f"@task({self.capability!r})", "saves nothing; declare what, as in saves=State")
        plain = dumped(self.states, state, f"a checkpoint of {self.capability}")
        return self.bench.save(plain) if self.bench is not None else Nothing()

    @property
    def saved(self) -> Any:
        """What an earlier attempt has saved last; None: nothing. Tasks that are submitted after this come after those
        that were submitted before it was saved; see docs/children.md.

        Raises:
            DecodeError: it is no longer what the capability declares: another version has saved it.
        """
        found, plain = self.bench.saved() if self.bench is not None else (False, None)
        if not found or self.states is None:
            return None
        return codec.validate(self.states, plain, subject=f"a checkpoint of {self.capability}")


def dumped(adapter: TypeAdapter[Any], value: object, what: str) -> object:
    """A value as plain data.

    Raises:
        EncodeError: it is not what the adapter's type says.
    """
    try:
        return adapter.dump_python(adapter.validate_python(value), warnings="error")
    except (ValidationError, PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise EncodeError(what, f"it is not what is declared: {reason}") from error
