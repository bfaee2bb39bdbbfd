"""Each trap of nats-py that the bus can meet: a test that fails without its cure.

The numbers are those of the list in `docs/adr/0003-one-connection.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from bus import attempts, jetstream, subjects
from bus.connection import Connection
from bus.errors import (
    AuthenticationError,
    BusClosedError,
    ConnectionLostError,
    EncodeError,
    InvalidSubjectError,
    NoRespondersError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RequestTimeoutError,
    ServerTooOldError,
    ServerUnreachableError,
)
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from bus.tasks import receive
from bus.wire import Message
from tests.conftest import Gate, StartWorker
from tests.eventually import eventually, in_time
from tests.proxy import proxied


async def test_trap_1_a_subscription_is_known_to_the_server_when_subscribe_returns(
    server: Server, connection: Connection
) -> None:
    async with await Connection.open(server.url) as other:
        for n in range(300):

            def answer(message: Message) -> None:
                connection.send(message.reply, b"here")

            await connection.subscribe(f"trap.one.{n}", answer)
            assert (await other.request(f"trap.one.{n}", timeout=2)).data == b"here"


class Wire:
    """Notes in which order commands reach the socket, and can hold up the buffered ones as a full socket does."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        transport: Any = connection.client._transport
        assert transport is not None
        self.written: list[bytes] = []
        self.room = asyncio.Event()
        self.room.set()
        writer: Any = transport._io_writer
        write: Any = writer.write
        writelines: Any = writer.writelines
        drain: Any = transport.drain

        def noted_write(data: bytes) -> None:
            self.written += re.findall(rb"^(?:PUB|PING|UNSUB)", data, re.MULTILINE)
            write(data)

        def noted_writelines(lines: list[bytes]) -> None:
            self.written += [bytes(line).split()[0] for line in lines]
            writelines(lines)

        async def held_drain() -> None:
            await self.room.wait()
            await drain()

        monkeypatch.setattr(writer, "write", noted_write)
        monkeypatch.setattr(writer, "writelines", noted_writelines)
        monkeypatch.setattr(transport, "drain", held_drain)


