"""Children that die with their parent, however it dies, on Linux and macOS.

A lifeline is a pipe whose writing end only the parent holds. The kernel closes it with the parent, even at kill -9; a
child that reads the other end sees that. No `preexec_fn` (unsafe with threads) and no `prctl` (Linux only).
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

_GUARD: Final = '(read -r _ </dev/fd/{fd} || {{ {wipe}kill -9 {target}; }}) </dev/null >/dev/null 2>&1 & exec "$@"'
"""The watcher ends quietly when it reads a line and kills when it reads the end of the pipe. It holds none of the
command's own streams, and `exec` makes the command's pid the shell's."""


class Lifeline:
    """The parent's end. Pass `fd` to the child (`pass_fds`), and call `release` when it has ended."""

    def __init__(self) -> None:
        self.fd, self._parent = os.pipe()  # neither is inherited but by `pass_fds`
        self._open = True

    def release(self) -> None:
        """Let go in order: whoever watches ends without harm. May be repeated."""
        if self._open:
            self._open = False
            os.write(self._parent, b"\n")
            os.close(self._parent)
            os.close(self.fd)

    def cut(self) -> None:
        """Let whoever watches believe that we are dead. May be repeated."""
        if self._open:
            self._open = False
            os.close(self._parent)
            os.close(self.fd)


def guarded(argv: Sequence[str], fd: int, *, group: bool, scratch: Path | None = None) -> list[str]:
    """The command that runs `argv` under the same pid, and kills it when the lifeline `fd` is lost.

    With `group` its whole process group is killed; start it in a session of its own then. The folder `scratch` goes
    with it.
    """
    target = "-$$" if group else "$$"
    wipe = f"rm -rf {shlex.quote(str(scratch))}; " if scratch is not None else ""
    return ["/bin/sh", "-c", _GUARD.format(fd=fd, target=target, wipe=wipe), "sh", *argv]


def watch(fd: int, on_loss: Callable[[], None], *, grace: float) -> None:
    """Have `on_loss` called, in a thread, when the lifeline `fd` of this process is lost.

    `grace` seconds later the process ends, whatever it is doing: nobody is left to stop it.
    """

    def read() -> None:
        if os.read(fd, 1):
            return
        on_loss()
        time.sleep(grace)  # in a thread of its own, and its last act
        os._exit(1)

    threading.Thread(target=read, name="lifeline", daemon=True).start()
