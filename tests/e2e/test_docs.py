"""What the documents show is what runs: every code block of the README, and the wire as a bare NATS client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import nats
import pytest

from actors.meshfile import MeshFile
from bus.server import Server
from tests.e2e.conftest import BIN, ROOT, Shell
from tests.eventually import eventually, in_time
from tests.processes import actor

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ANALYST = "actors.agents.code_analyst:CodeAnalyst"


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_the_readme_has_no_block_that_no_test_runs() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "toml"}
    assert (len(blocks("sh")), len(blocks("python")), len(blocks("toml"))) == (7, 2, 1)


def test_the_agent_in_the_readme_is_the_example() -> None:
    agent, client = blocks("python")
    assert agent == (ROOT / "examples" / "echo_agent.py").read_text()
    assert client == (ROOT / "examples" / "client.py").read_text()
    assert len([line for line in agent.splitlines() if line.strip()]) <= 10


def test_the_mesh_file_in_the_readme_is_the_example_and_is_valid() -> None:
    (text,) = blocks("toml")
    assert text == (ROOT / "examples" / "mesh.toml").read_text()
    assert set(MeshFile.load(ROOT / "examples" / "mesh.toml").actors) == {"code-analyst", "echo"}


@pytest.mark.parametrize("number", range(7))
def test_the_commands_in_the_readme_do_what_they_say(number: int, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    folder, script = ROOT, blocks("sh")[number]
    if number:
        folder = tmp_path  # what the commands leave behind shall not be in the repository
        activate, _, script = script.partition("\n")
        assert activate == ". .venv/bin/activate"  # the tests' own environment is active already
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    else:
        shell.env["DEMO_PATH"] = str(ROOT / "bus")  # fewer files than the standard library has
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        cwd=folder,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    each = ("lost: 0", '"text": "hi"', "{'text': 'hi'}", "code-analyst", '"files": 2', "refused: it was", "0  lost")
    shows = each[number]
    assert shows in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_commands_for_a_foreign_agent_do_what_they_say(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "foreign-agents.md").read_text()
    (script,) = re.findall(r"^```sh\n(revo up .*?)^```$", text, re.MULTILINE | re.DOTALL)
    shell = Shell(tmp_path)
    shell.env["REVO_HOME"] = ".revo"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    try:
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", f"trap 'kill $! || true' EXIT\n{script}"],
            cwd=tmp_path,
            env=shell.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        shell.revo("down")
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "lines: 12, functions: 1, classes: 0",
        "longest function: main, 4 lines from line 6",
        "refused: it was",
    ):
        assert said in done.stdout
    assert done.stdout.count("longest function") == 2, "as a task, and as a prompt"
    assert "400: not Python source: invalid syntax" in done.stderr


async def test_the_registry_document_works_as_it_stands(shell: Shell) -> None:
    text = (ROOT / "docs" / "registry.md").read_text()
    shell.json("up", str(ROOT / "examples" / "mesh.toml"), "--detach")
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        words = line.partition("#")[0].split()
        assert words[0] == "revo"
        assert shell.revo(*words[1:]).stdout
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (shell.folder / "who.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "who.py"],
        cwd=shell.folder,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "echo-" in done.stdout
    assert "[{'text': 'hi'}] []" in done.stdout, "the broadcast's answers, and nobody missing"
    assert done.stdout.count("{'text': 'hi'}") == 2


def test_the_memory_document_works_as_it_stands(shell: Shell) -> None:
    text = (ROOT / "docs" / "memory.md").read_text()
    shell.json("up", "--detach")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (shell.folder / "share.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "share.py"],
        cwd=shell.folder,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("{'files': 3} by ")
    assert lines[1:] == [
        "bob was slower than ann",
        "merged {'runs': 5, 'tags': ['fast']}",
        "{'files': 3}",
        "{'files': 4}",
    ]
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    said = [shell.revo(*shlex.split(line)[1:]) for line in commands.splitlines()]
    assert [one.returncode for one in said] == [0] * len(said), [one.stderr for one in said]
    assert "first_writer_wins" in said[-1].stdout


async def test_the_document_on_choosing_works_as_it_stands(server: Server, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "choosing.md").read_text()
    agent, client = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "greeter.py").write_text(agent)
    (tmp_path / "client.py").write_text(client)
    target = f"{tmp_path / 'greeter.py'}:Greeter"
    async with (
        actor("actors.registry:Registry", server.url, tmp_path / "registry.log"),
        actor(target, server.url, tmp_path / "1.log") as first,
        actor(target, server.url, tmp_path / "2.log") as second,
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "client.py",
            cwd=tmp_path,
            env={**os.environ, "REVO_NATS_URL": server.url},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await in_time(process.communicate(), 30)
    lines = out.decode().splitlines()
    assert len([line for line in lines if line.startswith("hello ann, this is greeter-")]) == 7
    assert {line.split()[-1] for line in lines[:7]} <= {first.instance, second.instance}
    assert lines[7:] == ["{'greeter': 'ann'}", "['ann']", "['greeter']"]


def python_in(name: str) -> list[str]:
    """The programs, and parts of such, that a document shows."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / name).read_text(), re.MULTILINE | re.DOTALL)


