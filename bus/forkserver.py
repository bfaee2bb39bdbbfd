"""Processes that are forked from one that has imported what they need: a tenth of the time of an interpreter's start.

A fork copies locks that other threads hold, and nobody will ever open them in the copy. So the fork server is itself
a fork, of a process that has neither a thread nor a loop yet, and it never has one. Method and name are those of
Python's `multiprocessing`. Only where `usable` says so: system libraries of macOS fail in a fork without an exec.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

from bus.errors import BusError
from bus.forking import NUMBER, SIZE, close_others, serve

UNKNOWN: Final = 255
"""The status of what has ended while nobody could say how."""
ANSWER: Final = 20.0
"""Seconds that an order may take, the imports before the first one included; then the fork server is given up."""
LAST_WORD: Final = 10.0
"""Seconds between a process's end and the word how it ended, at the most: on a busy machine that takes a moment."""


def usable() -> bool:
    """Whether forks are safe on this platform, and their ends seen."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))  # Linux 5.3
    except (AttributeError, OSError):
        return False
    return True


class ForkServerLostError(BusError):
    """The process that forks is gone, does not answer, or cannot fork: start interpreters instead."""

    def __str__(self) -> str:
        return "the process that others are forked from is gone"


class Forked:
    """A process that was forked for us. Like `subprocess.Popen`, as far as `bus.child` needs that."""

    stdin: Final[IO[bytes] | None] = None
    stderr: Final[IO[bytes] | None] = None

    def __init__(self, pid: int, told: IO[bytes], stdout: IO[bytes] | None) -> None:
        """`told` is where the fork server says with what status it has ended."""
        self.pid = pid
        self._told = told
        self.stdout = stdout
        self._lock = threading.Lock()
        try:
            self._handle = os.pidfd_open(pid)  # never another's, whatever becomes of the number
        except ProcessLookupError:
            self._handle = -1

    def wait(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal, `UNKNOWN` when the fork server was gone by
        then, or did not say it. Blocks; to be called once.
        """
        with self._told:
            told = self._told.fileno()
            if self._handle < 0 or told not in _readable(None, told, self._handle):
                _readable(LAST_WORD, told)
            try:
                status = _number(self._told, 0.0)
            except OSError:
                if self._handle >= 0:
                    _readable(None, self._handle)  # its end
                status = UNKNOWN
        with self._lock:
            if self._handle >= 0:
                os.close(self._handle)
            self._handle = -1
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _readable(seconds: float | None, *files: int) -> set[int]:
    """Those of the files that can be read, or are at their end, once there is one, or after so many seconds."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return {file for file, _ in poll.poll(None if seconds is None else seconds * 1000)}


def _number(told: IO[bytes], seconds: float) -> int:
    """What the fork server says.

    Raises:
        OSError: nothing within so many seconds, or it has none to say any more.
    """
    if not _readable(seconds, told.fileno()):
        raise TimeoutError
    said = told.read(NUMBER.size)
    if len(said) < NUMBER.size:
        raise ConnectionResetError
    number: int = NUMBER.unpack(said)[0]
    return number


class ForkServer:
    """Our end of the channel to the process that forks. It ends when this end is closed, however that happens."""

    def __init__(self, channel: socket.socket, pid: int = 0) -> None:
        """`pid` is that of the fork server if it is our child."""
        self._channel = channel
        self._channel.settimeout(ANSWER)
        self._pid = pid
        self._one_by_one = threading.Lock()

    @classmethod
    def beside(cls, main: Callable[[Sequence[str]], int], preload: Iterable[str]) -> ForkServer:
        """Fork one off this process, which must have no other thread and no loop. What it forks runs `main` with its
        arguments and ends with the status that it returns, by SystemExit: so that happens in the stack of the caller.

        Raises:
            OSError: there is no room for a process more.
        """
        ours, theirs = socket.socketpair()
        if sys.stdout is not None:
            sys.stdout.flush()  # or each fork writes it once more
        pid = os.fork()
        if pid == 0:
            ours.close()
            close_others({theirs.fileno()})
            os.setsid()
            try:
                arguments = serve(theirs, preload)
            except BaseException:  # noqa: BLE001  (it is printed, and our caller's stack is none of this process)
                traceback.print_exc()
                os._exit(1)
            raise SystemExit(main(arguments))
        theirs.close()
        return cls(ours, pid)

    def fork(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: int | None = None,
        stderr: int | None = None,
        handed: Mapping[str, int] = MappingProxyType({}),
    ) -> Forked:
        """Fork one process, in a session of its own; returns when it is there. May be called by several threads.

        What it writes goes to the file `stdout`, or can be read from what is returned; its errors too, unless to
        `stderr`. It gets the files `handed`, and reads their numbers in environment variables of these names.

        Raises:
            ForkServerLostError: nothing was started, or what was started knows nobody.
        """
        order = {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd), "handed": list(handed)}
        with contextlib.ExitStack() as ours:
            try:
                read, write = os.pipe() if stdout is None else (None, os.dup(stdout))
                output = ours.enter_context(os.fdopen(write, "wb", 0))
                said = None if read is None else ours.enter_context(io.FileIO(read))
                ends = [os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
                told, tell = (ours.enter_context(end) for end in ends)
                files = [tell.fileno(), write, write if stderr is None else stderr, *handed.values()]
                self._send(json.dumps(order).encode(), files)
                tell.close()
                forked = Forked(_number(told, ANSWER), told, said)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    self.close()  # whatever it does later is for nobody
                self._reap()
                raise ForkServerLostError from error
            ours.pop_all()
            output.close()
        return forked

    def _send(self, order: bytes, files: Sequence[int]) -> None:
        with self._one_by_one:
            socket.send_fds(self._channel, [SIZE.pack(len(order))], files)
            self._channel.sendall(order)

    def _reap(self) -> None:
        with self._one_by_one:
            if self._pid and os.waitpid(self._pid, os.WNOHANG)[0]:
                self._pid = 0

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._channel.close()
        with self._one_by_one:
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)  # it may be stopped, and not see that the channel is closed
                os.waitpid(self._pid, 0)
                self._pid = 0
