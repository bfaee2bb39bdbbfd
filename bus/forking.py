"""The process that forks: what it does, and what a fork does first. See `bus.forkserver` for who orders them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from setproctitle import setproctitle

TITLE: Final = "revo: actors are forked from here"
"""What `ps` says of a fork server."""
WRONG_USAGE: Final = 2
SIZE: Final = struct.Struct("!I")
"""Before each order, its bytes."""
NUMBER: Final = struct.Struct("!i")
"""A process id, and then its status, as they are told."""
_MOST: Final = 8
"""Files that come with an order."""
_NOT_OURS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that go to all processes of a mesh: its forks act on them, and need it until they have ended."""


def close_others(keep: Collection[int]) -> None:
    """Close all files that this process has inherited, but these and the standard ones."""
    for fd in [int(name) for name in os.listdir("/dev/fd")]:  # noqa: PTH208  (names, and nothing of paths)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(fd)


def serve(channel: socket.socket, preload: Iterable[str]) -> list[str]:
    """Be the fork server: import `preload`, then fork for each order. Returns in each fork, with its arguments."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _NOT_OURS}
    setproctitle(TITLE)
    for module in preload:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what a collection does not look through stays shared
    news = _Wakeup()
    tellers: dict[int, int] = {}
    while True:
        order, (tell, *files) = _next(channel, news, tellers)
        try:
            pid = os.fork()
        except OSError:
            pid = -1
        if pid == 0:
            news.close()
            for number, handler in before.items():
                signal.signal(number, handler)
            for fd in (channel.detach(), tell, *tellers.values()):
                os.close(fd)
            return _become(order, *files)
        for fd in files:
            os.close(fd)
        if pid > 0:
            tellers[pid] = tell
            _tell(tell, pid)
        else:
            os.close(tell)  # which says that nothing was started


class _Wakeup:
    """Becomes readable when a child has ended."""

    def __init__(self) -> None:
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def fileno(self) -> int:
        return self._woken.fileno()

    def clear(self) -> None:
        """Have heard of it."""
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def close(self) -> None:
        """Have signals be as they were."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._wake.close()


def _next(channel: socket.socket, news: _Wakeup, tellers: dict[int, int]) -> tuple[dict[str, Any], list[int]]:
    """The next order and the files that came with it; until then it is told how forks end. When there will be no order
    any more, the process ends.
    """
    while True:
        ready, _, _ = select.select((channel.fileno(), news.fileno()), (), ())
        if news.fileno() in ready:
            news.clear()
            _reap(tellers)
        if channel.fileno() in ready:
            break
    header, files, _, _ = socket.recv_fds(channel, SIZE.size, _MOST)
    for fd in files:
        os.set_inheritable(fd, False)
    size = SIZE.unpack(header)[0] if len(header) == SIZE.size else 0
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
        tell = tellers.pop(pid)
        _tell(tell, os.waitstatus_to_exitcode(how))
        os.close(tell)


def _tell(fd: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        os.write(fd, NUMBER.pack(number))


def _become(order: Mapping[str, Any], out: int, err: int, *handed: int) -> list[str]:
    """Be the process that was asked for: as if an interpreter had just started and imported something."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (out, 1), (err, 2)):
        os.dup2(fd, standard)
        if fd > 2:
            os.close(fd)
    try:
        os.chdir(order["cwd"])
    except OSError as error:
        os.write(2, f"revo: {order['cwd']}: {(error.strerror or str(error)).lower()}\n".encode())
        os._exit(WRONG_USAGE)
    os.environ.clear()
    os.environ.update(order["env"])
    os.environ.update({name: str(fd) for name, fd in zip(order["handed"], handed, strict=True)})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=True)
    tempfile.tempdir = None  # that of the new environment
    importlib.invalidate_caches()  # a module may have come since we looked
    arguments: list[str] = order["arguments"]
    sys.argv[1:] = arguments
    setproctitle(" ".join(("revo", *arguments)))
    return arguments
