"""What the conformance suite asks of a worker ours and the one on Node do; and one that does not is caught."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bus import topology
from bus.audit import audit
from bus.connection import Connection
from bus.mesh import Mesh
from bus.server import Server
from revo.conformance.proving import CHECKS
from revo.conformance.requirements import BY_NAME, REQUIREMENTS
from revo.conformance.runner import Plan, Report, run
from tests.conformance.told import FAULTS
from tests.conftest import nothing_queued
from tests.eventually import eventually
from tests.node import worker_on_node

ROOT = Path(__file__).parents[2]
PLAIN = (sys.executable, "-m", "tests.conformance.plain")
SLOW = {
    "acknowledges on arrival",
    "does not answer",
    "does not come back",
    "does not extend",
    "does not hear that a task was cancelled",
    "has no heart",
    "never gives up",
    "runs on past the deadline",
}
"""Those that show by something which does not happen."""
GROUPS = [
    SLOW - {"acknowledges on arrival"},
    {"acknowledges on arrival"},
    {
        "chokes on unknown headers",
        "cuts what is too large",
        "does not compare before it stores a result",
        "forgets who it is",
        "keeps results for ever",
        "limits deliveries",
        "loses the trace",
        "makes up ids",
        "reads everything as text",
        "says nothing of its policy",
        "takes a blob for an empty body",
        "takes any header",
        "tries again at once",
        "tries again what no retry cures",
        "writes no dead letter",
    },
    {
        "acknowledges before the result is stored",
        "hands back without a word",
        "keeps no record",
        "reads numbers as texts",
        "runs poison",
        "runs what has its result",
        "runs what is past its deadline",
        "runs what it has done under the same id",
        "sets up its consumers anew",
    },
    {
        "counts deliveries as attempts",
        "dies of SIGTERM",
        "drops what it cannot store",
        "leaves a failed result without its dead letter",
        "stores its result over another",
        "takes the least urgent first",
        "tries garbage again",
        "writes the dead letter last",
    },
]
"""Faults that do not hide one another: each group is one worker."""


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def not_ok(report: Report) -> dict[str, str]:
    return {one.requirement.name: f"{one.verdict}: {one.why}" for one in report.outcomes if one.verdict != "ok"}


async def test_our_own_worker_does_all_that_is_asked_of_one() -> None:
    agent = (sys.executable, "-m", "revo", "run", "examples/conformance_agent.py:Conformer")
    report = await run(Plan("conform", command=shlex.join(agent)))
    found = not_ok(report)
    if found.get("hand-back", "").startswith("skipped"):
        del found["hand-back"]  # it draws no more than it has slots for, so it may have nothing to hand back
    assert found == {}, report.log
    assert len(report.outcomes) == len(REQUIREMENTS)


async def test_a_worker_on_node_with_only_its_nats_client_does_all_that_is_asked_of_one(tmp_path: Path) -> None:
    report = await run(Plan("node", command=shlex.join(worker_on_node(tmp_path))))
    assert not_ok(report) == {}, report.log


async def test_a_worker_on_plain_nats_py_does_all_that_is_asked_of_one() -> None:
    report = await run(Plan("plain", command=shlex.join(PLAIN)))
    assert not_ok(report) == {}, report.log


@pytest.mark.parametrize("faults", GROUPS, ids=min)
async def test_a_worker_that_breaks_a_requirement_is_caught_by_its_check(faults: set[str]) -> None:
    checks = {FAULTS[fault][0] for fault in faults}
    command = shlex.join([*PLAIN, *sorted(faults)])
    report = await run(Plan("plain", command=command, only=checks, patience=3.0 if faults & SLOW else 15.0))
    said = not_ok(report)
    for fault in sorted(faults):
        check, says = FAULTS[fault]
        assert says in said.get(check, "ok"), f"it {fault}: {said}"
        assert said[check].startswith("failed")


def test_every_requirement_has_a_check_and_a_worker_that_breaks_it() -> None:
    assert set(CHECKS) == set(BY_NAME)
    assert set.union(*GROUPS) == set(FAULTS)
    unbroken = set(BY_NAME) - {check for check, _ in FAULTS.values()}
    assert unbroken == set()


def test_the_document_lists_every_requirement_as_the_suite_has_it() -> None:
    document = (ROOT / "docs" / "conformance.md").read_text()
    rows = [line for line in document.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert rows == [f"| {one.number} | `{one.name}` | {one.level} | {one.says} |" for one in REQUIREMENTS]


def test_the_suite_imports_nothing_of_our_own_worker() -> None:
    script = "import sys, revo.conformance.runner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours = {"bus.worker", "bus.running", "bus.settling", "bus.endings", "bus.extender", "bus.pull", "actors.actor"}
    assert ours & set(done.stdout.split()) == set()


async def test_a_command_that_ends_at_once_fails_every_check_and_says_what_it_said() -> None:
    report = await run(Plan("plain", command=f"{sys.executable} -c 'print(\"no such luck\")'", only=["json", "kill"]))
    assert not report.conforms
    assert [one.verdict for one in report.outcomes] == ["failed", "failed"]
    assert all("status 0; its output ends with: no such luck" in one.why for one in report.outcomes)


async def test_where_the_worker_and_the_server_are_others_what_would_kill_them_is_left_out(
    server: Server, connection: Connection
) -> None:
    await topology.apply(connection)
    process = await asyncio.create_subprocess_exec(*PLAIN, env={**os.environ, "REVO_NATS_URL": server.url})
    try:
        report = await run(Plan("plain", url=server.url, only=["json", "kill", "drain", "full-results"]))
    finally:
        process.kill()
        await process.wait()
    assert report.conforms
    assert [one.verdict for one in report.outcomes] == ["ok", "skipped", "skipped", "skipped"]


async def test_what_the_python_client_submits_the_worker_on_node_does_and_the_audit_finds_nothing_wrong(
    server: Server, mesh: Mesh, tmp_path: Path
) -> None:
    command = worker_on_node(tmp_path)
    await topology.apply(mesh.connection)
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "REVO_NATS_URL": server.url})
    try:
        numbers = [
            0,
            1,
            -1,
            127,
            128,
            -32,
            -33,
            255,
            256,
            65535,
            65536,
            -129,
            -32769,
            2**31,
            2**32,
            -(2**40),
            2**53 - 1,
        ]
        value = {"numbers": numbers, "floats": [0.5, -1e300], "texts": ["", "ü" * 40, "x" * 70_000], "none": None}
        value |= {"lists": [[n] * n for n in (0, 15, 16, 70_000)], "map": {str(n): n for n in range(20)}}
        assert await (await mesh.submit("node", {"do": "echo", "value": value})).result(timeout=30) == value
        failed = await (await mesh.submit("node", {"do": "fail-for-good"})).outcome(timeout=30)
        assert (failed.status, failed.error and failed.error.code) == ("failed", "as_told")
        for _ in range(2):  # the second finds the result of the first, written by Node in msgpack
            again = await mesh.submit("node", {"do": "echo", "value": 1}, task_id="twice")
            assert await again.result(timeout=30) == 1
        await eventually(lambda: nothing_queued(mesh))
    finally:
        process.kill()
        await process.wait()
    assert (await audit(mesh.connection)).good


@pytest.mark.parametrize(("where", "verdict"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_the_modules_of_node_ci_fails_and_nobody_else_takes_it_for_tested(
    where: str, verdict: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.setup_node.MODULES", tmp_path / "none")
    monkeypatch.setenv("CI", where)
    with pytest.raises(verdict, match="cannot be run"):
        worker_on_node(tmp_path)


def test_the_lock_of_the_worker_on_node_pins_what_it_installs_and_names_no_registry() -> None:
    lock = json.loads((ROOT / "examples" / "worker-node" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert {"node_modules/@nats-io/transport-node", "node_modules/@nats-io/nats-core"} <= set(packages)
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
    assert set(lock["packages"][""]["dependencies"]) == {"@nats-io/transport-node"}
