"""The worker on Node where the server knows users: a key of `revo keys add` is all that it needs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from actors.keyring import Keyring
from bus import subjects, topology
from bus.grants import Wish
from bus.server import Server
from tests.eventually import in_time
from tests.guarded import QUICK, Guarded
from tests.node import worker_on_node
from tests.processes import actor


async def node(command: list[str], **env: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, **env}, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("isolated", [True, False], ids=["own", "shared"])
async def test_with_credentials_of_an_agent_it_does_the_tasks_of_a_mesh_that_knows_users(
    tmp_path: Path, isolated: bool
) -> None:
    command = worker_on_node(tmp_path)
    (tmp_path / "worker.js").write_text((tmp_path / "worker.js").read_text().replace("STANDS = 20", "STANDS = 0.3"))
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    keyring.ensure("crafter", "agent", Wish(does=("node",)), isolated=isolated)
    keyring.ensure("alice", "submitter", Wish(submits=("node",)))
    steward = "actors.steward:Steward"
    async with Server(tmp_path / "nats", accounts=keyring.accounts) as server:
        here = Guarded(server, keyring)
        log = tmp_path / "steward.log"
        async with (
            here.mesh("operator") as operator,  # makes the streams
            actor(steward, server.url, log, name=subjects.STEWARD, **here.env(subjects.STEWARD)),
            here.mesh("alice") as alice,
        ):
            env = {"REVO_NATS_URL": server.url, **here.env("crafter")}
            early = await node(command, **env)
            _, said = await in_time(early.communicate(), 20)
            assert early.returncode == 1
            why = "node has no consumers; an operator makes them with `revo topology apply`"
            assert said.decode() == f"this worker cannot join the mesh: {why}\n"
            await topology.ensure_capability(operator.connection, "node", QUICK, "crafter")
            worker = await node(command, **env)
            try:
                plain = await (await alice.submit("node", {"do": "echo", "value": 5})).outcome(timeout=20)
                again = await (await alice.submit("node", {"do": "fail-once", "value": 6})).outcome(timeout=20)
                named = await alice.submit("node", {"do": "fail-for-good"}, task_id="named")
                failed = await named.outcome(timeout=20)
                later = await alice.submit("node", {"do": "echo", "value": 7}, after=1)  # all pulls are others by then
                assert await later.result(timeout=20) == 7
            finally:
                worker.terminate()
                _, said = await in_time(worker.communicate(), 20)
    assert (plain.value, plain.agent) == (5, "crafter")
    assert (again.value, again.attempts) == (6, 2)
    assert (failed.status, failed.error and failed.error.code) == ("failed", "as_told")
    assert (worker.returncode, said.decode()) == (0, ""), "and nothing was refused"


async def test_why_it_cannot_join_is_one_line(tmp_path: Path, server: Server) -> None:
    command = worker_on_node(tmp_path)
    open_ = tmp_path / "open.nk"
    open_.write_text("SU")
    open_.chmod(0o644)
    for env, why in (
        ({"REVO_CREDENTIALS": "nowhere.nk"}, "credentials nowhere.nk: there is no such file"),
        ({"REVO_CREDENTIALS": str(open_)}, "everybody on this machine may read it; chmod 600"),
        ({"REVO_NATS_URL": "nats://127.0.0.1:1"}, "connection refused"),
    ):
        process = await node(command, **{"REVO_NATS_URL": server.url, **env})
        _, said = await in_time(process.communicate(), 20)
        (line,) = said.decode().splitlines()
        assert process.returncode == 1
        assert line.startswith("this worker cannot join the mesh: ")
        assert why in line
