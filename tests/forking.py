"""Processes that are forked from one that has imported what they need, for tests that start very many.

Each is a process of its own, with its own pipes, folder, environment and exit status. What it does not prove is the
start of an interpreter: some tests start real ones for that.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bus.forking import serve
from bus.forkserver import ForkServer


class Forks(ForkServer):
    """Runs `revo` in forks of one process that has imported `preload`. It may be used by several threads at once."""

    def __init__(self, *preload: str, tree: Path | None = None) -> None:
        """With `tree`, the folder whose Revo is imported; by default that which is installed."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *preload],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **({"PYTHONPATH": str(tree)} if tree is not None else {})},
            )
        super().__init__(ours)

    def close(self) -> None:
        """End the process; what it forked is ended already, or has been left to run by whom it belongs to."""
        super().close()
        self._process.wait(10)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Like `subprocess.run` with captured output.

        Raises `subprocess.TimeoutExpired` when it, or what has its output, is not at its end after `timeout` seconds.
        """
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        try:
            process = self.fork(arguments, env=env, cwd=cwd, stdout=to_out, stderr=to_err)
        finally:
            os.close(to_out)
            os.close(to_err)
        try:
            said = _read((out, err), timeout)
        except TimeoutError:
            process.kill()
            process.wait()
            raise subprocess.TimeoutExpired(["revo", *arguments], timeout) from None
        finally:
            os.close(out)
            os.close(err)
        return subprocess.CompletedProcess(["revo", *arguments], process.wait(), *(text.decode() for text in said))


def _read(pipes: Sequence[int], timeout: float) -> list[bytes]:
    """All that comes through the pipes until each is at its end."""
    got = dict.fromkeys(pipes, b"")
    until = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(until - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                got[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
    return list(got.values())


def _main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path(sys.executable).parent)  # where an installed command lies
    serve(channel, sys.argv[2:])
    from revo.__main__ import main

    return main()


if __name__ == "__main__":
    ended = _main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # to take all apart that was imported costs more than most commands
