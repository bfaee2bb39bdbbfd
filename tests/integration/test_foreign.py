"""Agents that speak the Synadia Agent Protocol and are not ours: its own host package, over a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bus import events, inspection
from bus.directory import NoSuchAgentError, discover
from bus.errors import BusError, ConfigError, NoRespondersError, RemoteError, RequestTimeoutError, ResultTimeoutError
from bus.grants import Wish
from bus.mesh import Mesh
from bus.prompting import UnansweredQueryError
from bus.prompts import Attachment, Query
from bus.server import Server
from tests.cluster import free_ports
from tests.eventually import eventually
from tests.foreign import BEAT, BRIDGE, REGISTRY, Hermes, bridged, foreign, found, host
from tests.guarded import guarded
from tests.probing import ready, samples
from tests.processes import ROOT, actor


@pytest.fixture
def hermes() -> Hermes:
    return Hermes()


async def test_our_client_prompts_the_real_host(server: Server, mesh: Mesh, hermes: Hermes) -> None:
    with pytest.raises(NoSuchAgentError, match="no agent called hermes takes prompts"):
        await mesh.prompt("hermes", "hi")
    with pytest.raises(NoRespondersError):
        await mesh.prompt("hermes", "hi", owner="ana", session="main", timeout=30)
    async with host(server.url, hermes):
        answer = await mesh.prompt("hermes", "hi", attachments=[Attachment(filename="a.bin", content=b"\x00\x01")])
        assert (answer.text, answer.chunks) == ("you said hi", 3)
        assert [(one.filename, one.content) for one in answer.attachments] == [("turned-a.bin", b"\x01\x00")]

        async def yes(query: Query) -> str:
            return f"yes, {query.prompt}"

        asked = await mesh.prompt("hermes", "ask this that", on_query=yes)
        assert asked.text.startswith("yes, this? and yes, that?")
        with pytest.raises(UnansweredQueryError, match="really"):
            await mesh.prompt("hermes", "ask really")
        with pytest.raises(RemoteError) as failed:
            await mesh.prompt("hermes", "fail")
        assert failed.value.code == "500"
        with pytest.raises(RequestTimeoutError, match=r"within 0.2 s"):
            await mesh.prompt("hermes", "wait", inactivity=0.2)
        with pytest.raises(RequestTimeoutError, match=r"within 0.3 s"):
            await mesh.prompt("hermes", "wait", timeout=0.3)
        hermes.open.set()
        words = [str(number) for number in range(64)]
        answers = await asyncio.gather(*(mesh.prompt("hermes", word) for word in words))
        assert [one.text for one in answers] == [f"you said {word}" for word in words]

        before = mesh.connection.client._subs.copy()
        async for _ in mesh.prompt("hermes", "and leave"):
            break
        await eventually(lambda: mesh.connection.client._subs.keys() == before.keys())
        async with host(server.url, hermes, session_name="other"):
            mesh._directory.forget()
            with pytest.raises(ConfigError, match="2 places, of owner and session: ana main, ana other"):
                await mesh.prompt("hermes", "which?")
            assert (await mesh.prompt("hermes", "one", session="other")).text == "you said one"


async def test_a_foreign_agent_is_known_works_and_is_gone_with_its_heartbeats(
    server: Server, mesh: Mesh, hermes: Hermes, tmp_path: Path
) -> None:
    port = free_ports(1)[0]
    env = {"REVO_BACKOFF": "0.05", "REVO_HTTP": f"127.0.0.1:{port}"}
    async with bridged(server, tmp_path, '{"concurrency": 64}', **env) as bridge:
        async with host(server.url, hermes, owner="Ana B.", heartbeat_interval_s=2):  # many Pythons start here
            (one,) = await found(mesh)
            assert (one.agent, one.state, one.labels["session"]) == ("hermes", "ready", "main")
            assert one.instance.startswith("hermes-")
            content = base64.b64encode(b"\x00\x01").decode()
            message = {"prompt": "ask a b", "answers": ["x", "y"]}
            asked = await mesh.submit("@hermes", message | {"attachments": [{"filename": "f", "content": content}]})
            turned = {"filename": "turned-f", "content": base64.b64encode(b"\x01\x00").decode()}
            done = {"text": "x and yyou said ask a b", "attachments": [turned], "chunks": 4}
            assert await asked.result(timeout=30) == done
            await prompts_are_traced(mesh, hermes, asked.task_id)
            handles = await mesh.submit_many("@hermes", [{"text": f"many {n}"} for n in range(64)])
            results = [await one.result(timeout=30) for one in handles if not isinstance(one, BusError)]
            assert [one["text"] for one in results] == [f"you said many {n}" for n in range(64)]
            await what_fails(mesh, hermes)
            await what_a_user_types(server.url, tmp_path)
            counted = await samples(port)
            assert (counted["revo_foreign_agents"], counted["revo_foreign_agents_served"]) == (1, 1)
            assert counted['revo_tasks_total{capability="@hermes",outcome="succeeded",priority="normal"}'] == 65
            assert await ready(port)
            stopped = await mesh.submit("@hermes", {"text": "wait for ever"}, deadline=60)
            await eventually(lambda: "wait for ever" in hermes.asked)
            expired = await mesh.submit("@hermes", {"text": "wait too long"}, deadline=1)
            assert (await expired.outcome(timeout=30)).status == "expired"
            hermes.open.set()
            await stopped.result(timeout=30)
        await eventually(lambda: gone(mesh))
        late = await mesh.submit("@hermes", {"text": "late"})
        async with host(server.url, hermes):  # whoever comes back does what has waited
            assert (await late.result(timeout=30))["text"] == "you said late"
        assert await told(mesh, one.instance, "dead") == ["registered", "dead"]
        bridge.signal(signal.SIGTERM)
        assert await bridge.wait() == 0, bridge.log
    assert "Traceback" not in bridge.log, bridge.log


async def prompts_are_traced(mesh: Mesh, hermes: Hermes, task_id: str) -> None:
    spans = await eventually(lambda: spans_of(mesh, task_id))
    by_name = {span.name: span for span in spans}
    prompt, process = by_name["prompt hermes"], by_name["process @hermes"]
    assert (prompt.service, prompt.kind, prompt.parent_id) == ("revo-bridge", "client", process.span_id)
    assert hermes.traceparents[0].split("-")[1:3] == [prompt.trace_id, prompt.span_id]


async def spans_of(mesh: Mesh, task_id: str) -> list[Any]:
    try:
        spans = await mesh.trace(task_id)
    except BusError:
        return []
    return spans if {"prompt hermes", "process @hermes"} <= {span.name for span in spans} else []


async def what_fails(mesh: Mesh, hermes: Hermes) -> None:
    """Each failure as the task's: those that a retry may cure were tried three times."""
    wrong: list[tuple[dict[str, Any], str, int]] = [
        ({"prompt": "fail"}, "500", 3),
        ({"prompt": "ask me", "answers": []}, "unanswered_query", 1),
        ({"nonsense": 1}, "decode", 0),
        ({"prompt": "x", "session": "no-such"}, "no_such_agent", 3),
        ({"prompt": " "}, "config", 1),
        ({"prompt": "flood"}, "answer_too_large", 1),
    ]
    handles = [await mesh.submit("@hermes", message) for message, _, _ in wrong]
    ends = [await handle.outcome(timeout=30) for handle in handles]
    said = [(end.status, end.error.code if end.error else "", end.attempts) for end in ends]
    assert said == [("failed", code, max(attempts, 1)) for _, code, attempts in wrong]
    assert "'me?'" in (ends[1].error.message if ends[1].error else "")
    assert len([asked for asked in hermes.asked if asked == "fail"]) == 3

    async def all_have_a_letter() -> bool:  # which is stored behind the result
        letters = {letter.letter.task_id for letter in await inspection.letters(mesh.connection)}
        return letters == {end.task_id for end in ends}

    await eventually(all_have_a_letter)


