"""What all commands share: exit codes, one-line errors, output for people and for scripts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import io
import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bus.errors import (
    AuthenticationError,
    BusError,
    ConfigError,
    EncodeError,
    NoMeshError,
    PayloadTooLargeError,
    ResultTimeoutError,
    ServerTooOldError,
    ServerUnreachableError,
    TaskFailedError,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

T = TypeVar("T")

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_MESH: Final = 3
TIMED_OUT: Final = 4
INTERNAL: Final = 70
INTERRUPTED: Final = 130

PATIENCE: Final = 1.0
"""Seconds that people wait without a word."""

_EXIT: Final[tuple[tuple[type[BusError], int], ...]] = (
    (ConfigError, USAGE),
    (EncodeError, USAGE),
    (PayloadTooLargeError, USAGE),
    (ServerUnreachableError, NO_MESH),
    (NoMeshError, NO_MESH),
    (AuthenticationError, NO_MESH),
    (ServerTooOldError, NO_MESH),
    (ResultTimeoutError, TIMED_OUT),
    (TaskFailedError, FAILED),
)


class RelayedError(BusError):
    """Another `revo` process failed: its one line and its exit status."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason, status)
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return self.reason


class Output(enum.StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


def exit_code(error: BaseException) -> int:
    """The exit status that stands for an error."""
    if isinstance(error, RelayedError):
        return error.status
    for kind, code in _EXIT:
        if isinstance(error, kind):
            return code
    return FAILED


def say_error(error: BaseException) -> int:
    """Write an error as one line to stderr and return its exit status; a fault of ours says how to learn more."""
    if isinstance(error, BusError):
        code, line = exit_code(error), str(error)
    else:
        code = INTERNAL
        line = f"internal error: {type(error).__name__}: {error}; set REVO_DEBUG=1 to see where"
    say_line(line)
    if os.environ.get("REVO_DEBUG"):
        traceback.print_exception(error)
    return code


def say_line(line: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"revo: {' '.join(line.split())}\n")


def guarded(command: Callable[[], int]) -> int:
    """Run a command; whatever goes wrong is one line and an exit status, never a traceback."""
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has left
        return DONE
    except BaseExceptionGroup as group:
        return say_error(_first(group))
    except Exception as error:  # noqa: BLE001  (the last line of defence)
        return say_error(error)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_async(work: Coroutine[Any, Any, T], doing: str = "") -> T:
    """Run a coroutine on uvloop. After a second people are told what we are `doing`, if that is given."""
    import uvloop

    with waiting(doing), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextlib.contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Show on a terminal, from the second second of the block on, that something goes on, and what."""
    if not doing or not sys.stderr.isatty():
        yield
        return
    status: Status | None = None

    def show() -> None:
        nonlocal status
        status = console(stderr=True).status(f"{doing} ...")
        status.start()

    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if status is not None:
            status.stop()


def print_json(value: object) -> None:
    """One line of JSON on stdout; see `to_json`."""
    write_all(f"{to_json(value)}\n")


def to_json(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that any reader takes, whatever a handler made: bytes as `{"base64": "..."}`, wherever they
    stand; a number that is none, or has no end, as text, such as `"NaN"`; keys as texts.
    """
    try:
        return json.dumps(value, default=_form, allow_nan=False, indent=indent)
    except (TypeError, ValueError):  # what `default` is not asked about: such numbers, and keys
        return json.dumps(_forms(value), default=_form, allow_nan=False, indent=indent)


def _form(value: object) -> object:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)


def _forms(value: object) -> object:
    if isinstance(value, dict):
        return {_key(key): _forms(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_forms(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def _key(key: object) -> object:
    if isinstance(key, bytes):
        return base64.b64encode(key).decode()
    return key if isinstance(key, str | int | float | None) else str(key)


def write_all(text: str) -> None:
    """Write to stdout, however much it is. With `PYTHONUNBUFFERED` a pipe may take a part, and Python drop the rest."""
    out = getattr(sys.stdout, "buffer", None)  # what was put in its place may have none
    if not isinstance(out, io.RawIOBase):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    left = memoryview(text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
    while left:
        left = left[os.write(out.fileno(), left) :]


def console(*, stderr: bool = False) -> Console:
    """A terminal to draw on."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def table(title: str, *columns: str) -> Table:
    """A table without lines; a column `>name` stands to the right, and one `=name` is never broken."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        right, whole = column.startswith(">"), column.startswith("=")
        made.add_column(column.lstrip(">="), justify="right" if right else "left", no_wrap=right or whole)
    return made


def guarded_text(text: str) -> str:
    """A text that others wrote, so that a terminal shows it as it is."""
    from rich.markup import escape

    return escape(text)


def ago(then: float) -> str:
    """How long ago that was (unix seconds), in the two units that matter."""
    seconds = max(0.0, time.time() - then)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def quiet_logs(level: str = "warning") -> None:
    """Show warnings of the bus, or what is of another level, as one line each, and nothing below them."""
    from actors import logs

    logs.configure(level, "revo: %(message)s")
