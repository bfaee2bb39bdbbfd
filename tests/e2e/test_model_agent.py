"""The model-backed agent of the examples, as a process of its own, against a model server that we are."""

from __future__ import annotations

import contextlib
import http.server
import json
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import jetstream, subjects
from bus.mesh import Mesh
from bus.messages import Result, SpanEvent
from bus.server import Server
from tests.e2e.conftest import ROOT, Shell
from tests.eventually import eventually
from tests.processes import ActorProcess, actor

AGENT = f"{ROOT / 'examples' / 'model_agent.py'}:Summarizer"
KEY = "sk-very-secret-0123456789"
SUMMARY = {"title": "Foxes", "points": ["they jump"]}
HANG_UP = 0
"""A status that says: close the connection without an answer."""


def completion(arguments: str, tool: str = "final_result") -> dict[str, Any]:
    """What a model server answers when its model calls a tool."""
    call = {"id": "call-1", "type": "function", "function": {"name": tool, "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "completion-1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


class Model(http.server.ThreadingHTTPServer):
    """Speaks the chat completions protocol: gives the answers it is told to, then good ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        """Of each request its path, its `Authorization` and its body."""
        self.answers: list[tuple[int, object, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def will(self, status: int, body: object = None, **headers: str) -> None:
        """Say what the next answer is that was not told yet; a body of text goes as it is."""
        refusal = {"error": {"message": f"this is a {status}", "type": "error", "code": None}}
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, refusal if body is None else body, said))


class _Request(http.server.BaseHTTPRequestHandler):
    server: Model
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization", ""), body))
        good = (200, completion(json.dumps(SUMMARY)), dict[str, str]())
        status, answer, headers = self.server.answers.pop(0) if self.server.answers else good
        if status == HANG_UP:
            self.close_connection = True
            return
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        server.daemon_threads = True
        server.block_on_close = False  # a client may keep its connection open
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextlib.asynccontextmanager
async def summarizer(server: Server, model: Model, log: Path, **env: str) -> AsyncIterator[ActorProcess]:
    """Run the agent. The key of somebody else lies about, and its log says all that it can say."""
    settings = {
        "REVO_MODEL_URL": model.url,
        "REVO_MODEL_NAME": "tiny",
        "REVO_MODEL_KEY": f"{KEY}\n",  # as a file that is read whole has it
        "REVO_BACKOFF": "0.05",
        "REVO_LOG": "DEBUG",
        "OPENAI_API_KEY": "sk-of-somebody-else",
        "no_proxy": "127.0.0.1",
    }
    async with actor(AGENT, server.url, log, **{**settings, **env}) as running:
        yield running


async def summarize(mesh: Mesh, text: str = "The quick brown fox.") -> Result:
    return await (await mesh.submit("summarize", {"text": text})).outcome(timeout=15)


async def dead_letter(mesh: Mesh, result: Result) -> jetstream.StoredMessage:
    """The task's dead letter, which is stored after its result."""
    subject = subjects.dead(result.client, result.capability, result.task_id)
    letter: jetstream.StoredMessage = await eventually(lambda: jetstream.last(mesh.connection, subjects.DEAD, subject))
    return letter


async def pauses(mesh: Mesh, result: Result) -> list[float]:
    """The pauses that were made between the task's attempts, in seconds, once its spans are stored."""

    async def ended() -> list[list[SpanEvent]]:
        spans = await mesh.trace(result.task_id)
        attempts = [span.events for span in spans if span.name == f"process {result.capability}"]
        return attempts if len(attempts) == result.attempts else []

    attempts = await eventually(ended)
    return [event.attributes["delay"] for events in attempts for event in events if event.name == "retry"]


async def everything_stored(mesh: Mesh) -> str:
    """Every message of every stream, as text."""
    texts = []
    for stream in (subjects.TASKS, subjects.RESULTS, subjects.DEAD, subjects.TRACES, subjects.ATTEMPTS, subjects.AUDIT):
        message = await jetstream.after(mesh.connection, stream, 1)
        while message is not None:
            texts.append(repr(message))
            message = await jetstream.after(mesh.connection, stream, message.sequence + 1)
    return "\n".join(texts)


async def test_a_text_becomes_a_summary_that_the_configured_model_made(
    server: Server, mesh: Mesh, model: Model, tmp_path: Path
) -> None:
    async with summarizer(server, model, tmp_path / "log"):
        result = await summarize(mesh)
    assert (result.status, result.value, result.attempts) == ("succeeded", SUMMARY, 1)
    ((path, authorization, body),) = model.asked
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", f"Bearer {KEY}", "tiny")
    assert body["messages"][-1] == {"role": "user", "content": "The quick brown fox."}
    (tool,) = body["tools"]
    assert set(tool["function"]["parameters"]["properties"]) == {"title", "points"}


async def test_without_a_key_no_other_key_is_sent(server: Server, mesh: Mesh, model: Model, tmp_path: Path) -> None:
    async with summarizer(server, model, tmp_path / "log", REVO_MODEL_KEY=""):
        assert (await summarize(mesh)).status == "succeeded"
    assert [authorization for _, authorization, _ in model.asked] == ["Bearer no-key"]


async def test_what_a_retry_may_cure_is_tried_again_by_the_mesh_and_by_nobody_else(
    server: Server, mesh: Mesh, model: Model, tmp_path: Path
) -> None:
    async with summarizer(server, model, tmp_path / "log"):
        for status in (503, 500, 429, 408, HANG_UP):
            model.will(status)
            result = await summarize(mesh)
            assert (result.status, result.value, result.attempts) == ("succeeded", SUMMARY, 2), status
            assert len(model.asked) == 2, "one request an attempt"
            model.asked.clear()

        model.will(429, retry_after_ms="125")
        result = await summarize(mesh)
        assert (result.attempts, await pauses(mesh, result)) == (2, [0.125]), "as long as the server asked for"

        for _ in range(3):
            model.will(503)
        result = await summarize(mesh)
        assert (result.status, result.attempts, result.error and "503" in result.error.message) == ("failed", 3, True)


async def test_what_no_retry_cures_fails_at_once_with_a_dead_letter_that_has_not_the_key(
    server: Server, mesh: Mesh, model: Model, tmp_path: Path
) -> None:
    broke = {"error": {"message": "you are broke", "type": "insufficient_quota", "code": "insufficient_quota"}}
    quoting = {"error": {"message": f"incorrect key: {KEY}", "type": "auth", "code": "invalid_api_key"}}
    async with summarizer(server, model, tmp_path / "log") as agent:
        for status, body, says in (
            (400, None, "this is a 400"),
            (401, quoting, "incorrect key: ***"),
            (404, None, "this is a 404"),
            (413, None, "this is a 413"),
            (429, broke, "you are broke"),
        ):
            model.will(status, body)
            result = await summarize(mesh)
            assert (result.status, result.attempts) == ("failed", 1), status
            assert result.error is not None
            assert (result.error.code, says in result.error.message) == ("model_refused", True), result.error
            assert b"quick brown fox" in (await dead_letter(mesh, result)).body
        assert len(model.asked) == 5
        agent.signal(signal.SIGTERM)
        assert await agent.wait() == 0
        log = agent.log
    stored = await everything_stored(mesh)
    for text, shows in ((stored, "incorrect key: ***"), (stored, "process summarize"), (log, "401 Unauthorized")):
        assert shows in text, "it would be seen"
    assert KEY not in stored
    assert KEY not in log


async def test_garbage_from_the_model_is_tried_again_and_then_dead(
    server: Server, mesh: Mesh, model: Model, tmp_path: Path
) -> None:
    async with summarizer(server, model, tmp_path / "log"):
        garbage = ("", "not json", "[]", "null", "{}", json.dumps({**completion("{}"), "choices": []}))
        for answer in garbage:
            model.will(200, answer)
            result = await summarize(mesh)
            assert (result.status, result.attempts) == ("succeeded", 2), answer

        model.asked.clear()
        model.will(200, completion('{"title": 7}'))
        assert (await summarize(mesh)).attempts == 1
        assert len(model.asked) == 2, "the model is told what is wrong with its answer, within the attempt"

        for _ in range(3):
            model.will(200, "not json")
        result = await summarize(mesh)
        assert (result.status, result.attempts, result.error and result.error.retryable) == ("failed", 3, True)
        await dead_letter(mesh, result)
        assert (await summarize(mesh)).status == "succeeded", "the agent lives"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "REVO_MODEL_URL: set it to an OpenAI-compatible URL"),
        ({"REVO_MODEL_URL": "tiny.example:80"}, "REVO_MODEL_URL: set it to an OpenAI-compatible URL"),
        ({"REVO_MODEL_URL": "http://127.0.0.1:1/v1"}, "REVO_MODEL_NAME: set it to the name of a model"),
        ({"PYTHONPATH": "nothing"}, "No module named 'pydantic_ai'; pip install"),
    ],
)
async def test_without_its_settings_or_its_library_it_does_not_start_and_says_what_is_missing(
    server: Server, tmp_path: Path, env: dict[str, str], says: str
) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "pydantic_ai.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'pydantic_ai'\", name='pydantic_ai')\n"
    )
    shell.env |= {"REVO_MODEL_KEY": KEY, **env}
    done = shell.revo("run", AGENT, "--url", server.url)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert says in line
    assert KEY not in line
