"""Each command with right and wrong input: one line, an exit status, never a traceback."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from revo.cli.app import app
from tests.e2e.conftest import BIN, ROOT, Shell

ECHO = f"{ROOT / 'examples' / 'echo_agent.py'}:Echo"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, ""),
        (("bogus",), 2, "no such command"),
        (("submit",), 2, "missing argument"),
        (("submit", "echo", "text=hi"), 3, "no mesh runs here"),
        (("submit", "echo", "text=hi", "--url", "nats://127.0.0.1:1"), 3, "no nats server at nats://127.0.0.1:1"),
        (("submit", "echo", "nonsense"), 2, "key=value"),
        (("submit", "echo", "--json", "{"), 2, "is not json"),
        (("submit", "echo", "--json", "[1]"), 2, "must be a map"),
        (("submit", "echo", "--jsonl", "/no/such/file"), 2, "--jsonl /no/such/file: no such file"),
        (("submit", "echo", "--each", "/no/such/*.py"), 2, "finds no file"),
        (("submit", "echo", "--each", "a.py", "b.py"), 2, "put the pattern in quotes"),
        (("submit", "echo", "--each", "*", "--jsonl", "-"), 2, "name one of them"),
        (("submit", "echo", "--results", "r"), 2, "name one of them"),
        (("submit", "echo", "--jsonl", "-", "--as", "x"), 2, "goes with --each"),
        (("submit", "echo", "--each", "/etc/host*", "--content", "path"), 2, "is the field that the path goes to"),
        (("submit", "echo", "--jsonl", "-", "--again"), 2, "--again: goes with --results"),
        (("submit", "echo", "--jsonl", "-", "nonsense"), 2, "key=value"),
        (("submit", "echo", "--jsonl", "-", "--id", "x"), 2, "--id: names one task"),
        (("submit", "echo", "--jsonl", "-", "--by-content"), 2, "--by-content: names one task"),
        (("submit", "echo", "--jsonl", "-", "--wait"), 2, "--wait: waits for one task, and all of many are waited for"),
        (("submit", "echo", "--each", "/etc/host*", "-w"), 2, "--wait: waits for one task"),
        (("submit", "echo", "--at-once", "5"), 2, "--each, --jsonl: name one of them"),
        (("submit", "echo", "--wait", "--timeout", "0"), 2, "invalid value for '--timeout'"),
        (("submit", "echo", "--jsonl", "-", "--timeout", "-1"), 2, "invalid value for '--timeout'"),
        (("submit", "echo", "--jsonl", "-", "--follow"), 2, "--follow: shows what one task says; leave it out with"),
        (("submit", "echo", "--each", "/etc/host*", "-f"), 2, "--follow: shows what one task says; leave it out with"),
        (("submit", "echo", "--jsonl", "-", "--cron", "@daily"), 2, "--cron: is of tasks that are done later"),
        (("submit", "echo", "--jsonl", "-", "--schedule", "x"), 2, "--schedule: is of tasks that are done later"),
        (("submit", "echo", "--jsonl", "-", "--results", "/no/such/r"), 2, "cannot be written"),
        (("submit", "echo", "--jsonl", "/dev/null"), 3, "no mesh runs here"),
        (("submit", "echo", "--jsonl", "/dev/null", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("submit", "e.cho", "--jsonl", "-"), 2, "cannot be used in a subject"),
        (("submit", "echo", "--jsonl", "-", "--at-once", "0"), 2, "invalid value"),
        (("prompt", "echo", "hi"), 3, "no mesh runs here"),
        (("prompt", "echo", "hi", "--attach", "/no/such/file"), 2, "/no/such/file: no such file"),
        (("prompt", "echo", "hi", "--save", "/no/such/folder"), 2, "is not a folder"),
        (("run",), 2, "required: target"),
        (("run", "nonsense"), 2, "package.module:class"),
        (("run", "no_such_module:X"), 2, "no module named"),
        (("run", ECHO), 3, "no mesh runs here"),
        (("run", ECHO, "--output", "yaml"), 2, "invalid choice"),
        (("run", ECHO, "--name", "no.dots", "--url", "nats://127.0.0.1:1"), 2, "cannot be used in a subject"),
        (("trace", "x"), 3, "no mesh runs here"),
        (("down",), 3, "no mesh runs here"),
        (("doctor", "--output", "yaml"), 2, "invalid value"),
        (("demo", "--path", "/no/such/folder"), 2, "is not a folder"),
        (("up", "/no/such/mesh.toml"), 2, "no such file"),
        (("bench",), 2, ""),
        (("run", ECHO, "--url", "garbage"), 2, "must look like nats://host:4222"),
        (("submit", "echo", "a=1", "--url", "garbage"), 2, "must look like nats://host:4222"),
        (("doctor", "--url", "nats://h:x"), 2, "must look like nats://host:4222"),
        (("up", "--url", "garbage"), 2, "must look like nats://host:4222"),
        (("submit", "echo", "--id", "a", "--key", "b", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("submit", "echo", "--after", "soon"), 2, "is no span such as 90, 15m, 2h or 1d"),
        (("submit", "echo", "--at", "tomorrow"), 2, "--at tomorrow: is no time such as"),
        (("submit", "echo", "--at", "2030-01-01T00:00:00"), 2, "says no time zone"),
        (("submit", "echo", "--every", "1.5"), 2, "--every 1.5: is not a whole number of seconds"),
        (("submit", "echo", "--every", "0"), 2, "--every 0: is under 1 second"),
        (("submit", "echo", "--every", "1h", "--after", "5"), 2, "--after and --every: give one of --at, --after,"),
        (("submit", "echo", "--schedule", "x"), 2, "--schedule: goes with one of --at, --after, --every and --cron"),
        (("submit", "echo", "--timezone", "UTC"), 2, "--timezone: goes with one of --at, --after, --every and --cron"),
        (("submit", "echo", "--after", "9999d"), 2, "--after 9999d: is more than ten years"),
        (("submit", "echo", "--every", "9999d"), 2, "--every 9999d: is more than ten years"),
        (("submit", "echo", "--at", "18000000000"), 2, "--at 18000000000: is not a time between 1970 and ten years"),
        (("submit", "echo", "--at", "1800000000"), 3, "no mesh runs here"),
        (("submit", "echo", "--cron", "0 25 * * *"), 2, "'25' is no hour: 0 to 23"),
        (("submit", "echo", "--cron", "0 9 * * *", "--timezone", "Mars"), 2, "'mars': is none"),
        (("submit", "echo", "--cron", "0 9 * * *", "--wait"), 2, "name it by --schedule"),
        (("submit", "echo", "--after", "5", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("schedule",), 2, ""),
        (("schedule", "ls"), 3, "no mesh runs here"),
        (("schedule", "show", "a.b"), 2, "cannot be used in a subject"),
        (("schedule", "rm"), 2, "missing argument"),
        (("schedule", "pause", "x", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("tasks",), 2, ""),
        (("tasks", "ls"), 3, "no mesh runs here"),
        (("tasks", "show", "a.b"), 2, "cannot be used in a subject"),
        (("tasks", "cancel"), 2, "missing argument"),
        (("dead", "redrive"), 2, "name task ids, or say --all"),
        (("dead", "drop", "--all"), 2, "say --yes"),
        (("dead", "ls", "--capability", "a.b", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("spec",), 3, "no mesh runs here"),
        (("spec", "bogus"), 2, "invalid value"),
        (("spec", "--output", "text"), 2, "invalid value"),
        (("spec", "--target", "nonsense"), 2, "package.module:class"),
        (("spec", "--capability", "a.b"), 2, "cannot be used in a subject"),
        (("spec", "--target", ECHO, "--capability", "nobody"), 2, "nobody who was asked has it"),
        (("spec", "--target", ECHO, "--to", "/no/such/file"), 2, "cannot be written"),
        (("spec", "schemas", "--target", ECHO, "--to", "/dev/null/x"), 2, "is no folder"),
        (("verify",), 3, "no mesh runs here"),
        (("chaos",), 3, "no mesh runs here"),
        (("chaos", "--seconds", "0"), 2, "invalid value"),
        (("ps",), 3, "no mesh runs here"),
        (("ps", "--agent", "a.b", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("pause",), 2, "missing argument"),
        (("pause", "echo"), 3, "no mesh runs here"),
        (("resume", "echo", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("top",), 3, "no mesh runs here"),
        (("top", "--interval", "0"), 2, "invalid value"),
        (("events", "--follow"), 3, "no mesh runs here"),
        (("events", "--kind", "weather"), 2, "fault, breaker"),
        (("events", "--since", "soon"), 2, "invalid value"),
        (("conformance",), 2, "--command: say how the worker is started"),
        (("conformance", "--command", "/no/such/program"), 2, "is no program that can be run"),
        (("conformance", "--command", "'"), 2, "cannot be split into words"),
        (("conformance", "--only", "nonsense", "--command", "true"), 2, "no check is called nonsense"),
        (("conformance", "--capability", "a.b", "--command", "true"), 2, "cannot be used in a subject"),
        (("conformance", "--url", "nats://127.0.0.1:1"), 3, "no nats server"),
        (("conformance", "--patience", "0"), 2, "invalid value"),
        (("topology",), 2, ""),
        (("topology", "plan", "--url", "nats://127.0.0.1:1"), 3, "no nats server at nats://127.0.0.1:1"),
        (("topology", "apply", "/no/such/mesh.toml"), 2, "no such file"),
        (("bench", "registry", "--instances", "0"), 2, "invalid value"),
        (("backup",), 2, ""),
        (("backup", "create"), 2, "missing argument 'folder'"),
        (("backup", "create", "copy"), 3, "no mesh runs here"),
        (("backup", "show", "/no/such/folder"), 2, "/no/such/folder: is no backup"),
        (("backup", "restore", "/no/such/folder"), 2, "/no/such/folder: is no backup"),
        (("memory",), 2, ""),
        (("memory", "get", "a"), 3, "no mesh runs here"),
        (("memory", "put", "a", "{"), 2, "is not json"),
        (("memory", "put", "a", "@/no/such/file"), 2, "/no/such/file: no such file"),
        (("memory", "put", "a", "1", "--ttl", "-1"), 2, "invalid value for '--ttl'"),
        (("memory", "conflicts", "resolve", "a"), 2, "say a value, or --take number"),
        (("memory", "namespaces", "set", "a", "--rule", "b..c=set"), 2, "a part of it is empty"),
        (("memory", "namespaces", "set", "a", "--rank", "bob=one"), 2, "one is no number"),
        (("memory", "namespaces", "set", "a", "--strategy", "guess"), 2, "first_writer_wins, merge"),
        (("memory", "namespaces", "set", "a"), 2, "--strategy, --rule or --rank"),
        (("memory", "locks", "-n", "a.b"), 2, "cannot be used in a subject"),
    ],
)
def test_wrong_input_is_one_line_and_an_exit_status(
    shell: Shell, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = shell.revo(*arguments, REVO_CONNECT_TIMEOUT="0.5")
    assert done.returncode == code, done.stderr
    assert says in done.stderr.lower()
    assert len(done.stderr.splitlines()) == (1 if says else 0)
    assert not shell.home.exists(), "wrong input changes nothing"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("bogus",),
        ("submit", "echo", "text=hi"),
        ("run", "nonsense"),
        ("ps", "--url", "nats://127.0.0.1:1"),
        ("bench", "memory", "--help"),
        ("memory", "put", "a", "{"),
    ],
    ids=" ".join,
)
def test_a_command_in_an_interpreter_of_its_own_says_the_same_as_its_fork(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    """All other rows are forks, see `Shell.revo`."""
    real = shell.process(*arguments, REVO_CONNECT_TIMEOUT="0.5")
    fork = shell.revo(*arguments, REVO_CONNECT_TIMEOUT="0.5")
    assert (real.returncode, real.stdout, real.stderr) == (fork.returncode, fork.stdout, fork.stderr)


def commands() -> Iterator[tuple[str, ...]]:
    """Every command there is, groups left out: from the program itself, so that none can be forgotten here."""

    def below(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below(command, (*path, name))
            else:
                yield (*path, name)

    yield from below(typer.main.get_command(app), ())


COMMANDS = list(commands())


def test_all_commands_are_known_to_this_test() -> None:
    assert {("up",), ("tasks", "ls"), ("topology", "plan"), ("bench", "registry")} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_and_speaks_json(shell: Shell, command: tuple[str, ...]) -> None:
    done = shell.revo(*command, "--help", COLUMNS="100")
    assert done.returncode == 0
    assert f"Usage: revo {' '.join(command)}" in done.stdout
    assert "Example" in done.stdout
    assert f"revo {' '.join(command)}" in done.stdout.partition("Example")[2], "an example of this very command"
    assert "--output" in done.stdout


def test_a_wrong_setting_names_its_variable(shell: Shell) -> None:
    done = shell.revo("submit", "echo", "a=b", REVO_DEADLINE="soon")
    assert (done.returncode, "REVO_DEADLINE=soon" in done.stderr) == (2, True)


def test_a_level_that_is_none_names_its_variable(shell: Shell) -> None:
    for command in (("run", ECHO), ("ps",)):
        done = shell.revo(*command, REVO_LOG="loud")
        assert (done.returncode, "REVO_LOG=loud: must be one of debug" in done.stderr) == (2, True), done.stderr


def test_run_logs_json_for_what_collects_logs(running: Shell) -> None:
    with subprocess.Popen(
        [str(BIN / "revo"), "run", ECHO, "--output", "json"],
        cwd=running.folder,
        env=running.env,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stderr]
    assert process.returncode == 0
    assert set(line) == {"actor", "at", "instance", "level", "logger", "message"}
    assert (line["level"], line["message"].partition("-")[0]) == ("info", "echo")
    assert line["message"].endswith(" is ready")
    assert rest[0]["message"].endswith(" drains")


def test_an_internal_error_is_one_line_that_says_how_to_see_more(shell: Shell) -> None:
    done = shell.revo("--version", PYTHONPATH=str(ROOT))
    assert done.stdout.startswith("revo ")


@pytest.fixture
def running(shell: Shell) -> Shell:
    path = shell.folder / "m.toml"
    path.write_text(f'[actors.echo]\ntarget = "{ECHO}"\n[actors.code-analyst]\ntarget = "{_ANALYST}"\n')
    shell.json("up", str(path), "--detach")
    return shell


_ANALYST = "actors.agents.code_analyst:CodeAnalyst"


def test_submit_trace_and_doctor_on_a_running_mesh(running: Shell) -> None:
    result = running.json("submit", "echo", "text=hi", "--wait", "--priority", "critical", "--id", "my-own-id")
    assert (result["status"], result["value"], result["task_id"]) == ("succeeded", {"text": "hi"}, "my-own-id")

    again = running.json("submit", "echo", "text=other", "--wait", "--id", "my-own-id")
    assert again["value"] == {"text": "hi"}, "the same id is the same task"

    code = "import os\n"
    review = running.json("submit", "code_review", "--json", json.dumps({"source": code}), "--wait")
    assert review["value"]["rules"] == {"F401": 1}

    failed = running.revo("submit", "echo", "txet=hi", "--wait")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "text: Field required" in failed.stderr

    late = running.revo("submit", "nobody", "a=1", "--wait", "--timeout", "0.3")
    assert late.returncode == 4
    assert "no agent has had the capability nobody yet" in late.stderr

    for wrong, says in (
        (("submit", "no.dots", "a=1"), "cannot be used"),
        (("submit", "echo", "a=1", "--priority", "hihg"), "critical, urgent"),
        (("submit", "echo", "a=1", "--deadline", "-1"), "deadline"),
        (("submit", "echo", "a=1", "--id", "a.b"), "task id"),
    ):
        done = running.revo(*wrong)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr

    spans = running.json("trace", review["task_id"])
    assert {span["name"] for span in spans} == {"send code_review", "process code_review", "ruff", "complexipy"}
    tree = running.revo("trace", review["task_id"], COLUMNS="80").stdout
    assert max(len(line) for line in tree.splitlines()) <= 80
    assert "└─ process code_review" in tree
    assert running.revo("trace", "unknown-id").returncode == 1

    findings = [finding for finding in running.json("doctor") if finding["state"] != "ok"]
    assert [finding["found"] for finding in findings] == [
        "1 task waits for nobody, and no agent that lives can do it",
    ]


def test_doctor_finds_a_folder_that_hides_ours_and_a_mesh_that_is_gone(shell: Shell) -> None:
    (shell.folder / "bus").mkdir()
    shell.home.mkdir()
    (shell.home / "mesh.json").write_text(json.dumps({"url": "nats://127.0.0.1:1"}))
    done = shell.revo("doctor", "--output", "json", REVO_CONNECT_TIMEOUT="0.3")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 3
    assert (found["packages"]["state"], found["home"]["state"], found["mesh"]["state"]) == ("fail", "warn", "fail")
    assert all(finding["advice"] for finding in found.values() if finding["state"] != "ok")


def test_a_picture_of_the_demo_is_in_the_docs() -> None:
    picture = (ROOT / "docs" / "demo.svg").read_text()
    assert "lost:" in picture
    assert "killed" in picture
    assert Path(ROOT / "README.md").read_text().count("docs/demo.svg") == 1
