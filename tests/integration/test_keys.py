"""Keys: files, rotation while work goes on, TLS, streams that are encrypted, quotas."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from actors.actor import Agent, task
from actors.admission import let_in
from actors.keyring import Keyring, NoUserError, wish_of
from bus import credentials, jetstream, nkeys, subjects, topology
from bus.connection import Connection
from bus.credentials import Credentials
from bus.errors import AuthenticationError, BusError, ConfigError, QueueFullError, ServerUnreachableError
from bus.grants import Wish
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from tests.eventually import eventually, in_time
from tests.guarded import QUICK, guarded
from tests.processes import actor

ECHO = "revo.bench.echo:Echo"


def seeds_below(folder: Path) -> list[str]:
    """Every seed in the credentials of a folder."""
    lines = (line for path in folder.rglob("*.nk") for line in path.read_text().splitlines())
    return [line for line in lines if line.startswith("SU")]


def test_seeds_stand_in_files_of_their_owner_and_nowhere_else(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    keyring.ensure("alice", "submitter", Wish(submits=("echo",)))
    seeds = seeds_below(tmp_path)
    assert len(seeds) == 6
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".nk":
            assert not any(seed in path.read_text() for seed in seeds), path
    for path in tmp_path.rglob("*.nk"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert seeds_below(path.parent)[0] not in repr(Credentials.load(path))


def test_credentials_that_everybody_may_read_or_that_are_none_are_refused_without_their_text(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    path = keyring.path("operator")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by everybody"):
        Credentials.load(path)
    path.chmod(0o600)
    text = path.read_text()
    path.write_text(text.replace("# role: operator\n", ""))
    with pytest.raises(ConfigError, match="no line `# role: NAME`"):
        Credentials.load(path)
    path.write_text(text[:-4] + "AAA\n")
    with pytest.raises(ConfigError, match="holds no seed") as refused:
        Credentials.load(path)
    assert "SU" not in str(refused.value).replace("begins with SU", "")
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        Credentials.load(path)


@pytest.mark.parametrize(
    ("role", "wish", "says"),
    [
        ("king", Wish(), "there are submitter, agent"),
        ("submitter", Wish(does=("echo",)), "only an agent does"),
        ("observer", Wish(submits=("echo",)), "takes no grants"),
        ("agent", Wish(does=("e.cho",)), "a capability is"),
        ("submitter", Wish(submits=("echo.>",)), "a capability is"),
        ("submitter", Wish(asks=("echo",)), "service.method"),
        ("submitter", Wish(asks=("echo.*",)), "a method is"),
        ("agent", Wish(broadcasts=(">",)), "a capability is"),
        ("agent", Wish(memory=("no.tes",)), "a namespace is"),
        ("submitter", Wish(memory=("notes:rw",)), "a namespace is"),
        ("observer", Wish(memory=("notes",)), "takes no grants"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused_and_changes_nothing(
    tmp_path: Path, role: str, wish: Wish, says: str
) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    before = keyring.accounts.read_text()
    with pytest.raises(BusError, match=says):
        keyring.ensure("eve", role, wish)
    assert keyring.accounts.read_text() == before
    with pytest.raises(NoUserError):
        keyring.rotate("eve")
    with pytest.raises(BusError):
        keyring.ensure("e>ve", "submitter", Wish(submits=("echo",)))


def test_a_user_keeps_its_role_and_a_half_written_keyring_mends_itself(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    for name in ("operator", "revo-steward"):
        with pytest.raises(ConfigError, match="take another name"):
            keyring.ensure(name, "agent", Wish(does=("echo",)))
    keyring.ensure("shop", "submitter", Wish(submits=("echo",)))
    with pytest.raises(ConfigError, match="is of role submitter"):
        keyring.ensure("shop", "agent", Wish(does=("echo",)))
    secret = Credentials.load(keyring.path("shop")).secret
    keyring.rotate("shop")
    assert Credentials.load(keyring.path("shop")).secret == secret, "what it stands for outlives its keys"
    path = keyring.path("operator")
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:-1], nkeys.new_seed()]) + "\n")  # as after a crash between two files
    assert keyring.init()
    assert Credentials.load(path).answer("")[0] in keyring.read().tenants["main"]["operator"].keys
    (tmp_path / "keys" / "keys.json").write_text('{"tenants": {"main": {"x": {"role": "agent", "keys": ["SUAB"]}}}}')
    with pytest.raises(ConfigError, match="no public key"):
        keyring.read()


def test_an_actor_that_cannot_be_loaded_for_the_moment_keeps_what_it_was_granted(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.ensure("clerk", "agent", Wish(does=("file",)))
    let_in(keyring, {"clerk": None}, isolated=False)
    user = keyring.read().tenants["main"]["clerk"]
    assert (user.does, user.isolated) == (["file"], True)


def test_an_agent_is_granted_what_its_class_declares(tmp_path: Path) -> None:
    class Clerk(Agent):
        submits = ("archive",)
        asks = ("revo-registry.find",)
        broadcasts = ("flush",)
        memory = ("files", "plans:ro")

        @task("file")
        async def file(self, message: dict[str, int]) -> int:
            return len(message)

    keyring = Keyring(tmp_path / "keys")
    keyring.ensure("clerk", "agent", wish_of(Clerk))
    granted = keyring.grants("clerk")
    assert "revo.task.archive.*.clerk" in granted.sends
    assert "revo.rpc.revo-registry.find.clerk" in granted.sends
    assert "revo.result.*.file.*" in granted.sends
    assert "revo.done.clerk.>" in granted.hears
    assert "revo.scoped.revo-memory.write.files.clerk" in granted.sends
    assert "revo.scoped.revo-memory.read.plans.clerk" in granted.sends
    assert "revo.scoped.revo-memory.write.plans.clerk" not in granted.sends
    assert "$JS.API.CONSUMER.MSG.NEXT.TASKS.file-normal" in granted.pulls
    assert not keyring.ensure("clerk", "agent", wish_of(Clerk)), "nothing has changed"
    file = tmp_path / "keys" / "keys.json"
    assert json.loads(file.read_text())["tenants"]["main"]["clerk"]["memory"] == ["files", "plans:ro"]
    keyring.ensure("clerk", "agent", replace(wish_of(Clerk), memory=()))
    assert "memory" not in file.read_text(), "an earlier version reads what says nothing of it"


@pytest.mark.parametrize("isolated", [True, False], ids=["own", "shared"])
async def test_keys_are_rotated_and_users_added_while_tasks_run_and_nothing_is_lost(
    tmp_path: Path, isolated: bool
) -> None:
    async with guarded(tmp_path, isolated=isolated) as here:
        server, keyring = here.server, here.keyring
        steward = actor("actors.steward:Steward", server.url, tmp_path / "s", **here.env("revo-steward"))
        worker = actor(ECHO, server.url, tmp_path / "e", name="echo", **here.env("echo"))
        async with steward, worker as echo, here.mesh("alice") as mesh:
            done: list[int] = []

            async def flow(first: int) -> None:
                for number in range(first, first + 60):
                    handle = await mesh.submit("echo", {"text": str(number)})
                    assert (await handle.result(timeout=20))["text"] == str(number)
                    done.append(number)

            async with asyncio.TaskGroup() as group:
                for lane in range(4):
                    group.create_task(flow(lane * 1000))
                for number, name in enumerate(("echo", "alice", "revo-steward"), start=1):
                    await eventually(partial(more_than, done, 10 * number))
                    keyring.rotate(name)
                    await server.reload()  # both keys are good: nobody is cut off
                keyring.ensure("carol", "submitter", Wish(submits=("echo",)), isolated=isolated)
                await server.reload()
                async with here.mesh("carol") as late:
                    handle = await late.submit("echo", {"text": "late"})
                    assert (await handle.result(timeout=20))["text"] == "late"
                for name in ("echo", "alice", "revo-steward"):
                    keyring.finish(name)
                await server.reload()  # who was there by the old key is cut off, and comes back by the new one
            assert len(done) == 240
            await eventually(lambda: mesh.connection.is_connected)
            assert echo.log.count("is ready") == 1, "it is the same process"


def more_than(done: list[int], count: int) -> bool:
    return len(done) > count


async def test_a_user_that_is_removed_is_cut_off_and_stays_out(tmp_path: Path) -> None:
    async with guarded(tmp_path, isolated=True) as here, await here.connection("bob") as bob:
        text = here.keyring.path("bob").read_text()
        here.keyring.remove("bob")
        assert not here.keyring.path("bob").exists()
        await here.server.reload()
        await eventually(lambda: not bob.is_connected)
        credentials.write_text(here.keyring.path("bob"), text)  # he had a copy
        with pytest.raises(AuthenticationError):
            await here.connection("bob")
        assert not bob.is_connected
        here.keyring.ensure("bob", "submitter", Wish(submits=("echo",)))
        await here.server.reload()
        await in_time(bob.connected(), 10)


async def test_what_a_user_may_no_longer_do_is_refused_after_the_reload(tmp_path: Path) -> None:
    async with guarded(tmp_path, isolated=True) as here:
        here.keyring.ensure("bob", "submitter", Wish(submits=("other",)))
        await here.server.reload()
        async with here.mesh("bob") as mesh:
            await mesh.submit("other", {})
            with pytest.raises(BusError, match=r"may not publish to revo\.task\.echo\.normal\.bob"):
                await mesh.submit("echo", {})


async def test_a_password_is_not_sent_in_the_clear_to_another_machine() -> None:
    url = "nats://me:secret@192.0.2.1:4222"
    with pytest.raises(ConfigError, match="in the clear") as refused:
        await Connection.open(url, settings=Settings(nats_url=url))
    assert "secret" not in str(refused.value)


async def test_tls_is_spoken_with_a_server_whose_certificate_somebody_vouches_for(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None, "this test makes a certificate with openssl"
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*make, *name, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    keyring = Keyring(tmp_path / "keys")
    keyring.init()
    async with Server(tmp_path / "nats", accounts=keyring.accounts, tls=(certificate, key)) as server:
        settings = Settings(
            nats_url=server.url, credentials=str(keyring.path("operator")), tls_ca=str(certificate), connect_timeout=2.0
        )
        async with Mesh.connect(settings=settings) as mesh:
            handle = await mesh.submit("echo", {"n": 1})
            assert handle.sequence == 1
            os.kill(server.pid, signal.SIGKILL)
            await server.start()
            assert (await mesh.submit("echo", {"n": 2})).sequence == 2
    async with Server(tmp_path / "plain", accounts=keyring.accounts) as stripped:
        # Whoever stands between us and the server can make it seem to speak no TLS.
        url = stripped.url.replace("nats://", "tls://")
        with pytest.raises(ServerUnreachableError, match="does not speak tls"):
            await Connection.open(url, settings=settings.model_copy(update={"nats_url": url}))
    async with Server(tmp_path / "nats", accounts=keyring.accounts, tls=(certificate, key)) as server:
        unknown = settings.model_copy(update={"tls_ca": ""})
        with pytest.raises(ServerUnreachableError, match=r"(?i)certificate"):
            await Connection.open(server.url, settings=unknown)
    with pytest.raises(ConfigError, match="REVO_TLS_CA"):
        await Connection.open(server.url, settings=Settings(tls_ca=str(tmp_path / "none.pem")))


async def test_streams_are_encrypted_on_the_disk_where_that_is_asked_for(tmp_path: Path) -> None:
    found = {}
    for encrypted in (True, False):
        home = tmp_path / str(encrypted)
        async with Server(home, encrypted=encrypted) as server, Mesh.connect(server.url) as mesh:
            handle = await mesh.submit("echo", {"text": "do not read me"})
            server.kill()
            await server.wait()
            blocks = [path.read_bytes() for path in home.rglob("*.blk")]
            found[encrypted] = any(b"do not read me" in block for block in blocks)
            await server.start()
            stored = await jetstream.at(mesh.connection, subjects.TASKS, handle.sequence)
            assert stored is not None
            assert b"do not read me" in stored.body
    assert found == {True: False, False: True}


async def test_a_client_that_floods_the_queue_is_told_so_and_the_others_are_not(server: Server) -> None:
    settings = Settings(nats_url=server.url, client_queue=5)
    async with (
        Mesh.connect(settings=settings, client="flood") as flood,
        Mesh.connect(settings=settings, client="calm") as calm,
    ):
        await topology.ensure_capability(flood.connection, "echo", QUICK, "echo")
        for _ in range(5):
            await flood.submit("echo", {})
        with pytest.raises(QueueFullError):
            await flood.submit("echo", {})
        await calm.submit("echo", {})


def test_keys_are_written_as_nats_writes_them() -> None:
    # The example pair of the nkeys project's own tests.
    seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
    assert nkeys.public_key(seed) == "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
    made = nkeys.new_seed()
    assert nkeys.is_public_key(nkeys.public_key(made))
    assert not nkeys.is_public_key(made)
    with pytest.raises(ValueError, match="checksum"):
        nkeys.public_key(made[:20] + ("A" if made[20] != "A" else "B") + made[21:])


async def test_no_seed_is_in_what_processes_say_or_are_called_with(tmp_path: Path) -> None:
    async with guarded(tmp_path, isolated=True) as here:
        log = tmp_path / "s"
        env = here.env("revo-steward") | {"REVO_LOG": "debug"}
        async with actor("actors.steward:Steward", here.server.url, log, **env) as steward:
            said = subprocess.run(
                ["ps", "-o", "args=", "-p", str(steward.pid)], capture_output=True, text=True, check=True
            )
            texts = [steward.log, said.stdout, (tmp_path / "nats" / "nats.log").read_text()]
        texts.append((tmp_path / "nats" / "nats.conf").read_text())
        texts.append(json.dumps(here.keyring.read().model_dump()))
        for seed in seeds_below(tmp_path):
            assert not any(seed in text for text in texts)
