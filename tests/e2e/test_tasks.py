"""`revo tasks`, `revo dead`, `revo verify` and `revo chaos` on a mesh that runs, as a user types them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bus.connection import Connection
from bus.settings import Settings
from tests.e2e.conftest import Shell
from tests.e2e.test_up import free_port
from tests.eventually import eventually

AGENT = """
import asyncio, pathlib
from pydantic import BaseModel
from revo import Agent, task

class Job(BaseModel):
    seconds: float = 0.0
    fail: bool = False
    note: str = ""

class NotToday(Exception):
    code = "not_today"
    retryable = False
    details = {"try": "tomorrow"}

class Worker(Agent):
    concurrency = 4

    @task("job", ack_wait=1.0)
    async def job(self, job: Job) -> float | str:
        if job.fail and not pathlib.Path("mended").exists():
            raise NotToday("the moon is in the wrong house")
        await asyncio.sleep(job.seconds)
        return job.note or job.seconds
"""
LARGE = "large " * 150_000
"""More than a message takes: it travels beside it."""


@pytest.fixture
def running(shell: Shell) -> Shell:
    (shell.folder / "worker.py").write_text(AGENT)
    text = f'[server]\nport = {free_port()}\n[actors.worker]\ntarget = "worker.py:Worker"\ncount = 2\n'
    (shell.folder / "mesh.toml").write_text(text)
    shell.json("up", "--detach")
    return shell


async def test_tasks_are_seen_where_they_are_and_cancelled(running: Shell) -> None:
    long = running.json("submit", "job", "seconds=60")["task_id"]
    waiting = running.json("submit", "nobody", "a=1", "--priority", "low")["task_id"]
    ended = running.json("submit", "job", f"note={LARGE}", "--wait")
    done = ended["task_id"]
    assert ended["value"] == LARGE

    def runs() -> Any:
        return running.json("tasks", "show", long)["state"] == "running"

    await eventually(runs)
    seen = running.json("tasks", "ls")
    assert [
        (queue["capability"], queue["priority"], queue["waiting"], queue["served"]) for queue in seen["queues"]
    ] == [
        ("job", "normal", 0, True),
        ("nobody", "low", 1, False),
    ]
    assert [(task["task_id"], task["state"]) for task in seen["running"]] == [(long, "running")]
    assert [(task["task_id"], task["status"]) for task in seen["ended"]] == [(done, "succeeded")]
    shown = running.revo("tasks", "ls", COLUMNS="80").stdout
    assert long in shown
    assert "no agent has had this" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert running.json("tasks", "ls", "--capability", "nobody")["running"] == []

    shown = running.revo("tasks", "show", long).stdout
    assert "running, for" in shown
    assert "worker-" in shown
    assert running.json("tasks", "show", waiting)["state"] == "queued"
    shown = running.json("tasks", "show", done)
    assert (shown["state"], shown["value"]) == ("succeeded", LARGE)
    assert "(900,000 characters; --output json has all of them)" in running.revo("tasks", "show", done).stdout
    unknown = running.revo("tasks", "show", "never-was")
    assert (unknown.returncode, "neither waits nor runs" in unknown.stderr) == (1, True)

    assert running.json("tasks", "cancel", long)["cancelled"]
    assert "is cancelled" in running.revo("tasks", "cancel", waiting).stdout
    assert running.json("tasks", "show", long)["state"] == "cancelled"
    late = running.revo("tasks", "cancel", done)
    assert (late.returncode, "too late" in late.stderr, "succeeded" in late.stderr) == (1, True, True)

    def let_go() -> bool:
        return not running.json("tasks", "ls")["queues"]

    await eventually(let_go)
    report = running.json("verify")
    assert (report["accepted"], report["ended"], report["good"]) == (3, 3, True)
    text = running.revo("verify").stdout
    assert "2 cancelled, 1 succeeded" in text
    assert "0  lost" in text


async def test_a_task_that_waits_is_shown_with_its_start_as_far_as_that_can_be_told(running: Shell) -> None:
    assert running.json("submit", "job", "--wait")["status"] == "succeeded"
    running.revo("pause", "job")
    submitted = running.json("submit", "job", "seconds=0.1")
    assert submitted["starts_in"] is None
    shown = running.revo("tasks", "show", submitted["task_id"]).stdout
    assert "cannot be told: job is paused" in shown
    running.revo("resume", "job")

    def ended() -> Any:
        return running.json("tasks", "show", submitted["task_id"])["state"] == "succeeded"

    await eventually(ended)
    assert running.json("submit", "job")["starts_in"] in (0.0, None), "there are slots; None: it has ended by now"


async def test_dead_letters_are_listed_shown_redriven_and_dropped(running: Shell) -> None:
    failed = running.revo("submit", "job", "fail=true", f"note={LARGE}", "--wait", "--id", "first")
    assert (failed.returncode, "not_today" in failed.stderr) == (1, True)

    def listed() -> bool:
        return [letter["task_id"] for letter in running.json("dead", "ls")] == ["first"]

    await eventually(listed)
    shown = running.revo("dead", "show", "first").stdout
    for part in ("not_today", "the moon is in the wrong house", '"try": "tomorrow"', '"fail": true', "NotToday"):
        assert part in shown
    assert running.json("dead", "show", "first")["message"] == {"fail": True, "note": LARGE}

    (again,) = running.json("dead", "redrive", "first")
    assert again["redrive_of"] == "first"

    def two() -> bool:
        return len(running.json("dead", "ls")) == 2

    await eventually(two)
    (running.folder / "mended").touch()
    (third,) = running.json("dead", "redrive", "--all")
    assert third["redrive_of"] == again["task_id"], "the first has been redriven already"

    def mended() -> bool:
        chain = running.json("dead", "show", "first")["chain"]
        return [link["status"] for link in chain] == ["failed", "failed", "succeeded"]

    await eventually(mended)
    assert third["task_id"] in running.revo("dead", "show", again["task_id"]).stdout
    unknown = running.revo("dead", "drop", "first", "never-was")
    assert unknown.returncode == 1
    assert "the dead letter of task first is gone" in unknown.stdout
    assert "there is none" in unknown.stderr
    assert len(running.json("dead", "drop", "--all", "--yes")) == 1
    assert running.json("dead", "ls") == []
    assert running.revo("dead", "ls").stdout.strip() == "no dead letters"
    assert running.json("verify")["good"]


async def test_a_loss_is_named_and_verify_fails(running: Shell) -> None:
    running.json("submit", "nobody", "a=1")
    settings = Settings(home=running.home)
    async with await Connection.open(settings.find_url(), settings=settings) as operator:
        await operator.request("$JS.API.STREAM.MSG.DELETE.TASKS", b'{"seq": 1}')
    done = running.revo("verify")
    assert done.returncode == 1
    assert "1  lost: neither waiting nor ended" in done.stdout


async def test_chaos_kills_stops_restarts_and_nothing_is_lost(running: Shell) -> None:
    over = threading.Event()

    def submit() -> None:
        while not over.is_set():
            running.revo("submit", "job", "seconds=0.2")  # which fails while there is no server

    with ThreadPoolExecutor() as pool:
        submitting = pool.submit(submit)
        try:
            report = running.json("chaos", "--seconds", "8", "--every", "0.5", "--yes")
        finally:
            over.set()
        submitting.result()
    assert report["good"], report
    assert report["server_kills"] >= 1
    assert sum(report["kills"].values()) >= 4
    assert report["accepted"] >= 5

    def all_ended() -> bool:
        return bool(running.json("verify")["waiting"] == 0)

    def all_ready() -> bool:
        state = json.loads((running.home / "mesh.json").read_text())
        return {actor["state"] for actor in state["actors"]} == {"ready"}

    await eventually(all_ended, timeout=70)  # a delivery that the server forgot comes again after its ack deadline
    await eventually(all_ready)  # the last that was killed may be on its way back
    asked = running.revo("chaos")
    assert (asked.returncode, "say --yes" in asked.stderr) == (2, True)
