"""`revo spec` on a mesh that works: what it writes is true of every message that travels there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
import yaml
from jsonschema import Draft202012Validator
from nats.aio.msg import Msg

from bus import codec
from bus.errors import PermissionDeniedError
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from revo.cli.options import SpecForm, SpecWhat
from revo.cli.spec import spec
from tests import specs
from tests.conftest import StartWorker
from tests.eventually import eventually
from tests.guarded import guarded
from tests.integration.streaming import Teller, serve
from tests.processes import actor

ROOT = Path(__file__).parents[2]
TOILER = "tests.integration.agents:Toiler"
ECHO = "examples/echo_agent.py:Echo"
UNSAID = {"_INBOX", "$JS", "$SRV", "$SYS"}
"""What the server, its clients and the micro protocol say among themselves."""


@pytest.fixture
async def working(server: Server, tmp_path: Path) -> AsyncIterator[Server]:
    """A mesh of a registry, a steward and an agent."""
    async with (
        actor("actors.registry:Registry", server.url, tmp_path / "registry.log"),
        actor("actors.steward:Steward", server.url, tmp_path / "steward.log"),
        actor(TOILER, server.url, tmp_path / "toiler.log"),
    ):
        yield server


async def written(url: str, what: SpecWhat, *, to: Path, capability: str = "") -> None:
    """The command, on a loop of its own."""
    assert await asyncio.to_thread(spec, what, capability, [], to, url=url, form=SpecForm.JSON) == 0


async def test_every_message_of_a_mesh_at_work_is_as_the_document_says(
    working: Server, start_worker: StartWorker, tmp_path: Path
) -> None:
    await written(working.url, SpecWhat.ASYNCAPI, to=tmp_path / "mesh.json")
    document = json.loads((tmp_path / "mesh.json").read_text())
    specs.check(document)
    channels, seen, wrong = specs.Channels(document), Counter[str](), list[str]()

    async def heard(message: Msg) -> None:
        channel = channels.of(message.subject)
        if channel is None:
            if message.subject.partition(".")[0] not in UNSAID:
                wrong.append(f"{message.subject} has no channel")
            return
        seen[channel["address"]] += 1
        said, headers = channels.message(channel), dict(message.headers or {})
        faults = specs.header_faults(document, said, headers)
        if message.data and said["payload"].keys() - {"description"}:
            body = codec.decode(message.data, codec.content_type_of(headers))
            faults += specs.payload_faults(document, said, body)
        wrong.extend(f"{message.subject}: {fault}" for fault in faults)

    listener = await nats.connect(working.url)
    await listener.subscribe(">", cb=heard)
    await listener.flush()
    await serve(start_worker, Teller)
    settings = Settings(nats_url=working.url, blob_above=1024)
    async with Mesh.connect(settings=settings, client="tester") as mesh:
        good = await mesh.submit("toil", {"id": 7}, priority="high")
        bad = await mesh.submit("toil", {"what": "raise"}, agent="toiler", task_id="named")
        long = await mesh.submit("toil", {"seconds": 60})
        assert await good.result(timeout=20) == 7
        assert (await bad.outcome(timeout=20)).status == "failed"
        await mesh.cancel(long.task_id)
        assert await mesh.ask("toiler", "add", {"a": 1, "b": 2}) == 3
        await mesh.broadcast("toil", {"id": 1}, timeout=5)
        large = await mesh.submit("toil", {"id": 8, "what": "sleep".ljust(5000)})
        later = await mesh.submit("toil", {"id": 9}, after=0.1)
        often = await mesh.submit("toil", {"id": 10}, every=1)
        told_of = await mesh.submit("tell", {"pages": 2})
        assert [await one.result(timeout=20) for one in (large, later, told_of)] == [8, 9, 2]
        await mesh.redrive("named")

        def told() -> bool:
            return bool(wrong) or not {one for one in expected if not seen[one]}

        expected = (
            "revo.task.toil.{priority}.{client}",
            "revo.task.@{agent}.{priority}.{client}",
            "revo.done.{client}.toil.{task_id}",
            "revo.dead.{client}.{capability}.{task_id}",
            "revo.cast.toil.{caller}",
            "revo.rpc.{service}.{method}.{caller}",
            "revo.rpc.revo-steward.cancel.{caller}",
            "revo.beat.{agent}.{instance}",
            "revo.ctl.all.all.end",
            "revo.registry.lease.{agent}.{instance}",
            "revo.progress.{client}.{capability}.{task_id}",
            "revo.emitted.{client}.{capability}.{task_id}",
            "revo.saved.{client}.{capability}.{task_id}",
            "revo.blob.{client}.{capability}.{task_id}.{blob_id}.{piece}",
            "revo.scoped.revo-steward.schedule.{scope}.{caller}",
            "revo.later.{client}.{schedule_id}",
            "revo.occurred.{client}.{schedule_id}",
            "revo.audit.redriven.{client}.{capability}.{task_id}",
            "revo.span.{service}",
        )
        await eventually(told)
        await often.pause()
        await often.cancel()
        await listener.flush()
    await listener.close()
    assert not wrong, wrong[:10]


async def test_an_observer_gets_document_and_schemas_and_a_submitter_is_told_that_he_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guarded(tmp_path, isolated=True) as here:
        url, logs = here.server.url, iter(range(3))
        async with (
            actor("actors.registry:Registry", url, tmp_path / f"{next(logs)}.log", **here.env("revo-registry")),
            actor("actors.steward:Steward", url, tmp_path / f"{next(logs)}.log", **here.env("revo-steward")),
            actor(ECHO, url, tmp_path / f"{next(logs)}.log", **here.env("echo")),
        ):
            monkeypatch.setenv("REVO_CREDENTIALS", here.env("eye")["REVO_CREDENTIALS"])
            await written(url, SpecWhat.ASYNCAPI, to=tmp_path / "mesh.json")
            await written(url, SpecWhat.SCHEMAS, to=tmp_path / "schemas")
            monkeypatch.setenv("REVO_CREDENTIALS", here.env("alice")["REVO_CREDENTIALS"])
            with pytest.raises(PermissionDeniedError, match="revo-registry"):
                await written(url, SpecWhat.ASYNCAPI, to=tmp_path / "none.json")
    document = json.loads((tmp_path / "mesh.json").read_text())
    specs.check(document)
    assert "task.echo" in document["channels"]
    assert {path.name for path in (tmp_path / "schemas").iterdir()} == {"echo.message.json", "echo.result.json"}
    schema = json.loads((tmp_path / "schemas" / "echo.message.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert Draft202012Validator(schema).is_valid({"text": "hi"})
    assert not Draft202012Validator(schema).is_valid({"text": 1})


def test_the_commands_of_the_document_do_what_they_say(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "spec.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-ec", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"asyncapi": "3.0.0"')
    specs.check(yaml.safe_load((tmp_path / "mesh.yaml").read_text()))
    assert {path.name for path in (tmp_path / "schemas").iterdir()} == {"echo.message.json", "echo.result.json"}


def test_without_a_mesh_the_document_is_made_from_classes_and_is_the_same_in_both_forms(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = []
    for form in SpecForm:
        assert spec(SpecWhat.ASYNCAPI, "", [ECHO, TOILER], None, url=None, form=form) == 0
        made.append(capsys.readouterr().out)
    as_yaml, as_json = yaml.safe_load(made[0]), json.loads(made[1])
    assert as_yaml == as_json
    assert re.search(r"^ *[&*]id\d", made[0], re.MULTILINE) is None
    specs.check(as_json)
    assert {"task.echo", "task.toil", "rpc.toiler.add"} <= set(as_json["channels"])
    assert spec(SpecWhat.SCHEMAS, "echo", [ECHO, TOILER], None, url=None, form=SpecForm.JSON) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["echo"]
