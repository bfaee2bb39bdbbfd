"""`revo schedule` and `revo submit --after`, `--every`, `--cron` on a mesh that runs, as a user types them."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Shell
from tests.e2e.test_up import free_port
from tests.eventually import eventually


@pytest.fixture
def running(shell: Shell) -> Shell:
    echo = ROOT / "examples" / "echo_agent.py"
    text = f'[server]\nport = {free_port()}\n[actors.echo]\ntarget = "{echo}:Echo"\n'
    (shell.folder / "mesh.toml").write_text(text)
    shell.json("up", "--detach")
    return shell


async def test_schedules_are_made_seen_and_changed(running: Shell) -> None:
    far = running.json("submit", "echo", "text=no", "--after", "2h", "--id", "far")["task_id"]
    assert "due in 1 h 59 min" in running.revo("tasks", "show", far).stdout
    daily = ("submit", "echo", "--cron", "0 9 * * 1-5", "--timezone", "Europe/Berlin", "--schedule", "daily")
    assert running.revo(*daily).stdout == "daily\n"
    tick = running.json("submit", "echo", "text=tick", "--every", "1", "--schedule", "tick")
    assert not tick["replaced"]
    assert running.json("submit", "echo", "text=hi", "--after", "0.5", "--wait")["status"] == "succeeded"

    def occurred() -> Any:
        return running.json("schedule", "show", "tick")["result"]

    assert (await eventually(occurred))["status"] == "succeeded"
    assert running.json("schedule", "pause", "tick")["paused"]
    late = running.json("submit", "echo", "text=no", "--at", f"{time.time() + 899:.0f}")["task_id"]
    lines = running.revo("schedule", "ls", COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.search(rf"{late} +operat\S* +echo +once +in 14", "\n".join(lines)), "all of it, on 80 columns"
    assert "…" not in "".join(lines)
    shown = running.revo("schedule", "ls", COLUMNS="140").stdout
    assert " 0 9 * * 1-5 Europe/Berlin" in shown
    assert "0 0 9" not in shown
    assert "paused" in shown
    is_one = running.revo("tasks", "cancel", "daily")
    assert (is_one.returncode, "`revo schedule rm daily` takes it away" in is_one.stderr) == (1, True)
    assert running.json("tasks", "cancel", late)["cancelled"]
    assert len(running.json("schedule", "show", "daily")["next_times"]) == 5
    assert "succeeded" in running.revo("schedule", "show", "tick").stdout
    assert not running.json("schedule", "resume", "tick")["paused"]
    assert running.revo("schedule", "rm", "tick").stdout == "schedule tick of operator is gone\n"
    gone = running.revo("schedule", "rm", "tick")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert "there is none" in gone.stderr
    assert running.json("tasks", "cancel", far)["cancelled"]
    assert [row["schedule_id"] for row in running.json("schedule", "ls")["schedules"]] == ["daily"]
    kinds = {row["what"] for row in running.json("events", "--kind", "schedule")}
    assert kinds == {"added", "paused", "resumed", "removed"}
    assert running.json("verify")["good"]
