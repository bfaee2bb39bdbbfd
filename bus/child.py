"""A child process on its lifeline, with its output as asyncio streams.

Not `asyncio.create_subprocess_exec`: under uvloop it leaves copies of the child's own pipes open in the child, so that
the lifeline's watcher would hold them and their end would never be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import signal
import subprocess
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from bus.forkserver import Forked, ForkServer
from bus.lifeline import Lifeline, guarded

T = TypeVar("T")

PIPE: Final = subprocess.PIPE
DEVNULL: Final = subprocess.DEVNULL
STDOUT: Final = subprocess.STDOUT

LINE_LIMIT: Final = 1024 * 1024


class Child:
    """A running child in a session of its own: Ctrl-C in the terminal is its parent's to act on.

    It is killed when this process ends, however that ends. Call `finish` when done with it.
    """

    def __init__(self, process: subprocess.Popen[bytes] | Forked, lifeline: Lifeline, *, group: bool) -> None:
        self._process = process
        self._lifeline = lifeline
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._transports: list[asyncio.BaseTransport] = []
        threading.Thread(target=self._wait, name=f"wait for {process.pid}", daemon=True).start()

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        group: bool = False,
        stdin: int = DEVNULL,
        stdout: int = DEVNULL,
        stderr: int = DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        lifeline: Lifeline | None = None,
        scratch: Path | None = None,
    ) -> Child:
        """Start a child. With `group` its whole process group dies with it. The folder `scratch` is removed should we
        die before it.

        With a `lifeline` the child watches that by itself; without, a guard does it for it.

        Raises:
            OSError: it cannot be started.
        """
        guard = lifeline is None
        lifeline = lifeline or Lifeline()
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  (takes 1 ms: the fork shares memory)
                guarded(argv, lifeline.fd, group=group, scratch=scratch) if guard else argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                pass_fds=(*pass_fds, lifeline.fd),
                start_new_session=True,
            )
        except OSError:
            lifeline.release()
            raise
        return await cls._made_of(process, lifeline, group=group)

    @classmethod
    async def fork(
        cls,
        server: ForkServer,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        handed: Mapping[str, int],
        lifeline: Lifeline,
    ) -> Child:
        """Have a child forked that watches the lifeline by itself; its whole output is `stdout`. It finds the numbers
        of the files `handed` in environment variables of these names.

        Raises:
            ForkServerLostError: nothing was started.
        """
        made: list[Forked] = []
        fork = functools.partial(server.fork, arguments, env=env, cwd=cwd, handed=handed)
        try:
            await uninterrupted(asyncio.to_thread(lambda: made.append(fork())))
        except BaseException:
            for process in made:  # cancelled: nobody else knows of it yet
                await (await cls._made_of(process, lifeline, group=False)).finish()
            lifeline.cut()  # the fork server may have died between the fork and the word of it
            raise
        return await cls._made_of(made[0], lifeline, group=False)

    @classmethod
    async def _made_of(cls, process: subprocess.Popen[bytes] | Forked, lifeline: Lifeline, *, group: bool) -> Child:
        child = cls(process, lifeline, group=group)
        try:
            await uninterrupted(child._open())
        except BaseException:  # cancelled: nobody else knows of the child yet
            await child.finish()
            raise
        return child

    async def _open(self) -> None:
        if self._process.stdout is not None:
            self.stdout = await self._reader(self._process.stdout.fileno())
        if self._process.stderr is not None:
            self.stderr = await self._reader(self._process.stderr.fileno())

    async def _reader(self, fd: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        transport, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe_end(os.dup(fd), "rb")
        )
        self._transports.append(transport)
        return reader

    @property
    def pid(self) -> int:
        """The process id; it stays the child's until `wait` has returned."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    def _wait(self) -> None:
        status = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody asks any more
            self._loop.call_soon_threadsafe(self._set_ended, status)

    def _set_ended(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    async def wait(self) -> int:
        """Wait for the end of the child itself; returns its exit status, negative for a signal."""
        return await asyncio.shield(self._ended)

    async def feed(self, data: bytes) -> None:
        """Write all of its standard input and close it. A child that does not read it all is no error."""
        assert self._process.stdin is not None
        fd = os.dup(self._process.stdin.fileno())
        self._process.stdin.close()
        transport, protocol = await self._loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe_end(fd, "wb"))
        writer = asyncio.StreamWriter(transport, protocol, None, self._loop)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                writer.write(data)
                await writer.drain()
            writer.close()  # what is still buffered goes out first
        except asyncio.CancelledError:
            transport.abort()  # or the loop could not close while somebody holds the other end and does not read
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.status is None:
            self._process.send_signal(number)

    async def finish(self) -> int:
        """Kill what is left (with `group`: of the whole group), reap it, let go of its pipes; returns the status.

        Takes milliseconds and cannot be cut short: a cancellation that comes meanwhile is raised at its end.
        """
        return await uninterrupted(self._finish())

    async def _finish(self) -> int:
        if self._group:
            # The guard's watcher is in the group until it is released, so the group is still this child's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self.status is None:
            self._process.kill()
        status = await self.wait()
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0)  # they close their files in the loop's next turn
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._lifeline.release()
        return status


def pipe_end(fd: int, mode: Literal["rb", "wb"]) -> io.FileIO:
    """A file for `connect_read_pipe` or `connect_write_pipe`, which own it from then on.

    uvloop closes the number of a pipe twice: libuv does, and then the file that it was given. In between another thread
    may have opened something that got the same number. So there the file does not close it.
    """
    twice = type(asyncio.get_running_loop()).__module__.partition(".")[0] == "uvloop"
    return io.FileIO(fd, mode, closefd=not twice)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, which is short, to its end; a cancellation that comes meanwhile is raised after it."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
