"""Processes that are forked from one that has imported what they need, for tests that start very many.

Each is a process of its own, with its own pipes, folder, environment and exit status. What it does not prove is the
start of an interpreter: some tests start real ones for that.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class Forks:
    """Runs functions `package.module:name`, each in a fork of one process that has imported `preload`.

    A function finds its arguments in `sys.argv` and returns an exit status. It may be used by several threads at once.
    """

    def __init__(self, *preload: str, tree: Path | None = None) -> None:
        """With `tree`, the folder whose Revo is imported; by default that which is installed."""
        ours, theirs = socket.socketpair()
        self._channel = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *preload],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **({"PYTHONPATH": str(tree)} if tree is not None else {})},
            )

    def close(self) -> None:
        """End the process; what it forked is ended already, or has been left to run by whom it belongs to."""
        self._channel.close()
        self._process.wait(10)

    def run(
        self,
        function: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        timeout: float,
        path: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Like `subprocess.run` with captured output; `path` comes first in its `sys.path`.

        Raises `subprocess.TimeoutExpired` when it, or what has its output, is not at its end after `timeout` seconds.
        """
        pipes = [os.pipe() for _ in range(3)]
        try:
            self.start(function, arguments, [write for _, write in pipes], cwd=cwd, env=env, path=path)
        finally:
            for _, write in pipes:
                os.close(write)
        out, err, said = _read([read for read, _ in pipes], [function, *arguments], timeout)
        code = int(said.split()[1])
        return subprocess.CompletedProcess([function, *arguments], code, out.decode(), err.decode())

    def start(
        self,
        function: str,
        arguments: Sequence[str],
        descriptors: Sequence[int],
        *,
        cwd: Path,
        env: Mapping[str, str],
        path: Sequence[str] = (),
    ) -> None:
        """Fork it and return at once. `descriptors` are its output, its errors, and where its id is said and, when it
        has ended, its status; a fourth is handed on to it, in its environment as `REVO_READY_FD`.
        """
        order = {"function": function, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        with tempfile.TemporaryFile() as written:
            written.write(json.dumps({**order, "path": list(path)}).encode())
            written.seek(0)
            socket.send_fds(self._channel, [b"."], [written.fileno(), *descriptors])


def _read(pipes: list[int], command: list[str], timeout: float) -> list[bytes]:
    """All that comes through the pipes until each is at its end. The last tells the process's id, then its status."""
    got = dict.fromkeys(pipes, b"")
    until = time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(until - time.monotonic(), 0))
                if not ready:
                    with contextlib.suppress(ProcessLookupError, IndexError):
                        os.kill(int(got[pipes[-1]].split()[0]), signal.SIGKILL)
                    raise subprocess.TimeoutExpired(command, timeout, got[pipes[0]], got[pipes[1]])
                for key, _ in ready:
                    chunk = os.read(key.fd, 65536)
                    got[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
    finally:
        for pipe in pipes:
            os.close(pipe)
    return list(got.values())


def _serve(channel: socket.socket) -> Callable[[], int] | None:
    """Fork for each order. Returns in each fork with what it is to do, and at the end with nothing."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who minds a fork is waited for by nobody
    while True:
        said, descriptors, _, _ = socket.recv_fds(channel, 1, 5)
        if not said:
            return None
        if os.fork() == 0:
            channel.close()
            return _mind(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _mind(order: int, out: int, err: int, status: int, *handed_on: int) -> Callable[[], int] | None:
    """Fork once more, and say when that one has ended and how."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (child := os.fork()) == 0:
        os.close(status)
        return _become(order, out, err, *handed_on)
    for descriptor in (order, out, err, *handed_on):
        os.close(descriptor)
    os.write(status, f"{child} ".encode())
    _, how = os.waitpid(child, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(how)}".encode())
    os._exit(0)


def _become(order: int, out: int, err: int, *handed_on: int) -> Callable[[], int]:
    """Be the process that was asked for."""
    with os.fdopen(order) as file:
        wanted = json.load(file)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((null, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    for descriptor in handed_on:
        os.environ["REVO_READY_FD"] = str(descriptor)
    sys.path[:0] = wanted["path"]
    module, _, name = wanted["function"].partition(":")
    sys.argv[1:] = wanted["arguments"]
    function = getattr(importlib.import_module(module), name)
    return lambda: int(function())


def _main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path(sys.executable).parent)  # where an installed command lies
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what a fork does not look through stays shared
    function = _serve(channel)
    return function() if function else 0


if __name__ == "__main__":
    sys.exit(_main())
