"""The commands that a user types, as real processes in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
        """Run one command to its end. No traceback may ever reach its user."""
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
