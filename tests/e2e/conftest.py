"""The commands that a user types, as processes in a folder of their own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forking import Forks

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMMANDS = sorted(f"revo.cli.{path.stem}" for path in (ROOT / "revo" / "cli").glob("[a-z]*.py"))


@functools.cache
def forks() -> Forks:
    """What `revo` is forked from. It ends with this process, whose end of their channel is the only one."""
    return Forks("revo.__main__", *COMMANDS)


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
        done = forks().run("revo.__main__:main", arguments, cwd=self.folder, env={**self.env, **env}, timeout=timeout)
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
    """The living children of a process."""
    said = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(pid) and "Z" not in row[2]]
