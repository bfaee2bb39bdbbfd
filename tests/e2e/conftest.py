"""The commands that a user types, as processes in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.forking import TITLE
from tests.processes import forks

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Shell:
    """Runs `revo` in a folder, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.env = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("REVO_", "OTEL_", "MAKE", "PYTEST"))
            },
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "REVO_HOME": str(self.home),
        }

    def revo(self, *arguments: str, timeout: float = 40, **env: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, in a fork of a process that has imported it: that takes a tenth of the time.

        No traceback may ever reach its user.
        """
        own = {name for name, value in {**self.env, **env}.items() if os.environ.get(name) != value}
        if arguments[:1] == ("bench",) or any(name.startswith("PYTHON") for name in own):
            return self.process(*arguments, timeout=timeout, **env)  # an interpreter reads them when it starts
        done = forks().run(arguments, cwd=self.folder, env={**self.env, **env}, timeout=timeout)
        assert "Traceback" not in done.stderr
        return done

    def process(self, *arguments: str, timeout: float = 40, **env: str) -> subprocess.CompletedProcess[str]:
        """Run one command as a shell starts it, by its file and in an interpreter of its own."""
        done = subprocess.run(
            [str(BIN / "revo"), *arguments],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, timeout: float = 40, **env: str) -> Any:
        """Run one command that succeeds and read its one line of JSON."""
        done = self.revo(*arguments, "--output", "json", timeout=timeout, **env)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        return json.loads(line)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    if shell.home.exists():  # otherwise nothing was ever started
        shell.revo("down")


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(said.strip()) and "Z" not in said


def children(pid: int) -> list[int]:
    """The living children of a process, and those that its fork server has made for it."""
    said = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=3) for line in said.splitlines()]
    found = [row for row in rows if row[1] == str(pid) and "Z" not in row[2]]
    servers = {row[0] for row in found if TITLE in row}
    return [int(row[0]) for row in (*found, *(row for row in rows if row[1] in servers and "Z" not in row[2]))]
