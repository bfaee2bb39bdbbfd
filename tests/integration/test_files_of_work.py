"""What keeps work from files that is taken up again from being done twice: ids, and the file of results."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bus import jetstream, subjects
from bus.mesh import Mesh
from bus.server import Server
from revo.cli.common import Output
from revo.cli.files import work_off
from revo.cli.schedule import Timing
from revo.cli.source import Lines
from revo.cli.submit import Request
from revo.cli.work import Work
from tests.conftest import QUICK, StartWorker


async def submit(server: Server, file: Path, results: Path | None, *, again: bool = False) -> int:
    """The command, on a loop of its own."""
    request = Request("echo", [], None, "normal", None, None, False, None, None, Timing())
    work = Work(None, str(file), None, None, results, None, 1000, again)
    return await asyncio.to_thread(work_off, request, work, timeout=30, url=server.url, output=Output.TEXT)


async def test_work_that_is_taken_up_again_finds_the_results_of_what_was_submitted(
    server: Server, start_worker: StartWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[int] = []

    async def handler(message: dict[str, int]) -> int:
        runs.append(message["id"])
        return message["id"]

    await start_worker(handler, concurrency=4)
    work = tmp_path / "work.jsonl"
    work.write_text("".join(f'{{"id": {n % 5}}}\n' for n in range(20)))
    for _ in range(2):
        assert await submit(server, work, None) == 0
        ends = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert sorted((end["n"], end["value"]) for end in ends) == [(n + 1, n % 5) for n in range(20)]
    assert len(runs) == 20, "lines of one content are tasks of their own, and none ran again"


async def test_what_stands_in_the_file_of_results_is_not_even_submitted(
    server: Server, mesh: Mesh, start_worker: StartWorker, tmp_path: Path
) -> None:
    async def handler(message: dict[str, int]) -> int:
        return 1 // message["id"]

    await start_worker(handler, concurrency=4)
    work, results = tmp_path / "work.jsonl", tmp_path / "results.jsonl"
    work.write_text('{"id": 1}\n{"id": 0}\n')
    stored = []
    for _ in range(2):
        assert await submit(server, work, results) == 1, "what failed counts again"
        info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
        stored.append(info["state"]["last_seq"])
    assert stored == [2, 2]
    assert sorted(json.loads(line)["status"] for line in results.read_text().splitlines()) == ["failed", "succeeded"]


async def test_what_failed_is_done_again_when_that_is_asked_for_and_only_then(
    server: Server, start_worker: StartWorker, tmp_path: Path
) -> None:
    runs: list[int] = []

    async def handler(message: dict[str, int]) -> int:
        runs.append(message["id"])
        return 1 // message["id"] if runs.count(0) < 3 * QUICK.max_attempts else 7

    await start_worker(handler)
    work, results = tmp_path / "work.jsonl", tmp_path / "results.jsonl"
    work.write_text('{"id": 1}\n{"id": 0}\n')
    statuses = [await submit(server, work, results, again=again) for again in (False, True, False, True, False, True)]
    assert statuses == [1, 1, 1, 0, 0, 0]
    assert runs.count(0) == 3 * QUICK.max_attempts, "three tasks, which failed twice"
    assert runs.count(1) == 1, "what had succeeded is left alone"
    ends = [json.loads(line) for line in results.read_text().splitlines()]
    assert [end["status"] for end in ends if end["n"] == 2] == ["failed", "failed", "succeeded"]
    assert len({end["task_id"] for end in ends}) == 4


def test_the_same_line_for_somebody_else_is_other_work(tmp_path: Path) -> None:
    (tmp_path / "work.jsonl").write_text('{"id": 1}\n')
    keys = set()
    for to in ("toil\0", "echo\0", "echo\0toiler"):
        (item,) = Lines(str(tmp_path / "work.jsonl"), {}, "", to).items()
        keys.add(item.key)
    assert len(keys) == 3