async def revo(url: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end: exit status, what it wrote, and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "revo", *arguments, "--url", url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err
    return process.returncode or 0, out.decode(), err.decode()


async def what_a_user_types(url: str, folder: Path) -> None:
    (folder / "f.txt").write_bytes(b"ab")
    asked = ("prompt", "hermes", "ask sure", "--answer", "yes", "--attach", str(folder / "f.txt"), "-o", "json")
    ps, whole, live, silent, unanswered = await asyncio.gather(
        revo(url, "ps", "--output", "json"),
        revo(url, *asked),
        revo(url, "prompt", "hermes", "hi", "--attach", str(folder / "f.txt"), "--save", str(folder)),
        revo(url, "prompt", "hermes", "wait", "--timeout", "0.5"),
        revo(url, "prompt", "hermes", "ask sure"),
    )
    assert [row["instance"].split("-")[0] for row in json.loads(ps[1]) if row["kind"] == "foreign"] == ["hermes"]
    turned = {"filename": "turned-f.txt", "content": base64.b64encode(b"ba").decode()}
    text = {"agent": "hermes", "text": "yesyou said ask sure", "attachments": [turned], "chunks": 4}
    assert (whole[0], json.loads(whole[1])) == (0, text)
    assert (*live[:2], (folder / "turned-f.txt").read_bytes()) == (0, "you said hi\n", b"ba")
    assert (silent[0], "within 0.5 s" in silent[2]) == (4, True)
    assert (unanswered[0], "hermes asks, and nobody is there to answer: 'sure?'" in unanswered[2]) == (1, True)


async def gone(mesh: Mesh) -> bool:
    return not await foreign(mesh)


async def told(mesh: Mesh, instance: str, last: str) -> list[str]:
    """What was told of an instance, up to this event."""
    found: list[str] = []
    async with asyncio.timeout(10), events.follow(mesh.connection, since=1.0) as happening:
        async for event in happening:
            found += [event.what] if event.name == instance else []
            if found[-1:] == [last]:
                break
    return found


async def test_a_bridge_that_is_killed_loses_no_task_and_another_holds_the_leases(
    server: Server, mesh: Mesh, hermes: Hermes, tmp_path: Path
) -> None:
    quick = {"REVO_ACK_WAIT": "1"}
    async with (
        bridged(server, tmp_path, **quick) as first,
        host(server.url, hermes),
        actor(BRIDGE, server.url, tmp_path / "second.log", **BEAT, **quick),
    ):
        (one,) = await found(mesh)
        handles = [await mesh.submit("@hermes", {"text": f"wait {n}"}) for n in range(8)]
        await eventually(lambda: len(set(hermes.asked)) == 8)  # four in the hands of either
        first.signal(signal.SIGKILL)
        hermes.open.set()
        results = [await handle.result(timeout=20) for handle in handles]
        assert [result["text"] for result in results] == [f"you said wait {n}" for n in range(8)]
        assert [known.instance for known in await foreign(mesh)] == [one.instance]


async def test_the_name_of_a_native_agent_is_its_own(
    server: Server, mesh: Mesh, hermes: Hermes, tmp_path: Path
) -> None:
    loner, analyst = "tests.integration.agents:Loner", "actors.agents.code_analyst:CodeAnalyst"
    async with (
        actor(analyst, server.url, tmp_path / "analyst.log", **BEAT, REVO_PROMPT_HEARTBEAT="1") as ours,
        bridged(server, tmp_path) as bridge,
    ):
        async with host(server.url, hermes, agent="loner"):
            await found(mesh)
            assert (await (await mesh.submit("@loner", {"text": "1"})).result(timeout=30))["text"] == "you said 1"
            async with actor(loner, server.url, tmp_path / "loner.log", **BEAT) as native:
                await eventually(lambda: "name is that of agent loner" in bridge.log, timeout=30)
                (one,) = await found(mesh)
                assert (one.state, one.labels["name_of"]) == ("draining", "agent loner of this mesh")
                handles = [await mesh.submit("@loner", {"seconds": 0.0}) for _ in range(8)]
                assert {await handle.result(timeout=30) for handle in handles} == {native.instance}
                assert hermes.asked == ["1"]
                await told(mesh, one.instance, "shadowed")
        async with actor(loner, server.url, tmp_path / "late.log", name="early", **BEAT) as native:
            native.signal(signal.SIGKILL)
        async with host(server.url, hermes, agent="early"):  # ours had the name first, and may only be away
            await eventually(lambda: held_back(mesh, "agent early of this mesh, which is away"), timeout=30)
            waits = await mesh.submit("@early", {"text": "2"})
            with pytest.raises(ResultTimeoutError):
                await waits.result(timeout=0.5)
            assert hermes.asked == ["1"]
        assert [info.instance for info in await discover(mesh.connection)] == [ours.instance]
        assert "F401" in (await mesh.prompt("code-analyst", "import os\n")).text
        assert "code-analyst" not in {one.agent for one in await foreign(mesh)}, "it beats, and is ours"


async def held_back(mesh: Mesh, whose: str) -> bool:
    return [one.labels.get("name_of") for one in await foreign(mesh) if one.agent == "early"] == [whose]


async def test_where_users_have_roles_a_foreign_agent_has_one_and_the_bridge_speaks_for_no_other(
    tmp_path: Path, hermes: Hermes
) -> None:
    async with guarded(tmp_path, isolated=True) as here:
        here.keyring.ensure("alice", "submitter", Wish(submits=("@hermes",), prompts=("hermes",)))
        await here.server.reload()
        seed = here.keyring.path("hermes").read_text().splitlines()[-1]
        env = {name: here.env(name) for name in ("revo-registry", "revo-bridge")}
        async with (
            actor(REGISTRY, here.server.url, tmp_path / "registry.log", **BEAT, **env["revo-registry"]),
            actor(BRIDGE, here.server.url, tmp_path / "bridge.log", **BEAT, **env["revo-bridge"]) as bridge,
            host(here.server.url, hermes, seed=seed),
            here.mesh("operator") as operator,
            here.mesh("alice") as alice,
        ):
            await found(operator)
            asked = await alice.submit("@hermes", {"prompt": "ask it", "answers": ["well"]})
            assert (await asked.result(timeout=30))["text"] == "wellyou said ask it"
            assert (await alice.prompt("hermes", "hi")).text == "you said hi", "from an account of her own"
            operators = here.keyring.path("operator").read_text().splitlines()[-1]
            async with host(here.server.url, hermes, seed=operators, agent="zeus"):  # who may call himself anything
                await eventually(lambda: "foreign agent zeus is given no tasks" in bridge.log, timeout=30)
            assert [one.agent for one in await foreign(operator)] == ["hermes"]
            assert "Traceback" not in bridge.log, bridge.log
