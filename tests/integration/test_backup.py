"""A backup loses nothing that was accepted before it began, and nothing that is no backup is put back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus import backup, codec, jetstream, restore, snapshots, subjects, topology
from bus.audit import audit
from bus.backup import Backup
from bus.connection import Connection
from bus.endings import read_result
from bus.errors import ConfigError, ConnectionLostError, NotFoundError, PermissionDeniedError, ServerError
from bus.mesh import Handle, Mesh, Schedule
from bus.reading import stored_since
from bus.restore import AtWorkError, Restored, StreamsStandError
from bus.server import Server
from bus.snapshots import OnBytes, Snapshot
from tests.conftest import QUICK, Gate, StartWorker, nothing_queued
from tests.eventually import eventually
from tests.guarded import guarded
from tests.processes import actor

ALL = [
    *("TASKS", "RESULTS", "DEAD", "KV_ATTEMPTS", "AUDIT", "LATER", "CHECKPOINTS", "BLOBS", "BUDGETS"),
    *("KV_MEMORY", "KV_REGISTRY", "EVENTS", "ADVISORIES", "TRACES"),
]


def silent(_stream: str, _more: int) -> None:
    """Nobody looks on."""


async def echo(message: Any) -> Any:
    if message.get("fail"):
        raise ValueError("as told")
    return message


async def put_back(connection: Connection, folder: Path, *, replace: bool = False) -> list[Restored]:
    loaded = await backup.load(folder, silent)
    return await restore.restore(connection, folder, loaded, replace=replace, on_bytes=silent)


async def results(connection: Connection) -> dict[str, list[Any]]:
    """The values of all results, by task."""
    found: dict[str, list[Any]] = {}
    async for message in stored_since(connection, subjects.RESULTS, 0.0):
        result = read_result(message.headers, message.data, message.subject)
        found.setdefault(result.task_id, []).append(result.value)
    return found


def after_the_first(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """Let something happen between the first stream that a backup takes, whichever that is, and the others."""
    taken: list[str] = []

    async def take(connection: Connection, stream: str, path: Path, on_bytes: OnBytes) -> Snapshot:
        got = await snapshots.snapshot(connection, stream, path, on_bytes)
        taken.append(stream)
        if len(taken) == 1:
            await happens()
        return got

    monkeypatch.setattr(backup, "snapshot", take)


class Flood:
    """Submits one task after the other until it is told to stop."""

    def __init__(self, mesh: Mesh) -> None:
        self.accepted: list[Handle] = []
        self._mesh = mesh
        self._stop = False
        self._some = asyncio.Event()

    async def run(self) -> None:
        while not self._stop:
            self.accepted.append(await self._mesh.submit("echo", {"n": len(self.accepted)}))
            if len(self.accepted) == 50:
                self._some.set()

    async def at_work(self) -> None:
        await self._some.wait()

    def stop(self) -> None:
        self._stop = True


async def test_what_was_accepted_before_a_backup_ends_once_after_its_restore_on_an_empty_server(
    mesh: Mesh, start_worker: StartWorker, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Gate()
    await start_worker(echo, concurrency=8)
    await start_worker(gate, capability="slow")
    await start_worker(endless, capability="endless")
    await topology.ensure_capability(mesh.connection, "later", QUICK, "tester")
    bad = await mesh.submit("echo", {"fail": True})
    assert (await bad.outcome(timeout=5)).status == "failed"
    slow, stuck = await mesh.submit("slow", {"is": "slow"}), await mesh.submit("endless", {"is": "stuck"})
    await gate.begun.get()
    await endless.begun.get()
    queued = [await mesh.submit("later", {"n": n}) for n in range(10)]
    late: list[Handle] = []

    async def between() -> None:
        gate.open.set()
        await slow.outcome(timeout=5)
        late.extend([await mesh.submit("echo", {"late": n}) for n in range(20)])
        for handle in late:
            await handle.outcome(timeout=5)

    after_the_first(monkeypatch, between)
    flood = Flood(mesh)
    async with asyncio.TaskGroup() as group:
        group.create_task(flood.run())
        await flood.at_work()
        accepted = [bad, slow, stuck, *queued, *flood.accepted]
        made = await backup.create(mesh.connection, tmp_path / "copy", silent)
        flood.stop()
    letter = await jetstream.last(mesh.connection, subjects.DEAD, subjects.dead_of(bad.task_id))
    assert letter is not None
    before = {task: values for task, values in (await results(mesh.connection)).items() if task != slow.task_id}

    async with Server(tmp_path / "other") as other, await Connection.open(other.url) as there:
        stood = await put_back(there, tmp_path / "copy")
        assert sorted(one.stream for one in stood) == sorted(ALL) == sorted(kept.stream for kept in made.streams)
        assert await topology.differences(there) == []
        assert await topology.standing_policy(there, "later") == (QUICK, "tester")
        assert await jetstream.last(there, subjects.DEAD, subjects.dead_of(bad.task_id)) == letter
        for handler, capability in ((echo, "echo"), (echo, "slow"), (echo, "endless"), (echo, "later")):
            await start_worker(handler, capability=capability, concurrency=8, overrides={"nats_url": other.url})
        async with Mesh.connect(other.url) as again:
            missing = late[-1].sequence - int(made.streams[0].state["last_seq"])
            for anew in [await again.submit("echo", {"new": n}) for n in range(missing)]:
                await anew.outcome(timeout=10)
            assert anew.sequence == late[-1].sequence, "the sequences of those that came too late are given anew"
            await eventually(lambda: nothing_queued(again))
        ended = await results(there)
        assert Counter(len(ended.get(handle.task_id, [])) for handle in accepted) == {1: len(accepted)}
        assert ended[slow.task_id] == [{"is": "slow"}]
        assert ended[stuck.task_id] == [{"is": "stuck"}]
        assert all(ended[task] == values for task, values in before.items() if task in ended)
        report = await audit(there)
        assert report.good, report
        assert report.ended == report.accepted == late[-1].sequence


async def test_what_fell_due_between_a_backup_and_its_restore_is_done_once_after_it(
    mesh: Mesh, server: Server, start_worker: StartWorker, tmp_path: Path
) -> None:
    steward, echoed = "actors.steward:Steward", {"n": 1}
    await topology.ensure_capability(mesh.connection, "later", QUICK, "tester")
    async with actor(steward, server.url, tmp_path / "here.log"):
        await start_worker(echo, capability="later")
        tick = await mesh.submit("later", {"tick": 1}, every=1, schedule_id="tick")
        known = await eventually(tick.last)
        once = await mesh.submit("later", echoed, after=2, deadline=600)
        await backup.create(mesh.connection, tmp_path / "copy", silent)
        await tick.cancel()
        assert await once.result(timeout=20) == echoed
    async with Server(tmp_path / "other") as other, await Connection.open(other.url) as there:
        await put_back(there, tmp_path / "copy")
        await start_worker(echo, capability="later", overrides={"nats_url": other.url})
        async with actor(steward, other.url, tmp_path / "there.log"), Mesh.connect(other.url) as again:
            assert await again.handle("later", once.task_id).result(timeout=20) == echoed
            goes_on = again.schedule("tick")
            await eventually(lambda: after(goes_on, known.task_id))
            await goes_on.cancel()
            await eventually(lambda: nothing_queued(again))
        ended = await results(there)
        assert len(ended[once.task_id]) == 1
        assert (await audit(there)).good


async def after(schedule: Schedule, task_id: str) -> bool:
    """Whether it has made another task than that."""
    last = await schedule.last()
    return last is not None and last.task_id != task_id


async def test_an_audit_after_a_restore_misses_no_result_whose_time_was_up_and_sees_what_is_lost_since(
    mesh: Mesh, start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker(echo)
    for n in range(3):
        done = await mesh.submit("echo", {"n": n})
        await done.outcome(timeout=5)
        stored = await jetstream.last(mesh.connection, subjects.RESULTS, subjects.result_of(done.task_id))
        assert stored is not None
        await jetstream.delete(mesh.connection, subjects.RESULTS, stored.sequence)  # as if its time were up
    await eventually(lambda: nothing_queued(mesh))

    async def anchored() -> None:
        """A steward notes more tasks than the copy of the queue has."""
        at = await topology.server_time(mesh.connection)
        await jetstream.store(
            mesh.connection,
            subjects.note("anchor"),
            codec.encode({"at": at, "last": 100}),
            {"Content-Type": "application/msgpack"},
        )

    after_the_first(monkeypatch, anchored)
    await backup.create(mesh.connection, tmp_path / "copy", silent)
    loaded = await backup.load(tmp_path / "copy", silent)
    old = [kept.model_copy(update={"created": time.time() - 86400}) for kept in loaded.streams]
    async with Server(tmp_path / "other") as other, await Connection.open(other.url) as there:
        aged = Backup(at=loaded.at, streams=old)
        await restore.restore(there, tmp_path / "copy", aged, replace=False, on_bytes=silent)
        report = await audit(there)
        assert (report.accepted, report.lost, report.good) == (0, 0, True)
        lost = await jetstream.store(there, subjects.task("nobody", "normal"), b"{}")
        await jetstream.delete(there, subjects.TASKS, lost.sequence)
        report = await audit(there)
        assert (report.accepted, report.lost, report.names["lost"]) == (1, 1, ["4"])


async def test_a_backup_is_for_its_owner_alone_in_a_folder_of_its_own(mesh: Mesh, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "copy"
    seen: Counter[str] = Counter()
    made = await backup.create(mesh.connection, folder, lambda stream, more: seen.update({stream: more}))
    assert [kept.stream for kept in made.streams] == ALL
    assert seen == {kept.stream: kept.size for kept in made.streams}
    names = {f"{stream}.{suffix}" for stream in ALL for suffix in ("json", "tar.s2")}
    assert {path.name for path in folder.iterdir()} == {"backup.json", *names}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    told = json.loads((folder / "TASKS.json").read_text())
    data = (folder / "TASKS.tar.s2").read_bytes()
    assert (told["size"], told["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert await backup.load(folder, silent) == made
    with pytest.raises(ConfigError, match="is not empty"):
        await backup.create(mesh.connection, folder, silent)


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (lambda folder: (folder / "backup.json").unlink(), "is no backup, or one that did not come to its"),
    "truncated": (lambda folder: _truncate(folder / "RESULTS.tar.s2"), "RESULTS.tar.s2: is not what was written"),
    "edited": (lambda folder: _edit(folder / "TASKS.json", "workqueue", "limits"), "TASKS.json: is not what was"),
    "exchanged": (
        lambda folder: shutil.copy(folder / "DEAD.tar.s2", folder / "TASKS.tar.s2"),
        "TASKS.tar.s2: is not what was written",
    ),
    "without a file": (lambda folder: (folder / "DEAD.tar.s2").unlink(), "DEAD.tar.s2: no such file"),
    "newer": (lambda folder: _edit(folder / "backup.json", '"format": 1', '"format": 2'), "a newer revo wrote it"),
    "no json": (lambda folder: (folder / "backup.json").write_text("{"), "backup.json: cannot be read: it is damaged"),
    "elsewhere": (lambda folder: _edit(folder / "backup.json", '"TASKS",', '"../TASKS",'), "is not what `revo backup"),
}


async def test_what_is_no_backup_or_was_damaged_is_refused_and_says_which_file(mesh: Mesh, tmp_path: Path) -> None:
    await mesh.submit("nobody", {"n": 1})
    await backup.create(mesh.connection, tmp_path / "good", silent)
    for name, (spoil, says) in SPOILT.items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        spoil(folder)
        with pytest.raises(ConfigError) as refused:
            await backup.load(folder, silent)
        assert says in str(refused.value), name
    with pytest.raises(ConfigError, match="is no backup"):
        await backup.load(tmp_path / "nowhere", silent)


async def test_streams_that_stand_are_replaced_only_on_request_and_not_under_those_who_work(
    mesh: Mesh, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(echo)
    await (await mesh.submit("echo", {"n": 1})).outcome(timeout=5)
    await eventually(lambda: nothing_queued(mesh))
    await backup.create(mesh.connection, tmp_path / "copy", silent)
    later = await mesh.submit("nobody", {"n": 2})
    await jetstream.call(mesh.connection, "STREAM.DELETE", subjects.TRACES)

    with pytest.raises(StreamsStandError) as refused:
        await put_back(mesh.connection, tmp_path / "copy")
    assert refused.value.streams == tuple(ALL[:-1])
    assert "--replace" in str(refused.value)
    with pytest.raises(AtWorkError) as busy:
        await put_back(mesh.connection, tmp_path / "copy", replace=True)
    assert set(busy.value.consumers) == {subjects.consumer("echo", priority) for priority in subjects.PRIORITIES}
    assert await jetstream.at(mesh.connection, subjects.TASKS, later.sequence) is not None, "nothing was changed"
    assert await topology.differences(mesh.connection) == ["stream TRACES does not exist"]

    await worker.drain(1.0)
    await put_back(mesh.connection, tmp_path / "copy", replace=True)
    assert await jetstream.at(mesh.connection, subjects.TASKS, later.sequence) is None
    assert await topology.differences(mesh.connection) == []
    assert (await audit(mesh.connection)).good


async def fill(mesh: Mesh) -> None:
    """More than a server sends before it is told that something of it has arrived, and nothing to be packed."""
    tasks = [{"text": secrets.token_hex(250_000)} for _ in range(40)]
    assert all(isinstance(one, Handle) for one in await mesh.submit_many("nobody", tasks))


async def test_a_stream_that_a_server_takes_only_in_part_does_not_stand(mesh: Mesh, tmp_path: Path) -> None:
    await fill(mesh)
    whole, half = tmp_path / "whole", tmp_path / "half"
    taken = await snapshots.snapshot(mesh.connection, subjects.TASKS, whole, lambda _: None)
    half.write_bytes(whole.read_bytes()[: taken.size // 2])
    await jetstream.call(mesh.connection, "STREAM.DELETE", subjects.TASKS)
    with pytest.raises(ServerError, match="restore of TASKS: restore failed"):
        await snapshots.restore(mesh.connection, half, taken, lambda _: None)
    with pytest.raises(NotFoundError):
        await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)

    sent = asyncio.Event()
    restoring = asyncio.create_task(snapshots.restore(mesh.connection, whole, taken, lambda _: sent.set()))
    await sent.wait()
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    with pytest.raises(NotFoundError):
        await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    told = await snapshots.restore(mesh.connection, whole, taken, lambda _: None)
    assert told["state"]["messages"] == 40


async def test_a_snapshot_whose_connection_breaks_fails_at_once_and_leaves_no_file(
    mesh: Mesh, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(mesh)
    folder, seen = tmp_path / "copy", Counter[str]()

    async def unheard(subject: str) -> None:
        """The server hears of nothing that has arrived, so it sends no more than it does at once."""

    def look(stream: str, _more: int) -> None:
        seen.update([stream])
        if seen.total() == 64:
            server.kill()

    monkeypatch.setattr(mesh.connection, "publish", unheard)
    async with asyncio.timeout(snapshots.QUIET / 3):
        with pytest.raises(ConnectionLostError):
            await backup.create(mesh.connection, folder, look)
    assert list(folder.iterdir()) == []


async def test_a_snapshot_that_the_server_breaks_off_is_none(server: Server, tmp_path: Path) -> None:
    async with Mesh.connect(server.url) as mesh:
        await fill(mesh)
    await server.stop()
    await server.start()
    max((tmp_path / "nats").rglob("streams/TASKS/msgs/*.blk")).unlink()
    async with await Connection.open(server.url) as connection:
        with pytest.raises(ServerError, match=r"TASKS: (snapshot failed|the server broke it off: 500)"):
            await snapshots.snapshot(connection, subjects.TASKS, tmp_path / "copy", lambda _: None)
    assert not (tmp_path / "copy").exists()


async def test_an_operator_takes_and_restores_backups_and_an_observer_does_not(tmp_path: Path) -> None:
    async with guarded(tmp_path, isolated=True) as here:
        async with await here.connection("operator") as operator:
            await jetstream.store(operator, "revo.task.echo.normal.alice", b"{}")
            await backup.create(operator, tmp_path / "copy", silent)
            stood = await put_back(operator, tmp_path / "copy", replace=True)
            assert {one.stream: (one.messages, one.consumers) for one in stood}["TASKS"] == (1, 20)
        async with await here.connection("eye") as observer:
            with pytest.raises(PermissionDeniedError):
                await backup.create(observer, tmp_path / "more", silent)
            with pytest.raises(PermissionDeniedError):
                await put_back(observer, tmp_path / "copy", replace=True)