async def test_the_programs_on_long_tasks_families_schedules_and_payloads_work_as_they_stand(
    server: Server, tmp_path: Path
) -> None:
    crawler, follow = python_in("progress.md")
    editor, some, _ = python_in("children.md")
    (schedules,) = python_in("schedules.md")
    (payload,), (fairness,) = python_in("payloads.md"), python_in("fairness.md")
    parts = (
        payload + "print(text)\n" + fairness,
        'handles = [await mesh.submit("summarize", {"chapter": "one"})]\n' + some,
        'print(await (await mesh.submit("digest", {"chapters": ["a", "b"]})).result())',
    )
    body = textwrap.indent("\n".join(parts), " " * 8)
    begin = "import asyncio\nfrom pathlib import Path\nfrom revo import Mesh\n\nasync def main():\n"
    rest = f"{begin}    async with Mesh.connect() as mesh:\n{body}\n\nasyncio.run(main())\n"
    programs = {"crawler": crawler, "editor": editor, "follow": follow, "schedules": schedules, "rest": rest}
    for name, text in programs.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "talk.flac").write_bytes(bytes(1000))

    async def run(name: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            f"{name}.py",
            cwd=tmp_path,
            env={**os.environ, "REVO_NATS_URL": server.url},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await in_time(process.communicate(), 30)
        assert process.returncode == 0, name
        return out.decode().splitlines()

    async with contextlib.AsyncExitStack() as stack:
        targets = ["tests.e2e.documented:Documented", "actors.steward:Steward"]
        targets += [f"{tmp_path / 'crawler.py'}:Crawler", f"{tmp_path / 'editor.py'}:Editor"]
        started = (actor(target, server.url, tmp_path / f"{n}.log") for n, target in enumerate(targets))
        await asyncio.gather(*map(stack.enter_async_context, started))
        followed, later, others = await asyncio.gather(run("follow"), run("schedules"), run("rest"))
    pages = [line.partition(" ")[2] for line in followed if "words" in line]
    assert pages == ["{'page': 'a', 'words': 4}", "{'page': 'b', 'words': 4}"]
    assert followed[-1] == "8"
    assert (later[0], later[-1]) == ("report {'week': 47}", "3")
    assert others[0] == "1000"
    assert others[-1] == "[\"summary {'chapter': 'a'}\", \"summary {'chapter': 'b'}\"]"


async def test_the_wire_document_works_in_plain_nats_py(server: Server, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "wire.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "bare.py").write_text(code)
    async with actor(ANALYST, server.url, tmp_path / "log"):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "bare.py",
            cwd=tmp_path,
            env={"REVO_NATS_URL": server.url, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await in_time(process.communicate(), 30)
    stored, result = out.decode().splitlines()
    assert "'stream': 'TASKS'" in stored
    assert result == "succeeded {'F401': 1}"


async def test_any_nats_client_publishes_a_task_and_finds_its_result_as_json(server: Server, tmp_path: Path) -> None:
    async with actor(ANALYST, server.url, tmp_path / "log"):
        client = await nats.connect(server.url)
        js = client.jetstream()
        done = await client.subscribe("revo.done.anon.>")
        await client.publish("revo.task.code_review.normal", b'{"source": "import os\\n"}')
        result = json.loads((await done.next_msg(timeout=15)).data)
        assert (result["status"], result["value"]["rules"]) == ("succeeded", {"F401": 1})
        subject = f"revo.result.anon.code_review.{result['task_id']}"
        stored = await js.get_last_msg("RESULTS", subject)
        assert stored.data is not None
        assert json.loads(stored.data) == result
        assert (stored.headers or {})["Content-Type"] == "application/json"
        await client.close()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\x00\xffgarbage", None),
        (b'{"nothing": "we know"}', None),
        (b"[]", None),
        (b"", None),
        (b'{"source": ', None),
        (b"\xc1", {"Content-Type": "application/msgpack"}),
        (b"{}", {"Content-Type": "text/html"}),
        (b'{"source": "x"}', {"Revo-Task-Id": "no.dots.allowed"}),
        (b'{"source": "x"}', {"Revo-Deadline": "soon"}),
        (b'{"source": "x"}', {"Revo-Deadline": "nan"}),
        (b'{"source": "x"}', {"Revo-Deadline": "1e300"}),
        (b'{"source": "x"}', {"Revo-Deadline": "-1"}),
        (b"bad", {"Nats-Rollup-Extra": "x", "My-Own": "kept", "traceparent": "nonsense"}),
    ],
)
async def test_garbage_ends_as_failed_with_a_dead_letter_of_the_original_bytes(
    server: Server, tmp_path: Path, body: bytes, headers: dict[str, str] | None
) -> None:
    async with actor(ANALYST, server.url, tmp_path / "log"):
        client = await nats.connect(server.url)
        js = client.jetstream()
        done = await client.subscribe("revo.done.anon.>")
        await client.publish("revo.task.code_review.normal", body, headers=headers)
        result = await done.next_msg(timeout=15)
        task_id = (result.headers or {})["Revo-Task-Id"]

        async def letter() -> object:
            try:
                return await js.get_last_msg("DEAD", f"revo.dead.anon.code_review.{task_id}")
            except nats.js.errors.NotFoundError:
                return None

        dead = await eventually(letter)
        assert (dead.data or b"") == body
        why = json.loads(dead.headers["Revo-Dead-Letter"])
        assert why["error"]["code"] == "decode"
        if headers and "My-Own" in headers:
            assert dead.headers["My-Own"] == "kept"
        good = await client.request("revo.task.code_review.normal", b'{"source": "x = 1"}')
        assert json.loads(good.data)["seq"] == 2
        assert json.loads((await done.next_msg(timeout=15)).data)["status"] == "succeeded", "the worker lives"
        await client.close()
