"""Streams and consumers are created where they are missing, reported where they differ, and never changed silently."""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import nats.js.errors
import pytest

from bus import jetstream, streams, subjects, topology
from bus.connection import Connection
from bus.errors import QueueFullError, WrongSequenceError
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.pull import ConsumerGoneError
from bus.server import Server
from tests.conftest import StartWorker
from tests.eventually import eventually, in_time


async def test_applying_twice_changes_nothing_and_finds_nothing(connection: Connection) -> None:
    assert len(await topology.differences(connection)) == 17, "none exists yet"
    assert await topology.apply(connection) == []
    assert await topology.apply(connection) == []
    assert await topology.differences(connection) == []


async def test_many_processes_may_apply_at_once(server: Server) -> None:
    async def one() -> list[str]:
        async with await Connection.open(server.url) as connection:
            return await topology.apply(connection)

    assert await asyncio.gather(*(one() for _ in range(8))) == [[]] * 8


async def test_a_stream_that_differs_is_reported_and_left_alone(connection: Connection) -> None:
    await topology.apply(connection)
    info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
    changed = {**info["config"], "max_bytes": 5_000_000}
    await jetstream.call(connection, "STREAM.UPDATE", subjects.TASKS, body=changed)
    (line,) = await topology.apply(connection)
    assert line == "stream TASKS: max_bytes is 5000000, wanted 1073741824"
    info = await jetstream.call(connection, "STREAM.INFO", subjects.TASKS)
    assert info["config"]["max_bytes"] == 5_000_000


async def test_streams_say_outright_how_many_consumers_they_take(connection: Connection) -> None:
    await topology.apply(connection)
    for name in (subjects.TASKS, subjects.RESULTS, subjects.DEAD, subjects.ATTEMPTS, subjects.TRACES):
        info = await jetstream.call(connection, "STREAM.INFO", name)
        assert info["config"]["max_consumers"] == streams.MAX_CONSUMERS


async def test_two_agents_that_disagree_are_both_named_and_the_first_holds(connection: Connection) -> None:
    await topology.apply(connection)
    first = Policy(ack_wait=5.0, max_attempts=3)
    assert await topology.ensure_capability(connection, "review", first, "agent-one") == (first, None)
    held, conflict = await topology.ensure_capability(
        connection, "review", Policy(ack_wait=7.0, max_attempts=3), "agent-two"
    )
    assert held == first
    assert conflict is not None
    assert str(conflict) == "agents agent-one and agent-two disagree on how review is run: ack_wait 5 and 7"


async def test_a_result_stands_once_with_or_without_the_condition(connection: Connection) -> None:
    await topology.apply(connection)
    subject = subjects.result("anon", "echo", "t1")
    await jetstream.store(connection, subject, b"first", {"Nats-Expected-Last-Subject-Sequence": "0"})
    with pytest.raises(WrongSequenceError):
        await jetstream.store(connection, subject, b"second", {"Nats-Expected-Last-Subject-Sequence": "0"})
    with pytest.raises(QueueFullError):
        await jetstream.store(connection, subject, b"third")
    stored = await jetstream.last(connection, subjects.RESULTS, subject)
    assert stored is not None
    assert stored.body == b"first"


async def test_a_refused_result_is_never_seen_by_those_who_wait(connection: Connection, server: Server) -> None:
    await topology.apply(connection)
    client = await nats.connect(server.url)
    done = await client.subscribe("revo.done.>")
    await client.flush()
    subject = subjects.result("anon", "echo", "t1")
    await jetstream.store(connection, subject, b"first", {"Nats-Expected-Last-Subject-Sequence": "0"})
    for _ in range(3):
        with pytest.raises(WrongSequenceError):
            await jetstream.store(connection, subject, b"late", {"Nats-Expected-Last-Subject-Sequence": "0"})
    await client.flush()
    assert (await done.next_msg(timeout=2)).data == b"first"
    assert done.pending_msgs == 0
    await client.close()


async def test_a_misspelt_priority_is_stored_nowhere(connection: Connection, server: Server) -> None:
    await topology.apply(connection)
    client = await nats.connect(server.url)
    with pytest.raises(nats.js.errors.NoStreamResponseError):
        await client.jetstream().publish("revo.task.echo.hihg", b"{}")
    await client.close()


async def test_a_worker_whose_consumer_is_deleted_says_so_and_ends(
    mesh: Mesh, start_worker: StartWorker, connection: Connection
) -> None:
    async def echo(message: Any) -> Any:
        return message

    worker = await start_worker(echo)
    assert await (await mesh.submit("echo", {"n": 1})).result(timeout=5) == {"n": 1}
    await eventually(lambda: worker.in_hand == 0)
    await jetstream.call(connection, "CONSUMER.DELETE", subjects.TASKS, "echo-normal")
    error = await in_time(worker.failed, 10)
    assert isinstance(error, ConsumerGoneError)
    assert "echo-normal" in str(error)


async def test_a_stream_of_an_earlier_version_learns_to_be_read_and_keeps_all_else(connection: Connection) -> None:
    (tasks, *_) = streams.streams(connection.settings, connection.max_payload)
    old = {**tasks, "allow_direct": False, "max_bytes": 12345}
    await jetstream.call(connection, "STREAM.CREATE", "TASKS", body=old)
    assert await topology.apply(connection) == [f"stream TASKS: max_bytes is 12345, wanted {tasks['max_bytes']}"]
    standing = (await jetstream.call(connection, "STREAM.INFO", "TASKS"))["config"]
    assert (standing["allow_direct"], standing["max_bytes"]) == (True, 12345)
