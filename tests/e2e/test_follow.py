"""What a task says, as a user sees it: `revo submit --follow` and `revo tasks follow`."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.server import Server
from tests.e2e.conftest import BIN, Shell
from tests.eventually import eventually
from tests.guarded import at_work
from tests.integration.streaming import WOKEN, read
from tests.processes import ActorProcess, actor


@pytest.fixture
async def teller(server: Server, shell: Shell, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    shell.env["REVO_NATS_URL"] = server.url
    async with actor("tests.integration.streaming:Speaker", server.url, tmp_path / "log") as process:
        yield process


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def on_a_terminal(shell: Shell, *arguments: str, status: int = 0) -> str:
    """All that is shown of a command on a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [str(BIN / "revo"), *arguments],
        cwd=shell.folder,
        env={**shell.env, "TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                some = os.read(master, 65536)
            except OSError:  # the last one that held its end has gone
                break
            if not some:
                break
            shown += some
    os.close(master)
    assert process.returncode == status, shown
    return shown.decode(errors="replace")


async def test_a_task_is_followed_as_it_runs_and_afterwards(shell: Shell, teller: ActorProcess) -> None:
    done = shell.revo("submit", "tell", "pages=2", "--follow", "-o", "json")
    assert done.returncode == 0, done.stderr
    task, *said, result = objects(done.stdout)
    assert [(one["kind"], one["number"]) for one in said] == [
        ("chunk", 1),
        ("progress", 2),
        ("chunk", 3),
        ("progress", 4),
    ]
    assert (said[1]["share"], said[1]["text"], said[2]["value"]["page"]) == (0.5, "page 0", 1)
    assert (result["kind"], result["value"], result["chunks"]) == ("result", 2, 4)

    late = shell.revo("tasks", "follow", task["task_id"], "--after", "3", "-o", "json")
    assert [one["kind"] for one in objects(late.stdout)] == ["task", "progress", "result"]
    same = shell.revo("tasks", "follow", task["task_id"], "--after", "3", "--capability", "tell", "-o", "json")
    assert same.stdout == late.stdout
    text = shell.revo("tasks", "follow", task["task_id"])
    assert [json.loads(line)["page"] for line in text.stdout.splitlines()[:2]] == [0, 1]
    assert text.stdout.splitlines()[2:] == ["2"]
    assert not text.stderr, "a bar is for a terminal"

    shown = await asyncio.to_thread(on_a_terminal, shell, "submit", "tell", "pages=2", "--follow")
    assert "100%" in shown
    assert "page 1" in shown
    assert '"page": 0' in shown

    unknown = shell.revo("tasks", "follow", "nobody")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "task nobody: it neither waits nor runs" in unknown.stderr
    for wrong in (("follow", "a.b"), ("follow", "x", "--after", "-1"), ("follow", "x", "--capability", "a b")):
        assert shell.revo("tasks", *wrong).returncode == 2


async def test_streamed_text_is_not_torn_apart_on_a_terminal(shell: Shell, teller: ActorProcess) -> None:
    shown = await asyncio.to_thread(on_a_terminal, shell, "submit", "speak", "--follow")
    assert "17% 0:00:00 piece 1" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    text = shown[shown.rindex("piece") :]
    assert "To be, or not to be\r\nthat is the question\r\nHamlet" in text
    assert re.search(r"\x1b\[1A\x1b\[2KTo be", text), "the bar is gone before the text comes"


async def test_who_follows_a_task_that_nobody_knows_is_told_so(
    shell: Shell, teller: ActorProcess, tmp_path: Path
) -> None:
    unknown = shell.revo("tasks", "follow", "nobody", "-c", "speak", "--timeout", "20")
    assert (unknown.returncode, "task nobody: it neither waits nor runs" in unknown.stderr) == (1, True)
    async with actor("actors.steward:Steward", shell.env["REVO_NATS_URL"], tmp_path / "steward.log"):
        shell.json("submit", "speak", "--after", "1d", "--id", "due")
    late = shell.revo("tasks", "follow", "due", "--timeout", "0.3")
    assert (late.returncode, "task due has no result after 0.3 s" in late.stderr) == (4, True)
    wait = ("tasks", "follow", "due", "-c", "speak", "--timeout", "2")
    assert "nothing heard of task due yet" in await asyncio.to_thread(on_a_terminal, shell, *wait, status=4)
    other = shell.revo("tasks", "follow", "due", "-c", "tell", "--timeout", "2")
    assert "task due is one of speak, and of client anon" in other.stderr


async def test_who_has_an_account_of_his_own_follows_his_own_tasks_by_their_capability(
    shell: Shell, tmp_path: Path
) -> None:
    async with (
        at_work(tmp_path, "speaker", "speak") as here,
        actor("actors.steward:Steward", here.server.url, tmp_path / "steward.log", **here.env("revo-steward")),
    ):
        shell.env |= {**here.env("alice"), "REVO_NATS_URL": here.server.url}
        task_id = shell.json("submit", "speak")["task_id"]
        refused = shell.revo("tasks", "follow", task_id)
        late = shell.revo("tasks", "follow", task_id, "--capability", "speak", "--timeout", "0.3")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "say --capability, too: as user alice only your own tasks" in refused.stderr
    assert (late.returncode, "has no result after 0.3 s" in late.stderr) == (4, True)


async def test_bytes_and_numbers_that_json_has_not_are_json_wherever_they_stand(
    shell: Shell, teller: ActorProcess, tmp_path: Path
) -> None:
    def strict(text: str) -> Any:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    value = {"raw": {"deep": {"base64": "//4="}}, "far": "Infinity"}
    done = shell.revo("submit", "speak", "of=bytes", "--follow", "-o", "json")
    _, chunk, _, deep, _, result = (strict(line) for line in done.stdout.splitlines())
    assert (chunk["base64"], deep["value"]) == ("/w==", {"raw": [{"base64": "/w=="}], "share": "NaN"})
    assert (result["kind"], result["value"]) == ("result", value)
    waited = shell.revo("submit", "speak", "of=raw", "--wait", "-o", "json", "--id", "raw")
    assert (waited.returncode, strict(waited.stdout)["value"]) == (0, {"base64": "/w=="}), waited.stderr
    assert strict(shell.revo("submit", "speak", "of=bytes", "--wait").stdout) == value
    assert strict(shell.revo("tasks", "show", "raw", "-o", "json").stdout)["value"] == {"base64": "/w=="}
    work = tmp_path / "work.jsonl"
    work.write_text('{"of": "bytes"}\n')
    assert strict(shell.revo("submit", "speak", "--jsonl", str(work)).stdout)["value"] == value


async def test_whoever_leaves_is_told_how_to_go_on_and_the_task_goes_on(
    shell: Shell, teller: ActorProcess, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    told = ("submit", "tell", "pages=4", "hold=1", "holds=1", f"journal={journal}", "--follow", "-o", "json")
    with subprocess.Popen(
        [str(BIN / "revo"), *told], cwd=shell.folder, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(5)]
        process.send_signal(signal.SIGINT)
        _, complaint = await asyncio.to_thread(process.communicate)
    task_id, last = json.loads(lines[0])["task_id"], json.loads(lines[-1])["number"]
    assert process.returncode == 130
    again = f"revo tasks follow {task_id} --capability tell --after {last}"
    assert f"the task goes on; {again} shows the rest" in complaint.decode()
    late = shell.revo("tasks", "follow", task_id, "--timeout", "0.3")
    assert late.returncode == 4
    assert f"task {task_id} has no result after 0.3 s; it goes on" in late.stderr
    late = shell.revo("submit", "tell", "--id", task_id, "--follow", "--timeout", "0.3", "-o", "json")
    assert (late.returncode, objects(late.stdout)[-1]) == (
        4,
        {"kind": "result", "task_id": task_id, "status": "waiting"},
    )
    await eventually(lambda: [line for line in read(journal) if line[0] == "hold"])
    teller.signal(signal.SIGUSR1)
    rest = objects(shell.revo("tasks", "follow", task_id, "--after", str(last), "-o", "json").stdout)
    assert [one["number"] for one in rest[1:-1]] == list(range(last + 1, 9 + WOKEN))
    assert rest[-1]["value"] == 4
