"""Children die with their parent, even when it is killed -9, and live on after an orderly release."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.lifeline import Lifeline, guarded

PARENT = textwrap.dedent(
    """
    import subprocess, sys
    from bus.lifeline import Lifeline, guarded
    line = Lifeline()
    child = subprocess.Popen(
        guarded({command!r}, line.fd, group={group}), pass_fds=(line.fd,), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=int(sys.argv[1]), stderr=subprocess.DEVNULL,
    )
    print(child.pid, flush=True)
    child.wait()
    """
)


def start_parent(command: list[str], *, group: bool, out: int) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(command=command, group=group), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(out,),
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_a_child_dies_when_its_parent_is_killed(pipe: tuple[int, int]) -> None:
    read, write = pipe
    parent, _ = start_parent(["/bin/sleep", "1000"], group=False, out=write)
    os.close(write)
    with parent:
        parent.kill()
    # The child held the other end of the pipe as its standard output: the end of the pipe is its end.
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_whole_group_dies_when_its_parent_is_killed(pipe: tuple[int, int]) -> None:
    read, write = pipe
    command = ["/bin/sh", "-c", "/bin/sleep 1000 & /bin/sleep 1000 & echo started; wait"]
    parent, _ = start_parent(command, group=True, out=write)
    os.close(write)
    assert os.read(read, 100) == b"started\n"
    with parent:
        parent.kill()
    assert os.read(read, 1) == b""
    os.close(read)


def test_the_pid_is_that_of_the_command_itself() -> None:
    line = Lifeline()
    with subprocess.Popen(
        guarded(["/bin/sh", "-c", "echo $$"], line.fd, group=False),
        pass_fds=(line.fd,),
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert int(child.stdout.read()) == child.pid
    line.release()


@pytest.mark.parametrize("release", [Lifeline.release, lambda line: (line.release(), line.release())])
def test_an_orderly_release_kills_nothing(release: Callable[[Lifeline], object]) -> None:
    line = Lifeline()
    child = subprocess.Popen(
        guarded(["/bin/cat"], line.fd, group=False),
        pass_fds=(line.fd,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    release(line)
    out, _ = child.communicate(b"still here", timeout=10)
    assert (out, child.returncode) == (b"still here", 0)


def test_the_end_of_the_command_ends_its_output_although_the_watcher_waits() -> None:
    line = Lifeline()
    done = subprocess.run(
        guarded(["/bin/echo", "hi"], line.fd, group=False),
        pass_fds=(line.fd,),
        capture_output=True,
        timeout=10,
        check=True,
    )
    assert done.stdout == b"hi\n"
    line.release()


def test_a_python_child_hears_of_the_loss(pipe: tuple[int, int]) -> None:
    read, write = pipe
    watcher = (
        "import sys, os, threading; from bus.lifeline import watch; e = threading.Event(); "
        "watch(int(sys.argv[1]), e.set, grace=60); print('up', flush=True); e.wait(); print('lost', flush=True)"
    )
    line = Lifeline()
    child = subprocess.Popen(
        [sys.executable, "-c", watcher, str(line.fd)],
        pass_fds=(line.fd,),
        stdout=write,
        cwd=Path(__file__).parents[2],
    )
    os.close(write)
    with os.fdopen(read) as out:
        assert out.readline() == "up\n"
        os.close(line._parent)  # as the kernel does when we die
        assert out.readline() == "lost\n"
    child.wait(10)
    os.close(line.fd)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, signal.SIGCONT)
