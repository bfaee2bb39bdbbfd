"""Processes that are forked from one that has imported what they need: a tenth of the time of an interpreter's start.

A fork copies locks that other threads hold, and nobody will ever open them in the copy. So the fork server is itself
a fork, of a process that has neither a thread nor a loop yet, and it never has one. Method and name are those of
Python's `multiprocessing`. Only where `usable` says so: system libraries of macOS fail in a fork without an exec.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final

from setproctitle import setproctitle

from bus.errors import BusError

TITLE: Final = "revo: actors are forked from here"
"""What `ps` says of a fork server."""
_SIZE: Final = struct.Struct("!I")
_NUMBER: Final = struct.Struct("!i")
_MOST: Final = 8
"""Files that may be handed to a fork."""


def usable() -> bool:
    """Whether forks are safe on this platform."""
    return sys.platform == "linux"


class ForkServerLostError(BusError):
    """The process that forks is gone: start interpreters instead."""

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

    def wait(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal. Blocks; to be called once.

        Who has lost the fork server cannot learn any more how the process ends, so then it is killed.
        """
        with self._told:
            try:
                return _number(self._told)
            except ConnectionResetError:
                self.kill()
                return -signal.SIGKILL

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _number(told: IO[bytes]) -> int:
    said = told.read(_NUMBER.size)
    if len(said) < _NUMBER.size:
        raise ConnectionResetError
    number: int = _NUMBER.unpack(said)[0]
    return number


class ForkServer:
    """Our end of the channel to the process that forks. It ends when this end is closed, however that happens."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._one_by_one = threading.Lock()

    @classmethod
    def beside(
        cls, main: Callable[[Sequence[str]], int], preload: Iterable[str], *, without: Iterable[int] = ()
    ) -> ForkServer:
        """Fork one off this process, which must have no other thread and no loop. What it forks runs `main` with its
        arguments and ends with the status that it returns, by SystemExit: so that happens in the stack of the caller.

        `without` are open files that are none of its business.
        """
        ours, theirs = socket.socketpair()
        sys.stdout.flush()  # or each fork writes it once more
        if os.fork() == 0:
            ours.close()
            for fd in without:
                os.close(fd)
            os.setsid()  # Ctrl-C is not for it
            try:
                arguments = serve(theirs, preload)
            except BaseException:  # noqa: BLE001  (it is printed, and our caller's stack is none of this process)
                traceback.print_exc()
                os._exit(1)
            raise SystemExit(main(arguments))
        theirs.close()
        return cls(ours)

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
            ForkServerLostError: nothing was started.
        """
        order = {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd), "handed": list(handed)}
        body = json.dumps(order).encode()
        read, write = os.pipe() if stdout is None else (None, os.dup(stdout))
        told, tell = (os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        said = io.FileIO(read) if read is not None else None
        try:
            with tell, os.fdopen(write, "wb", 0), self._one_by_one:
                errors = write if stderr is None else stderr
                socket.send_fds(
                    self._channel, [_SIZE.pack(len(body))], [tell.fileno(), write, errors, *handed.values()]
                )
                self._channel.sendall(body)
            return Forked(_number(told), told, said)
        except OSError as error:
            for file in (told, said):
                if file is not None:
                    file.close()
            raise ForkServerLostError from error

    def close(self) -> None:
        """Let it end; what it has forked goes on."""
        self._channel.close()


# --- the process that forks -------------------------------------------------------------------------------------------


def serve(channel: socket.socket, preload: Iterable[str]) -> list[str]:
    """Be the fork server: import `preload`, then fork for each order. Returns in each fork, with its arguments."""
    setproctitle(TITLE)
    for module in preload:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what a collection does not look through stays shared
    tellers: dict[int, int] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _reap(tellers))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        order, (tell, *files) = _next(channel)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # no child ends before it is noted
        try:
            pid = os.fork()
        except OSError:
            os.close(tell)  # which says that nothing was started
        else:
            if pid == 0:
                for fd in (channel.detach(), tell, *tellers.values()):
                    os.close(fd)
                return _become(order, *files)
            tellers[pid] = tell
            _tell(tell, pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for fd in files:
            os.close(fd)


def _next(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next order and the files that came with it; when there will be none any more, the process ends."""
    header, files, _, _ = socket.recv_fds(channel, _SIZE.size, _MOST)
    for fd in files:
        os.set_inheritable(fd, False)
    size = _SIZE.unpack(header)[0] if len(header) == _SIZE.size else 0
    body = b""
    while len(body) < size and (chunk := channel.recv(size - len(body))):
        body += chunk
    if not body or len(body) < size:
        os._exit(0)  # past all that our caller would do at its end
    return json.loads(body), files


def _reap(tellers: dict[int, int]) -> None:
    while tellers:
        pid, how = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if (tell := tellers.pop(pid, None)) is not None:
            _tell(tell, os.waitstatus_to_exitcode(how))
            os.close(tell)


def _tell(fd: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        os.write(fd, _NUMBER.pack(number))


def _become(order: Mapping[str, Any], out: int, err: int, *handed: int) -> list[str]:
    """Be the process that was asked for: as if an interpreter had just started and imported something."""
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number is signal.SIGCHLD else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    os.environ.update({name: str(fd) for name, fd in zip(order["handed"], handed, strict=True)})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=True)
    tempfile.tempdir = None  # that of the new environment
    importlib.invalidate_caches()  # a module may have come since we looked
    arguments: list[str] = order["arguments"]
    setproctitle(" ".join(("revo", *arguments)))
    return arguments
