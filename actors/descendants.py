"""The processes that a thread of ours has started, and all that those have started; to end them with its task.

Linux alone knows which thread started a process (`/proc/.../children`, proc(5)). Elsewhere none are found: a thread is
told to stop, and tools that are run by `actors.agents.tools` end with their task on every system.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill_those_of(thread: int) -> int:
    """End at once (SIGKILL) all that the thread with that native id has started; returns how many there were."""
    found = _children(Path(f"/proc/self/task/{thread}/children"))
    for pid in found:  # grows while it is walked: a process is stopped before it is asked, so that it starts no more
        _send(pid, signal.SIGSTOP)
        for task in _tasks(pid):
            found += [child for child in _children(task / "children") if child not in found]
    for pid in found:
        _send(pid, signal.SIGKILL)
    return len(found)


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _children(file: Path) -> list[int]:
    try:
        return [int(pid) for pid in file.read_text().split()]
    except OSError:
        return []


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
