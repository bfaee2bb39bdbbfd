"""`revo memory`: all of its commands on one server. No coordinator runs: whoever may do all needs none."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.memory.client import Memory
from bus.mesh import Mesh
from bus.server import Server
from revo.cli import completion
from tests.e2e.conftest import Shell
from tests.eventually import eventually

_DRIVER = """
import contextlib, io, json, sys
from revo.cli.app import main
commands, sys.stdin = json.loads(sys.argv[1]), io.StringIO(sys.argv[2])
for command in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["memory", *command])
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


class Revo:
    """Runs `revo memory`, many commands in one process of its own: starting one takes as long as thirty commands."""

    def __init__(self, shell: Shell, url: str) -> None:
        self._shell = shell
        self._env = {**shell.env, "REVO_NATS_URL": url, "COLUMNS": "140"}

    async def __call__(self, *commands: str, stdin: str = "") -> list[Any]:
        """What the commands say, one after the other: what they print, read if it is JSON, or their code and error."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _DRIVER, json.dumps([shlex.split(one) for one in commands]), stdin],
            cwd=self._shell.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=40,
            check=True,
        )
        said = map(json.loads, done.stdout.splitlines())
        return [self._read(out) if not code else (code, out + err) for code, out, err in said]

    def _read(self, out: str) -> Any:
        try:
            return json.loads(out)
        except ValueError:
            lines = out.splitlines()
            return [json.loads(line) for line in lines] if out.startswith("{") else out


@pytest.fixture
def revo(tmp_path: Path, server: Server) -> Revo:
    return Revo(Shell(tmp_path), server.url)


async def test_entries_and_their_versions(
    revo: Revo, tmp_path: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    (tmp_path / "app.json").write_text('{"runs": 1, "tags": ["a"]}')
    first, other, missing = await revo(
        "put project/app @app.json -o json", "put project/web - -o json", "get nothing", stdin='"text"'
    )
    assert (first["outcome"], first["namespace"], other["key"]) == ("written", "main", "project/web")
    assert missing == (1, "revo: nothing in main: nothing stands there\n")

    memory, one = Memory(mesh, "main"), first["version"]
    two = (await memory.put("project/app", {"runs": 2, "tags": ["a", "b"]}, one)).version
    everything, entry, old, text, changes, versions, listed, removed, gone, back, never = await revo(
        "ls -o json",
        "get project/app -o json",
        f"get project/app --version {one}",
        "get project/web",
        f"diff project/app {one}",
        "history project/app -o json",
        "ls project/app",
        f"rm project/app --base {two}",
        "get project/app",
        "undelete project/app",
        "get project/app --version 99",
    )
    assert [one["key"] for one in everything] == ["project/app", "project/web"]
    assert (entry["value"]["runs"], entry["version"], entry["base"]) == (2, two, one)
    assert (old["runs"], text) == (1, "text\n")
    assert changes.splitlines() == ["~ runs: 1 -> 2", '+ tags[1]: "b"']
    assert [one["value"]["runs"] for one in versions] == [1, 2]
    assert listed.startswith("1 entry in main, project/app and below")
    assert removed.startswith("project/app is deleted as version")
    assert gone == (1, "revo: project/app in main: nothing stands there\n")
    assert back.startswith("project/app stands there as version")
    assert never[0] == 1
    assert "project/app has no version 99" in never[1]

    (followed,) = await revo(f"watch project/app --since {one} --count 3 -o json")
    value = {"runs": 2, "tags": ["a", "b"]}
    assert [(one["deleted"], one["value"]) for one in followed] == [(False, value), (True, None), (False, value)]

    monkeypatch.setenv("REVO_NATS_URL", server.url)
    assert await asyncio.to_thread(completion.namespaces, "m") == ["main"]


async def test_namespaces_conflicts_and_locks(revo: Revo, mesh: Mesh) -> None:
    memory = Memory(mesh, "plans")
    first = (await memory.put("x", {"runs": 1, "goal": "all"})).version
    await memory.put("x", {"runs": 2, "goal": "some"}, first)
    against = {"runs": 1, "goal": "none"}
    how, merged, refused, (waits,), shown, late, beyond = await revo(
        "namespaces set plans --strategy merge --rule runs=counter -o json",
        f"""put x '{{"runs": 3, "goal": "all"}}' -n plans --base {first} -o json""",
        f"put x '{json.dumps(against)}' -n plans --base {first}",
        "conflicts ls -n plans -o json",
        "conflicts show x -n plans",
        f"conflicts resolve x -n plans --take 1 --base {first}",
        "conflicts resolve x -n plans --take 2",
    )
    assert how == {"namespace": "plans", "strategy": "merge", "rules": {"runs": "counter"}, "ranks": {}}
    assert (merged["outcome"], merged["value"]) == ("merged", {"runs": 4, "goal": "some"})
    assert refused[0] == 1
    assert "`revo memory conflicts show x -n plans` shows both" in refused[1]
    assert (waits["key"], waits["conflicts"]) == ("x", 1)
    assert "goal: both changed it" in shown
    assert '~ goal: "some" -> "none"' in shown
    assert late == (2, f"revo: --base {first}: version {waits['version']} stands there by now; look at it again\n")
    assert beyond == (2, "revo: --take 2: there are 0 to 1\n")

    async with memory.lock("x", timeout=5):
        waiting = asyncio.create_task(_hold(memory, "x/y"))
        await eventually(lambda: _two(memory))
        resolved, over, table, everywhere, listed, used = await revo(
            f"conflicts resolve x -n plans --take 1 --base {waits['version']} -o json",
            "conflicts show x -n plans",
            "locks -n plans",
            "locks --all -o json",
            "namespaces ls -o json",
            "namespaces show plans",
        )
    await waiting
    assert resolved["outcome"] == "written"
    assert over == (1, "revo: x in plans: it has no conflicts\n")
    entry = await memory.get("x")
    assert entry is not None
    assert (entry.value, entry.alternatives) == (against, ())
    assert "1 held, 1 waited for, in plans" in table
    assert [(one["key"], one["token"] > 0) for one in everywhere] == [("x", True), ("x/y", False)]
    assert [(one["namespace"], one["strategy"], one["keys"]) for one in listed] == [("plans", "merge", 1)]
    assert "runs = counter" in " ".join(used.split())


async def _hold(memory: Memory, key: str) -> None:
    async with memory.lock(key, "shared", timeout=30):
        pass


async def _two(memory: Memory) -> bool:
    return len(await memory.locks()) == 2
