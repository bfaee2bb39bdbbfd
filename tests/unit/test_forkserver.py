"""Forks are processes of their own, and nobody waits for one that has ended, or for a fork server that is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bus import forkserver
from bus.forking import TITLE
from bus.forkserver import UNKNOWN, Forked, ForkServer, ForkServerLostError, usable
from tests.e2e.conftest import alive, children
from tests.eventually import eventually

pytestmark = pytest.mark.skipif(not usable(), reason="forks are not safe on this platform: interpreters are started")
ROOT = Path(__file__).parents[2]
SERVE = """
import os, socket, sys
from bus import forking
def fork(real=os.fork):
    if os.path.exists(sys.argv[2]):
        raise BlockingIOError(11, "no more processes")
    return real()
os.fork = fork
said = forking.serve(socket.socket(fileno=int(sys.argv[1])), ["json", "threading"])
exec(said[0])
"""
"""A fork server whose forks run the code that is their argument. It has no room for more while a file is there."""


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return tmp_path / "full"


@pytest.fixture
def process(full: Path) -> Iterator[tuple[ForkServer, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", SERVE, str(theirs.fileno()), str(full)]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), cwd=ROOT)
    server = ForkServer(ours)
    yield server, process
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    server.close()
    process.wait(10)


@pytest.fixture
def server(process: tuple[ForkServer, subprocess.Popen[bytes]]) -> ForkServer:
    return process[0]


def fork(server: ForkServer, code: str, cwd: Path = ROOT, **handed: int) -> Forked:
    return server.fork([textwrap.dedent(code)], env={**os.environ, "COLOUR": "blue"}, cwd=cwd, handed=handed)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def ended(forked: Forked) -> tuple[int, str]:
    """All that it wrote, and its status."""
    assert forked.stdout is not None
    with forked.stdout as stdout:
        said = b"".join(iter(lambda: stdout.read(65536), b"")).decode()
    return forked.wait(), said


def test_a_fork_is_as_if_it_had_just_been_started(server: ForkServer, tmp_path: Path) -> None:
    code = """
        import json, os, signal, sys, tempfile, threading
        print(json.dumps({
            "pid": os.getpid(), "session": os.getsid(0), "folder": os.getcwd(), "colour": os.environ["COLOUR"],
            "temporary": tempfile.gettempdir(), "threads": threading.active_count(), "input": sys.stdin.read(),
            "child": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, "blocked": list(signal.pthread_sigmask(0, ())),
            "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "arguments": len(sys.argv[1:]),
            "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
        }))
        print("an error", file=sys.stderr)
    """
    forked = server.fork([textwrap.dedent(code)], env={"COLOUR": "red", "TMPDIR": str(tmp_path)}, cwd=tmp_path)
    status, said = ended(forked)
    first, error = said.splitlines()
    assert json.loads(first) == {
        "pid": forked.pid,
        "session": forked.pid,
        "folder": str(tmp_path),
        "colour": "red",
        "temporary": str(tmp_path),
        "threads": 1,
        "input": "",
        "child": True,
        "blocked": [],
        "interrupt": True,
        "arguments": 1,
        "open": [0, 1, 2],
    }
    assert (status, error) == (0, "an error")


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("pass", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
    ],
)
def test_how_it_ended_is_told(server: ForkServer, code: str, status: int, says: str) -> None:
    how, said = ended(fork(server, code))
    assert how == status
    assert says in said


def test_the_end_of_one_is_seen_while_another_lives(server: ForkServer) -> None:
    read, write = os.pipe()
    held, hold = os.pipe()
    one = fork(server, "import os; os.read(int(os.environ['HELD']), 1)", HELD=held, SAY=write)
    os.close(write)
    os.close(held)
    assert ended(fork(server, "print('hi')")) == (0, "hi\n"), "the first does not hold what the second has"
    os.write(hold, b".")
    assert os.read(read, 1) == b"", "nobody else holds what was handed to the first"
    assert ended(one) == (0, "")
    os.close(read)
    os.close(hold)


def test_errors_go_where_they_are_wanted(server: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        code = "print('a'); print('b', file=sys.stderr)"
        done = server.fork([code], env={}, cwd=ROOT, stdout=out.fileno(), stderr=err.fileno())
        assert done.stdout is None
        assert done.wait() == 0
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("a\n", "b\n")


def test_many_at_once_each_get_their_own(server: ForkServer) -> None:
    def run(number: int) -> tuple[int, str]:
        return ended(fork(server, f"print({number} * 2); sys.exit({number})"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(40))) == [(number, f"{number * 2}\n") for number in range(40)]


def test_a_module_is_imported_as_it_is_by_then(server: ForkServer, tmp_path: Path) -> None:
    code = f"sys.path.insert(0, {str(tmp_path)!r}); import mine; print(mine.VALUE)"
    (tmp_path / "mine.py").write_text("VALUE = 1\n")
    assert ended(fork(server, code)) == (0, "1\n")
    (tmp_path / "mine.py").write_text("VALUE = 'another'\n")
    assert ended(fork(server, code)) == (0, "another\n")


def test_who_loses_the_fork_server_keeps_what_it_has_forked(
    process: tuple[ForkServer, subprocess.Popen[bytes]],
) -> None:
    server, its_process = process
    before = open_files()
    forked = fork(server, "sys.stdin.read(); print('hi', flush=True); import threading; threading.Event().wait()")
    assert forked.stdout is not None
    assert forked.stdout.readline() == b"hi\n"
    its_process.kill()
    with pytest.raises(ForkServerLostError, match="is gone"):
        fork(server, "pass")
    assert alive(forked.pid)
    forked.send_signal(signal.SIGTERM)
    assert ended(forked) == (UNKNOWN, ""), "nobody can say how it ended, but its end is seen"
    assert not alive(forked.pid)
    assert open_files() == before, "all that was opened for them is closed"
    forked.kill()  # is of no process any more


def test_who_has_a_fork_server_that_is_stopped_is_not_kept_waiting(
    process: tuple[ForkServer, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, its_process = process
    monkeypatch.setattr(forkserver, "ANSWER", 0.5)
    monkeypatch.setattr(forkserver, "LAST_WORD", 0.5)
    forked = fork(server, "import threading; threading.Event().wait()")
    its_process.send_signal(signal.SIGSTOP)
    try:
        forked.kill()
        assert ended(forked) == (UNKNOWN, ""), "after a moment for the word of it"
        with pytest.raises(ForkServerLostError):
            fork(server, "pass")
    finally:
        its_process.send_signal(signal.SIGCONT)


def test_those_that_end_at_the_same_time_are_each_told_of(server: ForkServer) -> None:
    for _ in range(30):
        pair = [fork(server, "import threading; threading.Event().wait()") for _ in range(2)]
        for one in pair:
            one.kill()
        assert [ended(one) for one in pair] == [(-signal.SIGKILL, "")] * 2


def test_what_ends_all_of_a_mesh_in_order_does_not_end_the_fork_server_first(
    process: tuple[ForkServer, subprocess.Popen[bytes]],
) -> None:
    server, its_process = process
    code = (
        "import signal, threading\nsignal.signal(15, lambda *_: sys.exit(3))\nprint('on', flush=True)\nsignal.pause()"
    )
    forked = fork(server, code)
    assert forked.stdout is not None
    assert forked.stdout.readline() == b"on\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        its_process.send_signal(number)
    forked.send_signal(signal.SIGTERM)
    assert ended(forked) == (3, "")


def test_a_folder_that_is_gone_is_one_line(server: ForkServer, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert ended(fork(server, "pass", gone)) == (2, f"revo: {gone}: no such file or directory\n")


def test_where_there_is_no_room_for_a_fork_that_is_an_error_and_the_next_one_is_made(
    server: ForkServer, full: Path
) -> None:
    before = open_files()
    full.touch()
    with pytest.raises(ForkServerLostError):
        fork(server, "pass")
    full.unlink()
    assert open_files() == before
    assert ended(fork(server, "print('hi')")) == (0, "hi\n")


async def test_it_ends_with_who_started_it_and_what_it_forked_goes_on(tmp_path: Path) -> None:
    program = """
        import os, sys, threading
        from pathlib import Path
        from bus.forkserver import ForkServer
        def main(arguments):
            print(os.getppid(), os.getpid(), arguments, flush=True)
            os.read(int(os.environ["HELD"]), 1)
            print("went on", flush=True)
            return 0
        server = ForkServer.beside(main, ["json"])
        forked = server.fork(["a", "b"], env=os.environ, cwd=Path("/"), stdout=1, handed={"HELD": int(sys.argv[1])})
        threading.Event().wait()
    """
    held, hold = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(held)],
        stdout=subprocess.PIPE,
        pass_fds=(held,),
        cwd=ROOT,
        text=True,
    ) as parent:
        os.close(held)
        assert parent.stdout is not None
        server, pid, arguments = parent.stdout.readline().split(maxsplit=2)
        assert arguments == "['a', 'b']\n"
        title = subprocess.run(["ps", "-o", "args=", "-p", server], capture_output=True, text=True, check=True).stdout
        assert title.strip() == TITLE
        parent.kill()
        await eventually(lambda: not Path(f"/proc/{server}").exists() or "Z" in _state(server))
        assert Path(f"/proc/{pid}").exists()
        os.close(hold)
        assert parent.stdout.read() == "went on\n"


def _state(pid: str) -> str:
    return subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout


def test_it_has_no_thread_that_a_fork_would_lose(server: ForkServer) -> None:
    assert ended(fork(server, "import os; print(len(os.listdir(f'/proc/{os.getppid()}/task')))")) == (0, "1\n")
