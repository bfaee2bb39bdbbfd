"""Agents answer prompts: the unmodified client of the Synadia Agent Protocol against ours, over a real server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from synadia_ai.agents import AttachmentsNotSupportedError, PayloadTooLargeError, ProtocolError, ResponseChunk

from actors.agents.code_analyst import CodeAnalyst
from actors.agents.security_guardian import SecurityGuardian
from actors.keyring import Keyring
from bus.connection import Connection
from bus.errors import NotFoundError, RequestTimeoutError
from bus.grants import Wish
from bus.mesh import Mesh
from bus.messages import SpanRecord
from bus.server import Server
from bus.settings import Settings
from bus.traces import tree
from revo import Agent, Prompt, PromptRefusedError, prompt
from tests.eventually import eventually, in_time
from tests.guarded import Guarded
from tests.processes import ROOT, actor
from tests.prompting import Caller, ask, calling, found, leave, prompting, serving

TALKER = "agents.prompt.talker.revo.main"


class Talker(Agent):
    """Does as it is told."""

    concurrency = 2

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.ended: list[str] = []
        self.senders: list[str] = []

    @prompt
    async def answer(self, prompt: Prompt) -> AsyncIterator[str]:
        what, _, rest = prompt.text.partition(" ")
        self.senders.append(prompt.sender.name if prompt.sender else "")
        try:
            yield "first "
            self.begun.set()
            if what == "wait":
                await self.open.wait()
            elif what == "ask":
                with contextlib.suppress(RequestTimeoutError):
                    yield f"you said {await prompt.ask('sure?', timeout=float(rest))!r}"
            elif what == "fail":
                raise ValueError("as told\nin two lines")
            elif what == "refuse":
                raise PromptRefusedError("send a picture")
            elif what == "delegate":
                await self.mesh.submit("nobody-does-this", {"a": 1})
            elif what == "long":
                yield "\x01ß" * int(rest)
            await prompt.status("nearly done")
            await prompt.send("last", prompt.attachments)
        finally:
            self.ended.append(what)


class Report(BaseModel):
    where: str


class Threaded(Agent):
    """Answers in a thread, text alone."""

    @prompt(attachments=False)
    def answer(self, prompt: Prompt) -> Report:
        return Report(where=threading.current_thread().name.partition("_")[0])


async def test_the_protocol_s_own_client_finds_prompts_and_questions_agents(settings: Settings) -> None:
    settings = settings.model_copy(update={"prompt_heartbeat": 1})
    async with calling(settings.nats_url) as agents, serving(Talker, settings), serving(Threaded, settings):
        talker, threaded = await found(agents, 2)
        assert (talker.instance_id, talker.agent, talker.owner, talker.session_name) == (
            "talker-1",
            "talker",
            "revo",
            "main",
        )
        assert (talker.protocol_version, talker.description) == ("0.3", "Does as it is told.")
        assert talker.prompt_endpoint.max_payload_bytes == 1024 * 1024
        assert (talker.prompt_endpoint.attachments_ok, talker.prompt_endpoint.queue_group) == (True, "agents")

        files = {"a b.bin": bytes(range(256)), "empty": b""}
        said = await ask(talker, "hello", files)
        assert (said.text, said.files, said.statuses) == ("first last", files, ["ack", "nearly done"])
        said = await ask(talker, "ask 10", reply="grüße")
        assert said.text == "first you said 'grüße'last"
        assert said.statuses == ["ack", "query sure?", "nearly done"]
        said = await ask(talker, "long 300000")
        assert (len(said.text), said.chunks > 3) == (600_000 + len("first last"), True)

        assert json.loads((await ask(threaded, "hi")).text) == {"where": "threaded"}
        with pytest.raises(AttachmentsNotSupportedError):
            await ask(threaded, "hi", files)
        assert (await talker.status()).instance_id == "talker-1"
        assert await agents.ping("talker-1")
        assert not await agents.ping("talker-2")
        alive = await eventually(lambda: agents.liveness("talker-1"))
        assert (alive.is_online, alive.interval_s) == (True, 1)


async def test_the_first_words_of_an_answer_arrive_before_its_handler_has_ended(settings: Settings) -> None:
    async with calling(settings.nats_url) as agents, serving(Talker, settings) as here:
        (talker,) = await found(agents)
        async with prompting(talker, "wait") as messages:
            parts = (message.text async for message in messages if isinstance(message, ResponseChunk))
            assert await anext(parts) == "first "
            assert here.agent.ended == []
            here.agent.open.set()
            assert [part async for part in parts] == ["last"]
        assert here.agent.ended == ["wait"]


async def test_what_cannot_be_answered_is_refused_by_its_number_and_the_stream_ends(
    settings: Settings, connection: Connection
) -> None:
    settings = settings.model_copy(update={"prompt_max_payload": 3000, "prompt_limit": 1.0})
    caller = Caller(connection)

    def envelope(**fields: object) -> bytes:
        return json.dumps({"prompt": "hi", **fields}).encode()

    def attached(name: object, content: object) -> bytes:
        return envelope(attachments=[{"filename": name, "content": content}])

    bad = {
        "text": (b"", b" \n", b"\xff\xfe", b"{", b'{"prompt": "', b"{}", b"{" * 2000),
        "prompt": (envelope(prompt=""), envelope(prompt=None), envelope(prompt=["hi"])),
        "attachments": (envelope(attachments={}), envelope(attachments=[1]), attached(None, "AA=="), attached("a", 1)),
        "base64": (attached("a", "-_8="), attached("a", "AA"), attached("a", "A A=="), attached("a", "ß")),
        "name": tuple(attached(name, "AA==") for name in ("", "..", "a/b", "a\\b", "\x00", "a\nb", "x" * 256)),
        "size": (attached("a", "A" * 4000), b"x" * 3001),
    }
    async with serving(Talker, settings) as here, calling(settings.nats_url) as agents:
        for what, bodies in bad.items():
            for body in bodies:
                number, text = await caller.refused(TALKER, body)
                assert number == "400", (what, body[:80], text)
        assert (await caller.refused(TALKER, attached("a", "A" * 4000)))[1].startswith("prompt of 40")
        assert here.agent.ended == [], "none of these has reached the agent"
        assert (here.meter.done > 20, here.meter.error_rate) == (True, 0.0), "and it has not failed"
        (talker,) = await found(agents)
        with pytest.raises(PayloadTooLargeError):
            await ask(talker, "hi", {"a": bytes(4000)})
        for text, said in {
            "fail": "500: value_error: as told in two lines",
            "refuse": "400: send a picture",
            "wait": "500: it took longer than the limit of 1 s",
        }.items():
            with pytest.raises(ProtocolError, match=said):
                await ask(talker, text)
        assert 0 < here.meter.error_rate < 0.2, "two of these it has: it took too long, and it raised"
        assert (await ask(talker, "ask 0.05")).text == "first last", "its question was not answered in time"
        odd = {"Agent-Sender": "{", "traceparent": "x", "Revo-Deadline": "x", "Content-Type": "x/y", "Status": "503"}
        sender = {"Agent-Sender": json.dumps({"v": 1, "account": "A", "user": "U", "name": "alice"})}
        for headers in (odd, sender):
            assert [message.data for message in await caller(TALKER, b"hi", headers)][1:] != []
        assert here.agent.senders[-2:] == ["", "alice"]
        await connection.publish(TALKER, b"nobody is to be answered")
        assert (await ask(talker, "hello")).text == "first last", "it lives on"
        stats = json.loads((await connection.request("$SRV.STATS.agents.talker-1")).data)
        assert stats["endpoints"][0]["num_errors"] == stats["endpoints"][0]["num_requests"] - 4


async def test_a_handler_whose_caller_has_left_is_stopped_and_the_agent_works_on(settings: Settings) -> None:
    settings = settings.model_copy(update={"prompt_keepalive": 0.1})
    async with serving(Talker, settings) as here, calling(settings.nats_url) as stays:
        (talker,) = await found(stays)
        async with calling(settings.nats_url) as leaves:
            (seen,) = await found(leaves)
            async with prompting(seen, "wait") as messages:
                assert [await anext(messages) for _ in range(2)]
                await leave(leaves).close()  # no farewell is said in this protocol
        await eventually(lambda: here.agent.ended == ["wait"])
        assert here.mailbox.running == 0
        assert (await ask(talker, "hello")).text == "first last"


async def test_many_prompts_at_once_are_all_answered_by_all_replicas(settings: Settings) -> None:
    async with (
        calling(settings.nats_url) as agents,
        serving(Talker, settings, "talker-1") as one,
        serving(Talker, settings, "talker-2") as two,
    ):
        talker, _ = await found(agents, 2)
        said = await asyncio.gather(*(ask(talker, f"hello {n}", {"n": b"%d" % n}) for n in range(64)))
        assert [answer.files["n"] for answer in said] == [b"%d" % n for n in range(64)]
        worked = len(one.agent.ended), len(two.agent.ended)
        assert sum(worked) == 64
        assert min(worked) > 8, worked


async def test_prompts_wait_their_turn_and_those_that_find_no_room_are_told_so(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"mailbox": 1, "prompt_keepalive": 0.05})
    async with serving(Talker, settings) as here, calling(settings.nats_url) as agents:
        (talker,) = await found(agents)
        running = [asyncio.create_task(ask(talker, "wait")) for _ in range(2)]
        await eventually(lambda: here.mailbox.running == 2)
        async with prompting(talker, "hello") as waiting:
            signs = [(await anext(waiting)).status for _ in range(3)]
            assert signs == ["ack"] * 3, "who waits hears that he still does"
            assert here.mailbox.waiting == 1
            with pytest.raises(ProtocolError, match="429: the mailbox of talker is full"):
                await ask(talker, "hello")
            assert (await Caller(connection).refused(TALKER, b"{"))[0] == "429", "it is not even read"
            here.mailbox._capacity = 2
            monkeypatch.setattr("bus.prompts.service.MOST_WAITING", 20)
            with pytest.raises(
                ProtocolError, match="429: prompts of 18 bytes wait, and 18 more exceed the limit of 20"
            ):
                await in_time(ask(talker, "hello"), 10)  # otherwise it waits for its turn
            assert here.service._waiting == 18
            draining = asyncio.create_task(here.service.drain(10))
            with pytest.raises(ProtocolError, match="503: the agent drains; ask another"):
                [message async for message in waiting]
        assert not draining.done()
        here.agent.open.set()
        assert [said.text for said in await asyncio.gather(*running)] == ["first last"] * 2
        await draining
        assert here.service._waiting == 0


async def test_an_actor_that_is_told_to_stop_ends_what_it_answers_and_comes_back_after_a_lost_server(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    target = "tests.integration.test_prompts:Patient"
    async with actor(target, server.url, tmp_path / "log", REVO_DRAIN_TIMEOUT="0.5", REVO_OWNER="me") as process:
        await server.stop()
        await server.start()

        async def answers() -> bool:
            async with calling(server.url) as agents:
                remotes = await agents.discover(timeout=0.3)
                return bool(remotes) and (await ask(remotes[0], "hello")).text == "done"

        await eventually(answers)
        async with calling(server.url) as agents:
            (patient,) = await found(agents)
            assert patient.prompt_subject == "agents.prompt.patient.me.main"
            async with prompting(patient, "for ever") as messages:
                assert [await anext(messages) for _ in range(2)]
                process.signal(signal.SIGTERM)
                with pytest.raises(ProtocolError, match="503: the agent drains; ask another"):
                    await anext(messages)
        assert await process.wait() == 0


class Patient(Agent):
    """Takes as long as it is let."""

    @prompt
    async def answer(self, prompt: Prompt) -> str:
        if prompt.text == "for ever":
            await prompt.status("thinking")
            await asyncio.Event().wait()
        return "done"


async def test_a_prompt_is_part_of_its_caller_s_trace_and_what_it_submits_is_too(
    settings: Settings, mesh: Mesh, connection: Connection
) -> None:
    caller, trace = Caller(connection), "0af7651916cd43dd8448eb211c80319c"
    async with serving(Talker, settings, traced=True):
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await caller(TALKER, b"delegate", headers)
        await caller(TALKER, b"fail", headers)

        async def complete() -> list[SpanRecord]:
            try:
                spans = await mesh.trace(trace)
            except NotFoundError:
                return []
            return spans if len(spans) == 3 else []

        spans = await eventually(complete)
    good, bad = sorted((span for span in spans if span.kind == "server"), key=lambda span: span.status == "error")
    (sent,) = (span for span in spans if span.kind == "producer")
    assert (good.name, good.parent_id, sent.parent_id) == ("prompt talker", "b7ad6b7169203331", good.span_id)
    assert (good.attributes["gen_ai.agent.name"], good.attributes["revo.prompt.chunks"]) == ("talker", 3)
    assert (bad.status, bad.attributes["error.type"]) == ("error", "500")
    assert bad.status_message.startswith("ValueError: as told")
    assert len(tree(spans)) == 2


@pytest.mark.parametrize("isolated", [True, False])
async def test_where_the_server_knows_users_the_client_reaches_whom_it_was_granted(
    tmp_path: Path, isolated: bool
) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    keyring.ensure("talker", "agent", Wish(prompts=("threaded",)), isolated=isolated)
    keyring.ensure("threaded", "agent", Wish(prompts=("talker",)), isolated=isolated)
    keyring.ensure("alice", "submitter", Wish(prompts=("talker",)))
    for line in keyring.accounts.read_text().splitlines():
        if line.startswith(('  "main/talker"', '  "main/threaded"')):
            # Otherwise the server may see a cycle and not start; it depends on an order that is random.
            assert '"subject": "$SRV.INFO.agents"' not in line
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server:
        here = Guarded(server, keyring)
        beat = {"prompt_heartbeat": 1}
        async with (
            serving(Talker, here.settings("talker").model_copy(update=beat)),
            serving(Threaded, here.settings("threaded").model_copy(update=beat)) as threaded,
        ):
            for user in ("alice", "operator"):
                seed = keyring.path(user).read_text().split()[-1]
                async with calling(server.url, seed) as agents:
                    talker, other = await found(agents, 2)
                    said = await ask(talker, "ask 10", {"a": b"1"}, reply="yes")
                    assert (said.text, said.files) == ("first you said 'yes'last", {"a": b"1"})
                    assert (await talker.status()).instance_id == "talker-1"
                    assert await agents.ping("talker-1")
                    await eventually(functools.partial(agents.liveness, "talker-1"))
                    if user == "operator":
                        assert (await ask(other, "hi")).chunks == 1
            caller = Caller(threaded.agent.mesh.connection)
            assert [message.data for message in await caller(TALKER, b"hi")][-1] == b"", "agents prompt agents"


@pytest.mark.parametrize("kind", [CodeAnalyst, SecurityGuardian])
async def test_the_analysers_answer_with_their_report_and_say_what_else_they_can_do(
    settings: Settings, kind: type[Agent]
) -> None:
    rule = {"code-analyst": "S602", "security-guardian": "B602"}[kind.name]
    source = "import subprocess\nsubprocess.call('ls', shell=True)\n"
    async with serving(kind, settings), calling(settings.nats_url) as agents:
        (analyser,) = await found(agents)
        assert "Send me source" in (await ask(analyser, "What can you do?")).text
        files = {"a.py": source.encode(), "b.py": b"x = (", "c.bin": b"\0"}
        for said in await asyncio.gather(ask(analyser, source), ask(analyser, "Well?", files)):
            assert f"| {rule} |" in said.text
        assert said.chunks == len(files)
        assert "## b.py\n\nNot reviewed: b.py is not Python" in said.text
        assert "## c.bin\n\nNot reviewed: c.bin is binary" in said.text


async def test_the_document_on_prompts_works_as_it_stands(server: Server, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "prompts.md").read_text()
    agent, client = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "greeter.py").write_text(agent)
    (tmp_path / "talk.py").write_text(client)
    async with actor(f"{tmp_path / 'greeter.py'}:Greeter", server.url, tmp_path / "log"):
        environment = {**os.environ, "REVO_NATS_URL": server.url}
        out = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, tmp_path / "talk.py", env=environment, stdout=out
        )
        said, _ = await in_time(process.communicate(), 30)
    assert said.decode().splitlines() == [
        "greeter Greets whom you name.",
        "Hello,  []",
        "Ada []",
        "",
        "Your file: ['a.txt']",
    ]