async def test_trap_1_a_flush_goes_out_after_what_was_sent_before_it_even_when_the_socket_is_full(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(connection, monkeypatch)
    wire.room.clear()
    await connection.publish("first", b"")
    await eventually(lambda: wire.written == [b"PUB"])
    await connection.publish("second", b"")
    flushing = asyncio.create_task(connection.flush())
    await asyncio.wait((flushing,), timeout=0.05)
    wire.room.set()
    await flushing
    assert wire.written == [b"PUB", b"PUB", b"PING"]


async def test_trap_1_a_drain_says_that_it_leaves_before_it_asks_whether_that_was_heard(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignore(_: Message) -> None:
        return

    subscription = await connection.subscribe("trap.order", ignore)
    wire = Wire(connection, monkeypatch)
    await subscription.drain()
    assert wire.written == [b"UNSUB", b"PING"]


async def test_trap_1_draining_a_busy_queue_member_loses_nothing(server: Server, connection: Connection) -> None:
    seen = 0

    def count(_: Message) -> None:
        nonlocal seen
        seen += 1

    total, members = 16_000, 4
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(await Connection.open(server.url)) for _ in range(members)]
        subscriptions = [await member.subscribe("trap.drain", count, queue="q") for member in opened]

        async def publish() -> None:
            for n in range(total):
                await connection.publish("trap.drain", b"x")
                if n % 50 == 0:
                    await asyncio.sleep(0)  # noqa: TID251  (lets the other side in; waits for nothing)
            await connection.flush()

        publishing = asyncio.create_task(publish())
        for subscription in subscriptions[:-1]:
            await eventually(lambda: seen > 0)
            await subscription.drain()
        await publishing
        await subscriptions[-1].drain()
    assert seen == total


async def test_trap_2_headers_count_for_the_limit_and_the_connection_survives(connection: Connection) -> None:
    body = b"x" * (connection.max_payload - 100)
    with pytest.raises(PayloadTooLargeError) as caught:
        await connection.publish("trap.two", body, {"Some-Header": "y" * 200})
    assert caught.value.limit == connection.max_payload
    assert caught.value.size > connection.max_payload
    await connection.publish("trap.two", body)
    await connection.flush()
    assert connection.is_connected


async def test_trap_2_the_size_that_is_checked_is_the_size_that_the_server_counts(
    connection: Connection,
) -> None:
    headers = {"Some-Header": "ä" * 50, "Another": "b"}
    overhead = 12 + sum(len(k) + 2 + len(v.encode()) + 2 for k, v in headers.items())
    exact = b"x" * (connection.max_payload - overhead - 8)
    await connection.publish("trap.two", exact, headers)
    await connection.flush()
    assert connection.is_connected


async def test_trap_3_a_request_in_flight_fails_at_once_when_the_server_dies(
    server: Server, connection: Connection
) -> None:
    asked = asyncio.Event()

    def silent(_: Message) -> None:
        asked.set()

    await connection.subscribe("trap.three", silent)
    waiting = asyncio.create_task(connection.request("trap.three", timeout=60))
    await in_time(asked.wait(), 5)
    server.kill()
    with pytest.raises(ConnectionLostError):
        await in_time(waiting, 5)


async def test_trap_3_durable_publishes_go_on_across_a_killed_server_and_none_stands_twice(
    server: Server, mesh: Mesh
) -> None:
    await mesh.submit("echo", {"n": -1})

    async def submit(n: int) -> str:
        return (await mesh.submit("echo", {"n": n}, task_id=f"task-{n}")).task_id

    os.kill(server.pid, signal.SIGSTOP)  # so that all of them are in flight when it dies
    submitting = [asyncio.create_task(submit(n)) for n in range(300)]
    await eventually(lambda: len(mesh.connection._calls._pending) == 300)
    server.kill()
    await server.wait()
    late = [asyncio.create_task(submit(n)) for n in range(300, 330)]
    await server.start()
    ids = await in_time(asyncio.gather(*submitting, *late), 30)
    assert len(set(ids)) == 330
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    assert info["state"]["messages"] == 331


async def test_trap_4_a_standing_pull_survives_a_restart_of_the_server(
    server: Server, mesh: Mesh, start_worker: StartWorker
) -> None:
    async def echo(message: Any) -> Any:
        return message

    await start_worker(echo)
    assert await (await mesh.submit("echo", {"n": 1})).result(timeout=5) == {"n": 1}
    server.kill()
    await server.wait()
    await server.start()
    handle = await mesh.submit("echo", {"n": 2})
    assert await handle.result(timeout=6) == {"n": 2}


async def test_trap_5_a_client_hears_of_a_result_that_was_stored_while_it_was_cut_off(
    server: Server, connection: Connection, start_worker: StartWorker, gate: Gate
) -> None:
    await start_worker(gate)
    async with proxied(server.url) as wire, Mesh.connect(wire.url) as far:
        handle = await far.submit("echo", {"n": 1})
        waiting = asyncio.create_task(handle.result(timeout=20))
        await in_time(gate.begun.get(), 5)
        await wire.cut()
        await eventually(lambda: not far.connection.is_connected)
        gate.open.set()
        subject = subjects.result_of(handle.task_id)
        await eventually(lambda: jetstream.last(connection, subjects.RESULTS, subject))
        wire.mend()
        assert await waiting == {"n": 1}


async def test_closing_sends_what_was_published(server: Server, connection: Connection) -> None:
    seen: list[Message] = []

    await connection.subscribe("trap.eight", seen.append)
    async with await Connection.open(server.url) as other:
        for _ in range(2000):
            await other.publish("trap.eight", b"x")
    await eventually(lambda: len(seen) == 2000)


@pytest.fixture
async def guarded_server(tmp_path: Path) -> Any:
    """A server where user `a` may publish and subscribe to `free.>` only."""
    running = Server(tmp_path / "nats")
    write = running._write_config

    def with_auth() -> Path:
        path = write()
        path.write_text(
            path.read_text()
            + """
authorization { users: [
  { user: a, password: secret, permissions: {
      publish: ["free.>"], subscribe: ["free.>", "_INBOX.>"] } } ] }
"""
        )
        return path

    running._write_config = with_auth  # type: ignore[method-assign]
    async with running:
        yield running


def _as_user(url: str, password: str = "secret") -> str:  # noqa: S107
    return url.replace("nats://", f"nats://a:{password}@")


async def test_trap_11_a_denied_request_fails_at_once_and_names_the_subject(guarded_server: Server) -> None:
    async with await Connection.open(_as_user(guarded_server.url)) as connection:
        with pytest.raises(PermissionDeniedError, match=r"publish to Closed\.Thing"):
            await in_time(connection.request("Closed.Thing", timeout=30), 5)


async def test_trap_11_a_denied_subscription_is_an_error(guarded_server: Server) -> None:
    def ignore(_: Message) -> None:
        return

    async with await Connection.open(_as_user(guarded_server.url)) as connection:
        before = set(connection.client._handlers)
        with pytest.raises(PermissionDeniedError, match="subscribe"):
            await connection.subscribe("closed.thing", ignore)
        assert set(connection.client._handlers) == before, "it is not asked for again at every reconnect"


async def test_trap_11_a_denied_publish_is_an_error_at_the_next_flush(guarded_server: Server) -> None:
    async with await Connection.open(_as_user(guarded_server.url)) as connection:
        await connection.publish("closed.thing", b"x")
        with pytest.raises(PermissionDeniedError, match=r"closed\.thing"):
            await connection.flush()


async def test_refused_credentials_are_an_error_at_once_and_never_shown(guarded_server: Server) -> None:
    with pytest.raises(AuthenticationError) as caught:
        await in_time(Connection.open(_as_user(guarded_server.url, "wrong-word")), 3)
    assert "wrong-word" not in str(caught.value)


async def test_trap_12_the_first_connect_gives_up_in_time_with_one_line_that_names_the_url(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(connect_timeout=0.3)
    with pytest.raises(ServerUnreachableError, match=r"no NATS server at nats://127\.0\.0\.1:1 within 0\.3 s"):
        await in_time(Connection.open("nats://127.0.0.1:1", settings=settings), 3)
    assert "Traceback" not in caplog.text


async def test_a_lost_server_is_a_log_line_and_the_connection_comes_back(
    server: Server, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    await server.wait()
    await eventually(lambda: not connection.is_connected)
    await server.start()
    await in_time(connection.connected(), 10)
    await connection.flush()
    assert "is lost; reconnecting" in caplog.text
    assert "is back after" in caplog.text
    assert "Traceback" not in caplog.text


async def test_nobody_there_is_told_apart_from_nobody_answering(connection: Connection) -> None:
    def silent(_: Message) -> None:
        return

    with pytest.raises(NoRespondersError):
        await connection.request("nobody.there", timeout=30)
    await connection.subscribe("somebody.silent", silent)
    with pytest.raises(RequestTimeoutError):
        await connection.request("somebody.silent", timeout=0.1)


async def test_what_would_smuggle_a_command_is_an_error_of_ours(connection: Connection) -> None:
    with pytest.raises(InvalidSubjectError, match="a space or a sign"):
        await connection.publish("x 0\r\nPUB y", b"")
    with pytest.raises(EncodeError, match="name of a header"):
        await connection.publish("x", b"", {"a b": "c"})
    await connection.flush()


async def test_a_closed_connection_says_so(connection: Connection) -> None:
    await connection.close()
    with pytest.raises(BusClosedError):
        await connection.publish("x", b"")
    with pytest.raises(BusClosedError):
        await connection.connected()


async def test_a_server_that_is_too_old_is_refused_with_feature_and_version() -> None:
    async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.4","max_payload":1048576,"jetstream":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    listening = await asyncio.start_server(old_server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        with pytest.raises(ServerTooOldError, match=r"Nats-TTL.* needs nats-server 2\.11 .* runs 2\.9"):
            await Connection.open(f"nats://127.0.0.1:{port}", settings=Settings(connect_timeout=3))


async def test_a_stopped_process_is_taken_out_of_its_queue_group(server: Server) -> None:
    """A hung member keeps its interest; the server's pings find it (the embedded server is set up for that)."""
    config = (Path(server._home) / "nats.conf").read_text()
    assert 'ping_interval: "5s"' in config
    assert server.pid
    os.kill(server.pid, signal.SIGCONT)


async def test_plain_nats_py_closes_for_good_where_the_bus_refuses(server: Server) -> None:
    """Why trap 2 has a cure: what nats-py 2.16 does without one. When this fails, the cure may go."""
    client = await nats.connect(server.url)
    closed = asyncio.Event()

    async def on_closed() -> None:
        closed.set()

    client._closed_cb = on_closed
    with contextlib.suppress(nats.errors.Error):
        await client.publish("x", b"x" * (client.max_payload - 10), headers={"A": "b" * 100})
    await in_time(closed.wait(), 5)
    assert client.is_closed


async def test_trap_6_a_record_whose_time_ran_out_is_as_if_it_had_never_been(mesh: Mesh) -> None:
    reply = "$JS.ACK.TASKS.echo-normal.2.1.1.1700000000000000000.0"
    message = Message("revo.task.echo.normal.anon", reply, b"{}")
    envelope = receive(message, 3600)
    subject = subjects.attempt("anon", "echo", envelope.task_id)
    headers = {"Nats-TTL": "1s", "Content-Type": "application/json"}
    await jetstream.store(mesh.connection, subject, b'{"errors": 2}', headers)
    assert (await attempts.read(mesh.connection, envelope))[0].errors == 2

    async def gone() -> bool:
        return (await attempts.read(mesh.connection, envelope))[0].errors == 0

    await eventually(gone)
    changed = await attempts.change(mesh.connection, envelope, partial(attempts.run_alone, deaths=0))
    assert (changed.errors, changed.alone) == (0, 1)


async def test_trap_14_a_flush_that_was_given_up_leaves_a_connection_that_hears(
    server: Server, connection: Connection
) -> None:
    async def gives_up() -> bool:
        try:
            await connection.flush(timeout=0.05)
        except RequestTimeoutError:
            return True
        return False  # it answered before it stopped

    os.kill(server.pid, signal.SIGSTOP)
    try:
        await eventually(gives_up)
        cancelled = asyncio.create_task(connection.flush())
        await asyncio.wait((cancelled,), timeout=0.05)
        cancelled.cancel()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    for _ in range(3):
        assert (await connection.request(subjects.api("INFO"), timeout=2)).data
        await connection.flush(timeout=2)


async def test_trap_15_a_flush_on_a_transport_that_uvloop_has_closed_is_a_lost_connection(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    monkeypatch.setattr(connection.client._transport, "write", write)
    with pytest.raises(ConnectionLostError):
        await connection.flush()


async def test_trap_16_whoever_closes_as_the_server_dies_is_not_cancelled(server: Server) -> None:
    for turns in range(10):
        connection = await Connection.open(server.url)
        server.kill()
        time.sleep(0.02)  # noqa: TID251  (it is gone, and nobody has heard of it yet)
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (a turn of the loop)
        await connection.close()
        assert connection.closed.done()
        await server.wait()
        await server.start()
