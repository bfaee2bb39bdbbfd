"""What a mesh needs may be made by one who may, and then be used by those who may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import jetstream, subjects, topology
from bus.connection import Connection
from bus.errors import ServerError
from bus.mesh import Mesh
from bus.outcomes import Policy
from bus.plan import Done, Wanted, carry_out, plan
from bus.server import Server
from bus.settings import Settings
from tests.processes import actor

DENIED = ", ".join(f'"$JS.API.STREAM.{verb}.>"' for verb in ("CREATE", "UPDATE", "DELETE", "PURGE"))
USERS = f"""
authorization {{ users: [
  {{ user: owner, password: secret }}
  {{ user: actor, password: secret, permissions: {{ publish: {{ deny: [{DENIED}] }} }} }} ] }}
"""
WANTED = [Wanted("echo", Policy(ack_wait=1.0, max_attempts=2), "echo"), Wanted("@echo", Policy(), "echo")]


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Server]:
    running = Server(tmp_path / "nats")
    write = running._write_config

    def with_users() -> Path:
        path = write()
        path.write_text(path.read_text() + USERS)
        return path

    running._write_config = with_users  # type: ignore[method-assign]
    async with running:
        yield running


def as_user(server: Server, name: str) -> str:
    return server.url.replace("nats://", f"nats://{name}:secret@")


async def test_actors_need_no_right_to_create_a_stream(guarded: Server, tmp_path: Path) -> None:
    actors, owner = as_user(guarded, "actor"), as_user(guarded, "owner")
    with pytest.raises(AssertionError, match="stream TASKS does not exist, and these credentials may not create it"):
        async with actor("examples/echo_agent.py:Echo", actors, tmp_path / "early.log"):
            pass
    async with await Connection.open(owner) as connection:
        assert await carry_out(connection, await plan(connection, WANTED), _ignore)
        assert await plan(connection, WANTED) == []
    async with (
        actor("actors.registry:Registry", actors, tmp_path / "registry.log"),
        actor("actors.steward:Steward", actors, tmp_path / "steward.log"),
        actor("examples/echo_agent.py:Echo", actors, tmp_path / "echo.log"),
        Mesh.connect(settings=Settings(nats_url=actors)) as mesh,
    ):
        assert await (await mesh.submit("echo", {"text": "hi"})).result(timeout=5) == {"text": "hi"}
        info = await jetstream.call(mesh.connection, "CONSUMER.INFO", subjects.TASKS, "echo-normal")
        assert info["config"]["ack_wait"] == 1_000_000_000, "as it was planned"
    assert "secret" not in (tmp_path / "echo.log").read_text()


async def test_what_cannot_be_changed_is_said_and_the_rest_is_done(connection: Connection) -> None:
    body = {"name": subjects.TRACES, "subjects": [subjects.SPAN_SUBJECTS], "storage": "memory"}
    await jetstream.call(connection, "STREAM.CREATE", subjects.TRACES, body=body)
    changes = await plan(connection, WANTED)
    (impossible,) = [change for change in changes if change.action == "impossible"]
    assert impossible.what == "stream TRACES"
    assert any("storage is" in line for line in impossible.lines)
    done: list[Done] = []
    assert not await carry_out(connection, changes, done.append)
    (failed,) = [one for one in done if one.error]
    assert "cannot be changed" in failed.error
    assert [change.what for change in await plan(connection, WANTED)] == ["stream TRACES"]


async def test_a_refusal_of_the_server_is_told_and_stops_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await topology.apply(connection)
    real = jetstream.call

    async def refusing(connection: Connection, operation: str, *names: str, **more: object) -> dict[str, object]:
        if operation == "CONSUMER.CREATE" and names[1] == "echo-high":
            raise ServerError("echo-high", "no room", 10023)
        return await real(connection, operation, *names, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(jetstream, "call", refusing)
    done: list[Done] = []
    assert not await carry_out(connection, await plan(connection, WANTED), done.append)
    assert [one.change.what for one in done if one.error] == ["consumer echo-high"]
    assert len(done) == 10


def _ignore(_: Done) -> None:
    """Nobody looks."""


async def test_a_lane_is_run_as_its_queue_is(connection: Connection) -> None:
    assert await carry_out(connection, await plan(connection, WANTED), _ignore)
    info = await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, "echo-normal")
    lane = topology.lane_of(info["config"], "echo", "normal")
    names = (subjects.TASKS, "echo-normal-fair", lane["filter_subject"])
    body = {"stream_name": subjects.TASKS, "config": lane, "action": ""}
    await jetstream.call(connection, "CONSUMER.CREATE", *names, body=body)
    assert await plan(connection, WANTED) == []
    slower = [Wanted("echo", Policy(ack_wait=7.0, max_attempts=2), "echo")]
    changes = await plan(connection, slower)
    assert "consumer echo-normal-fair" in [change.what for change in changes]
    assert await carry_out(connection, changes, _ignore)
    info = await jetstream.call(connection, "CONSUMER.INFO", subjects.TASKS, "echo-normal-fair")
    assert (info["config"]["ack_wait"], await plan(connection, slower)) == (7_000_000_000, [])
