"""`revo submit --each` and `--jsonl`: plain files of work, as processes that are killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus import jetstream, subjects
from bus.connection import Connection
from bus.server import Server
from tests.e2e.conftest import BIN, ROOT, Shell
from tests.eventually import eventually, in_time
from tests.guarded import at_work
from tests.processes import actor

TOILER = "tests.integration.agents:Toiler"
ECHO = "examples/echo_agent.py:Echo"


@pytest.fixture
async def toiling(server: Server, tmp_path: Path) -> AsyncIterator[Server]:
    async with actor(TOILER, server.url, tmp_path / "toiler.log"):
        yield server


def write_lines(path: Path, count: int, **message: Any) -> None:
    path.write_text("".join(json.dumps({"id": n, **message}) + "\n" for n in range(1, count + 1)))


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def begun(journal: Path) -> Counter[int]:
    """How often each task ran, by its id."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return Counter(int(line.split()[1]) for line in lines if line.startswith("begin "))


async def started(shell: Shell, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        str(BIN / "revo"), *arguments, cwd=shell.folder, env=shell.env, stderr=asyncio.subprocess.PIPE
    )


async def killed(process: asyncio.subprocess.Process) -> None:
    """Where the machine has much to do it may have come to its end before: what is claimed holds then, too."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def run(shell: Shell, *arguments: str, **env: Any) -> subprocess.CompletedProcess[str]:
    """Run one command while this process' loop goes on."""
    return await asyncio.to_thread(lambda: shell.revo(*arguments, **env))


async def test_work_that_was_killed_goes_on_and_every_line_has_one_result_and_ran_once(
    toiling: Server, shell: Shell, tmp_path: Path
) -> None:
    work, results, journal = tmp_path / "work.jsonl", tmp_path / "results.jsonl", tmp_path / "journal"
    write_lines(work, 160, journal=str(journal), seconds=0.02)
    command = ("submit", "toil", "--jsonl", str(work), "--results", str(results), "--url", toiling.url)
    for share in (20, 60):
        process = await started(shell, *command)

        def far_enough(share: int = share) -> bool:
            return results.exists() and results.read_text().count("\n") >= share

        await eventually(far_enough)
        await killed(process)
        with results.open("a") as file:
            file.write('{"n": 159, "task_id": "key-')  # what a kill may leave of a line
    done = await run(shell, *command)
    assert done.returncode == 0, done.stderr
    assert "160 done: 160 succeeded, 0 failed" in done.stderr
    found = records(results.read_text())
    assert sorted(record["n"] for record in found) == list(range(1, 161)), "each line has exactly one result"
    assert all(record["value"] == record["n"] and record["status"] == "succeeded" for record in found)
    assert begun(journal) == Counter(range(1, 161)), "and none ran twice"
    again = await run(shell, *command, "--output", "json")
    assert json.loads(again.stdout)["before"] == 160
    assert begun(journal).total() == 160


async def test_without_a_file_of_results_work_that_was_killed_prints_each_and_runs_none_again(
    toiling: Server, shell: Shell, tmp_path: Path
) -> None:
    work, journal = tmp_path / "work.jsonl", tmp_path / "journal"
    write_lines(work, 60, journal=str(journal), seconds=0.02)
    command = ("submit", "toil", "--jsonl", str(work), "--url", toiling.url)
    process = await started(shell, *command)

    def some() -> bool:
        return begun(journal).total() >= 10

    await eventually(some)
    await killed(process)
    done = await run(shell, *command)
    assert sorted(record["n"] for record in records(done.stdout)) == list(range(1, 61))
    assert begun(journal) == Counter(range(1, 61))
    anew = await run(shell, *command, "--batch", "second")
    assert (anew.returncode, begun(journal).total()) == (0, 120), "another batch is other work"


async def test_ctrl_c_leaves_what_is_submitted_and_says_how_to_go_on(
    toiling: Server, shell: Shell, tmp_path: Path
) -> None:
    work, results, journal = tmp_path / "work.jsonl", tmp_path / "results.jsonl", tmp_path / "journal"
    long = [{"id": n, "journal": str(journal), "seconds": 0.0 if n <= 4 else 2.5} for n in range(1, 9)]
    work.write_text("".join(json.dumps(one) + "\n" for one in long))
    command = ("submit", "toil", "--jsonl", str(work), "--results", str(results), "--url", toiling.url)
    process = await started(shell, *command)

    def some() -> bool:
        return results.exists() and results.read_text().count("\n") >= 4

    await eventually(some)
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == 130
    assert b"to go on, run the same command again" in said
    assert b"Traceback" not in said

    def all_run() -> bool:
        return begun(journal) == Counter(range(1, 9))

    await eventually(all_run)
    done = await run(shell, *command)
    assert (done.returncode, begun(journal).total()) == (0, 8)
    late = await run(shell, *command[:3], str(work), "seconds=60", "--url", toiling.url, "--timeout", "0.5")
    assert (late.returncode, "not all of it has ended within 0.5 s" in late.stderr) == (4, True)
    wrong = await run(shell, *command[:3], str(work), "--results", "new", "--deadline", "-1", "--url", toiling.url)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1), "nothing was sent, and there is one word of it"
    assert not (tmp_path / "new").exists()


