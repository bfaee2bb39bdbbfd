"""Whatever a stranger puts into a task, its worker lives and the task ends."""

from __future__ import annotations

import random
from typing import Any

from bus import jetstream, subjects
from bus.mesh import Mesh
from tests.conftest import StartWorker
from tests.eventually import eventually, in_time

NAMES = [
    "Content-Type", "Revo-Task-Id", "Revo-Deadline", "Revo-Fresh", "Revo-Version", "traceparent", "tracestate",
    "Nats-Rollupx", "X(odd)", "x/y", "a" * 300, "Revo-Dead-Letter", "Nats-Service-Error",
]  # fmt: skip
VALUES = [
    "", "application/json", "application/msgpack", "text/html; x", "1e300", "nan", "-1", "0", "1.5", "a.b", "*", ">",
    "ä\u2028ö", "x" * 5000, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "=,=;", "\t",
]  # fmt: skip


def frame(subject: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """A message as no polite client would write it."""
    block = b"NATS/1.0\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in headers) + b"\r\n"
    return f"HPUB {subject} {len(block)} {len(block) + len(body)}\r\n".encode() + block + body + b"\r\n"


async def test_no_body_and_no_header_kills_a_worker(mesh: Mesh, start_worker: StartWorker) -> None:
    async def echo(message: Any) -> Any:
        return message

    worker = await start_worker(echo, concurrency=8)
    chance = random.Random(2026)  # noqa: S311
    total = 400
    transport = mesh.connection.client._transport
    assert transport is not None
    for _ in range(total):
        headers = [(chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.randrange(4))]
        body = chance.choice(
            [chance.randbytes(chance.randrange(40)), b"{}", b'{"a": [1]}', b"\x81\xa1a\x01", b"[" * 999]
        )
        transport.write(frame(f"revo.task.echo.{chance.choice(subjects.PRIORITIES)}", headers, body))
    await mesh.connection.flush()

    async def all_ended() -> bool:
        info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
        return bool(info["state"]["last_seq"] == total and info["state"]["messages"] == 0)

    await eventually(all_ended, timeout=30)
    assert not worker.failed.done()
    assert await (await mesh.submit("echo", {"still": "here"})).result(timeout=5) == {"still": "here"}
    results = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.RESULTS)
    letters = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.DEAD)
    assert results["state"]["messages"] > total / 2
    assert letters["state"]["messages"] > total / 10
    await in_time(mesh.connection.flush(), 5)
