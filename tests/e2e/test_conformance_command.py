"""`revo conformance` as somebody types it who writes a worker in another language."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from tests.e2e.conftest import BIN, ROOT, Shell, alive, children
from tests.eventually import eventually

PLAIN = f"{sys.executable} -m tests.conformance.plain"


@pytest.fixture
def workshop(shell: Shell) -> Shell:
    """A shell whose commands find the worker of the tests."""
    shell.folder = ROOT
    return shell


def test_a_worker_that_lacks_a_must_is_told_so_by_the_name_of_its_check_and_with_exit_1(workshop: Shell) -> None:
    command = f"{PLAIN} {shlex.quote('tries again at once')}"
    arguments = ("conformance", "-c", "plain", "--command", command, "--only", "json", "--only", "retry")
    done = workshop.revo(*arguments, "--output", "json")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert (said["capability"], said["conforms"]) == ("plain", False)
    assert [(one["name"], one["level"], one["verdict"]) for one in said["checks"]] == [
        ("json", "MUST", "ok"),
        ("retry", "MUST", "failed"),
    ]
    assert "names no delay" in said["checks"][1]["why"]


def test_a_worker_that_lacks_only_what_it_should_do_conforms(workshop: Shell) -> None:
    command = f"{PLAIN} {shlex.quote('says nothing of its policy')}"
    only = [word for name in ("json", "policy", "server-restart") for word in ("--only", name)]
    done = workshop.revo("conformance", "-c", "plain", "--command", command, *only)
    assert done.returncode == 0, done.stdout
    assert "The worker of plain conforms: 2 ok, 1 failed, 0 skipped" in done.stdout
    assert done.stderr == "", "the table alone, though the suite has killed its server"


def test_what_is_asked_is_shown_without_running_anything(shell: Shell) -> None:
    asked = shell.json("conformance", "--list")
    assert {one["level"] for one in asked} == {"MUST", "SHOULD"}
    assert "result-first" in {one["name"] for one in asked}


async def test_killed_in_the_middle_it_leaves_no_process_behind(workshop: Shell) -> None:
    command = [str(BIN / "revo"), "conformance", "-c", "plain", "--command", PLAIN]
    process = subprocess.Popen(command, cwd=ROOT, env=workshop.env, stdout=subprocess.DEVNULL)
    try:
        pids = await eventually(lambda: len(found := children(process.pid)) == 2 and found)  # server and worker
    finally:
        process.kill()
        process.wait()
    await eventually(lambda: not any(alive(pid) for pid in pids))