async def test_a_server_that_is_killed_on_the_way_costs_no_line_its_result(
    toiling: Server, shell: Shell, tmp_path: Path
) -> None:
    work, results = tmp_path / "work.jsonl", tmp_path / "results.jsonl"
    write_lines(work, 100, seconds=0.02)
    process = await started(
        shell, "submit", "toil", "--jsonl", str(work), "--results", str(results), "--url", toiling.url
    )

    def some() -> bool:
        return results.exists() and results.read_text().count("\n") >= 20

    await eventually(some)
    toiling.kill()
    await toiling.wait()
    await toiling.start()
    _, said = await in_time(process.communicate(), 60)
    assert process.returncode == 0, said
    assert sorted(record["n"] for record in records(results.read_text())) == list(range(1, 101))


async def test_wrong_lines_are_named_and_counted_and_the_others_are_done(
    toiling: Server, shell: Shell, tmp_path: Path
) -> None:
    work, results = tmp_path / "work.jsonl", tmp_path / "results.jsonl"
    lines = ['{"id": 1}', "", "{", "[1]", '{"id": 123456789012345678901234567890}', '{"id": "x"}', '{"id": 7}']
    work.write_text("\ufeff" + "\r\n".join(lines))
    command = ("submit", "toil", "--jsonl", str(work), "--results", str(results), "--url", toiling.url, "what=sleep")
    done = await run(shell, *command)
    assert done.returncode == 1
    for says in ("line 3: is not JSON", "line 4: must be a map", "line 5: ", "6 done: 2 succeeded, 1 failed, 3 wrong"):
        assert says in done.stderr
    ends = {record["n"]: record for record in records(results.read_text())}
    assert {n: record["status"] for n, record in ends.items()} == {1: "succeeded", 6: "failed", 7: "succeeded"}
    assert ends[6]["error"]["code"] == "decode"
    work.write_text("\n".join([*lines[:5], '{"id": 6}', lines[6]]))
    mended = await run(shell, *command, "--output", "json")
    summary = json.loads(mended.stdout)
    assert (summary["succeeded"], summary["wrong"], summary["before"]) == (3, 3, 2), "a line that changed is new work"

    fed = await asyncio.to_thread(
        subprocess.run,
        [str(BIN / "revo"), "submit", "toil", "--jsonl", "-", "--url", toiling.url],
        input='{"id": 5}\n',
        text=True,
        env=shell.env,
        capture_output=True,
        check=True,
    )
    assert records(fed.stdout)[0]["value"] == 5


async def test_a_full_queue_is_waited_for(server: Server, shell: Shell, tmp_path: Path) -> None:
    work, journal = tmp_path / "work.jsonl", tmp_path / "journal"
    write_lines(work, 40, journal=str(journal), seconds=0.1)
    async with actor(TOILER, server.url, tmp_path / "log", REVO_CLIENT_QUEUE="8"):
        done = await run(shell, "submit", "toil", "--jsonl", str(work), "--url", server.url, REVO_CLIENT_QUEUE="8")
    assert done.returncode == 0, done.stderr
    assert "the queue is full; waiting" in done.stderr
    assert begun(journal) == Counter(range(1, 41))


async def test_a_bar_on_the_terminal_leaves_the_results_alone(toiling: Server, shell: Shell, tmp_path: Path) -> None:
    work = tmp_path / "work.jsonl"
    write_lines(work, 40)
    screen, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(str(BIN / "revo"), "submit", "toil", "--jsonl", str(work), "--url", toiling.url),
        env={**shell.env, "TERM": "xterm", "COLUMNS": "80"},
        stdout=asyncio.subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    out, _ = await in_time(process.communicate(), 30)
    shown = os.read(screen, 65536).decode()
    os.close(screen)
    assert sorted(record["n"] for record in records(out.decode())) == list(range(1, 41))
    assert "/40" in shown
    assert "0 failed" in shown
    assert "40 done: 40 succeeded" in shown


async def test_no_more_is_read_and_under_way_than_it_was_told(server: Server, shell: Shell, tmp_path: Path) -> None:
    work = tmp_path / "work.jsonl"
    write_lines(work, 50)
    command = ("submit", "toil", "--jsonl", str(work), "--at-once", "3", "--timeout", "1", "--url", server.url)
    done = await run(shell, *command)
    assert done.returncode == 4, "there is no worker"
    async with await Connection.open(server.url) as connection:
        queue = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
    assert 0 < queue["state"]["messages"] <= 3


async def test_each_file_that_a_pattern_finds_is_a_task_and_a_changed_one_is_another(
    server: Server, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    for name in ("a.py", "deep/b.py", "deep/c.txt"):
        (tmp_path / "src" / name).write_text(f"# {name}\n")
    (tmp_path / "src" / "bad.py").write_bytes(b"\xff")
    pattern = ("--each", "src/**/*.py", "--url", server.url)
    async with actor(TOILER, server.url, tmp_path / "log"), actor(ECHO, server.url, tmp_path / "echo.log"):
        text = await run(shell, "submit", "echo", *pattern, "--content", "text", "--as", "where")
        assert text.returncode == 1
        assert "src/bad.py: is not text in UTF-8" in text.stderr
        assert {record["path"]: record["value"] for record in records(text.stdout)} == {
            "src/a.py": {"text": "# a.py\n"},
            "src/deep/b.py": {"text": "# deep/b.py\n"},
        }
        kept = ("submit", "toil", *pattern, "id=3", "--as", "note", "--results", "results.jsonl", "-o", "json")
        first = json.loads((await run(shell, *kept)).stdout)
        os.utime(tmp_path / "src" / "a.py", (1, 1))
        second = json.loads((await run(shell, *kept)).stdout)
    assert (first["succeeded"], first["before"], second["succeeded"], second["before"]) == (3, 0, 3, 2)


async def test_the_same_file_for_another_capability_or_another_agent_is_other_work(
    server: Server, shell: Shell, tmp_path: Path
) -> None:
    work = tmp_path / "work.jsonl"
    work.write_text('{"id": 4, "text": "hi"}\n')
    command = ("--jsonl", str(work), "--results", "results.jsonl", "--url", server.url, "-o", "json")
    async with actor(TOILER, server.url, tmp_path / "log"), actor(ECHO, server.url, tmp_path / "echo.log"):
        said = [
            json.loads((await run(shell, "submit", *to, *command)).stdout)
            for to in (("toil",), ("echo",), ("echo", "--agent", "echo"), ("toil",))
        ]
    assert [(one["succeeded"], one["before"]) for one in said] == [(1, 0), (1, 0), (1, 0), (1, 1)]
    values = [record["value"] for record in records((tmp_path / "results.jsonl").read_text())]
    assert values == [4, {"text": "hi"}, {"text": "hi"}]


async def test_the_commands_of_the_document_do_what_they_say(server: Server, shell: Shell, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "files.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "one.py").write_text("import os\n")
    (tmp_path / "work.jsonl").write_text('{"text": "hi"}\n')
    async with (
        actor("actors.agents.code_analyst:CodeAnalyst", server.url, tmp_path / "log"),
        actor(ECHO, server.url, tmp_path / "echo.log"),
    ):
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-ec",
            script,
            cwd=tmp_path,
            env={**shell.env, "REVO_NATS_URL": server.url},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await in_time(process.communicate(), 60)
    assert process.returncode == 0
    assert [record["value"]["text"] for record in sorted(records(out.decode()), key=lambda one: one["n"])] == [
        "1",
        "2",
        "3",
    ]
    (review,) = records((tmp_path / "reviews.jsonl").read_text())
    assert (review["path"], review["value"]["rules"]) == ("src/one.py", {"F401": 1})
    assert records((tmp_path / "echoed.jsonl").read_text())[0]["value"] == {"text": "hi"}


async def test_who_has_an_account_of_his_own_works_files_off_too(shell: Shell, tmp_path: Path) -> None:
    work, journal = tmp_path / "work.jsonl", tmp_path / "journal"
    write_lines(work, 50, journal=str(journal))
    async with (
        at_work(tmp_path, "toiler", "toil") as here,
        actor("actors.steward:Steward", here.server.url, tmp_path / "steward.log", **here.env("revo-steward")),
        actor(TOILER, here.server.url, tmp_path / "log", **here.env("toiler")),
    ):
        command = ("submit", "toil", "--jsonl", str(work), "--results", "r.jsonl", "--url", here.server.url)
        done = await run(shell, *command, **here.env("alice"))
        again = await run(shell, *command, **here.env("alice"))
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert "50 of them before" in again.stderr
    assert begun(journal) == Counter(range(1, 51))


def test_a_file_of_results_that_is_something_else_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    work, other = tmp_path / "work.jsonl", tmp_path / "notes.txt"
    write_lines(work, 1)
    for text in ("my notes", '{"id": 1}\n'):
        other.write_text(text)
        done = shell.revo("submit", "toil", "--jsonl", str(work), "--results", str(other))
        assert (done.returncode, "line 1 is no result" in done.stderr) == (2, True)
        assert other.read_text() == text


def test_two_processes_do_not_write_one_file_of_results(shell: Shell, tmp_path: Path) -> None:
    work, results = tmp_path / "work.jsonl", tmp_path / "results.jsonl"
    write_lines(work, 1)
    with results.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = shell.revo("submit", "toil", "--jsonl", str(work), "--results", str(results))
    assert (done.returncode, "another process is writing it" in done.stderr) == (2, True)
