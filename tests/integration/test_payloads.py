"""Large payloads travel beside their messages, both ways, and are gone when nothing needs them; over a real server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from actors.steward.storage import Storage
from bus import blobs, codec, endings, inspection, jetstream, moving, reading, subjects
from bus.backlog import Backlog
from bus.blobs import Place
from bus.connection import Connection
from bus.early import Ender
from bus.errors import DamagedBlobError, PayloadTooLargeError, QueueFullError, RequestTimeoutError, TaskFailedError
from bus.family import FAMILY, Family
from bus.mesh import Mesh
from bus.messages import BLOB, CONTENT_TYPE, MSG_TTL, MSGPACK, TASK_ID, Blob, Envelope
from bus.outcomes import Policy
from bus.server import Server
from bus.settings import MIB, Settings
from bus.tasks import envelope_of
from tests.conftest import Gate, StartWorker, nothing_queued
from tests.eventually import eventually, in_time
from tests.guarded import at_work, before
from tests.processes import ActorProcess, actor

STEWARD = "actors.steward:Steward"
PORTER = "tests.integration.agents:Porter"
LARGE = random.Random(4).randbytes(20 * MIB)  # noqa: S311  (any bytes that do not repeat)
SOME = LARGE[: 2 * MIB]
ONCE = Policy(ack_wait=1.0, max_attempts=1, time_limit=10.0, backoff=0.05, backoff_max=0.1, max_deaths=3)


@pytest.fixture
async def steward(server: Server, mesh: Mesh, tmp_path: Path) -> AsyncIterator[ActorProcess]:
    async with actor(STEWARD, server.url, tmp_path / "steward.log") as process:
        yield process


async def standing(mesh: Mesh) -> set[tuple[str, str]]:
    """The blobs that stand in BLOBS: the id of its task, and its own."""
    found = await reading.subjects_in(mesh.connection, subjects.BLOBS, subjects.BLOB_SUBJECTS)
    return {subjects.parse_blob(subject)[2:] for subject in found}


async def none_stands(mesh: Mesh) -> bool:
    return not await standing(mesh)


async def raw_result(mesh: Mesh, task_id: str) -> jetstream.StoredMessage:
    found = await jetstream.last(mesh.connection, subjects.RESULTS, subjects.result_of(task_id))
    assert found is not None
    return found


async def test_a_large_payload_travels_both_ways_and_is_gone_with_what_it_is_of(
    mesh: Mesh, steward: ActorProcess, server: Server, tmp_path: Path
) -> None:
    async with actor(PORTER, server.url, tmp_path / "porter.log"):
        handle = await mesh.submit("carry", {"data": LARGE})
        assert await handle.result(timeout=30) == LARGE
        message = await raw_result(mesh, handle.task_id)
        assert len(message.body) < 2000
        (kept,) = await eventually(lambda: only(mesh, 1))
        assert kept == (handle.task_id, blobs.id_in(message.headers)), "of both the result's stays"
        piece = await jetstream.last(mesh.connection, subjects.BLOBS, Place("anon", "carry", kept[0]).piece(kept[1], 0))
        assert piece is not None
        assert seconds(piece) > seconds(message) > 3000, "and goes when that is gone"
        some = await mesh.submit_many("carry", [{"data": SOME}, {"data": b"small"}, {"data": SOME, "size": 3}])
        assert [await one.result(timeout=30) for one in some if not isinstance(one, Exception)] == [
            SOME,
            b"small",
            bytes(3),
        ]
        assert await eventually(lambda: only(mesh, 2))
    view = await inspection.find_task(mesh.connection, handle.task_id)
    assert view.ended is not None
    assert (view.ended.value, view.ended.blob) == (LARGE, None)
    again = mesh.handle("carry", handle.task_id)
    first, second = await asyncio.gather(again.outcome(timeout=10), again.outcome(timeout=10))
    assert first.value is second.value, "it is read once for all who wait"


def seconds(stored: jetstream.StoredMessage) -> int:
    """For which it is kept."""
    return int(stored.headers[MSG_TTL].removesuffix("s"))


async def only(mesh: Mesh, count: int) -> set[tuple[str, str]]:
    """Which stand, once they are so few."""
    found = await standing(mesh)
    return found if len(found) == count else set()


async def test_whoever_is_killed_with_a_large_payload_in_hand_it_comes_through(
    mesh: Mesh, steward: ActorProcess, server: Server, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    async with (
        actor(PORTER, server.url, tmp_path / "one.log") as one,
        actor(PORTER, server.url, tmp_path / "two.log") as two,
    ):
        handle = await mesh.submit("carry", {"data": LARGE, "seconds": 1.0, "journal": str(journal)})
        begun = await eventually(lambda: journal.exists() and journal.read_text().split())
        pids = {one.pid: one, two.pid: two}
        pids[int(begun[2])].signal(signal.SIGKILL)
        server.kill()
        await server.wait()
        await server.start()
        assert await handle.result(timeout=30) == LARGE
        runs = [line.split()[2] for line in journal.read_text().splitlines()]
        assert len(set(runs)) == 2, runs
    assert await eventually(lambda: only(mesh, 1))


@pytest.mark.parametrize("way", ["put", "read", "put back", "read back"])
async def test_a_server_that_is_killed_in_the_middle_of_a_payload_loses_nothing_of_it(
    way: str, mesh: Mesh, server: Server, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = asyncio.Event()
    step, back = "_read" if way.startswith("read") else "_store", way.endswith("back")
    one_piece = getattr(blobs, step)

    def killing(connection: Connection, subject: str, *more: Any) -> Any:
        if subject.endswith(".20") and not there.is_set():
            there.set()
            server.kill()
        return one_piece(connection, subject, *more)

    async def echo(message: Any) -> Any:
        return {"data": LARGE} if back else len(message["data"])

    monkeypatch.setattr(blobs, step, killing)
    await start_worker(echo)
    doing = asyncio.create_task(carried(mesh, {"data": b"" if back else LARGE}))
    await in_time(there.wait(), 30)
    await server.wait()
    await server.start()
    assert await in_time(doing, 60) == ({"data": LARGE} if back else len(LARGE))


async def carried(mesh: Mesh, message: dict[str, Any]) -> Any:
    return await (await mesh.submit("echo", message)).result(timeout=60)


async def test_a_dead_letter_keeps_its_large_message_until_it_is_dropped_and_a_redrive_has_its_own(
    mesh: Mesh, steward: ActorProcess, server: Server, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    message = {"data": SOME, "size": 1, "broken": str(broken)}
    async with actor(PORTER, server.url, tmp_path / "porter.log"):
        handle = await mesh.submit("carry", message)
        with pytest.raises(TaskFailedError, match="as told"):
            await handle.result(timeout=30)
        await eventually(lambda: nothing_queued(mesh))
        letter = await inspection.letter(mesh.connection, handle.task_id)
        assert codec.decode(letter.body, MSGPACK) == message
        broken.unlink()
        first, again = await mesh.redrive(handle.task_id), await mesh.redrive(handle.task_id)
        assert (first.task_id, again.duplicate) == (again.task_id, True)
        assert await mesh.handle("carry", first.task_id).result(timeout=30) == bytes(1)
        (left,) = await eventually(lambda: only(mesh, 1))
        assert left == (handle.task_id, blobs.id_in(letter.headers))
        assert (await mesh.redrive(handle.task_id)).duplicate
        assert await standing(mesh) == {left}, "a redrive too many leaves nothing"
    await mesh.drop_dead(handle.task_id)
    assert await none_stands(mesh)


async def test_a_queued_task_that_expires_or_is_cancelled_takes_its_large_message_with_it(
    mesh: Mesh, steward: ActorProcess
) -> None:
    late = await mesh.submit("nobody", {"data": SOME}, deadline=0.5)
    unwanted = await mesh.submit("nobody", {"data": SOME})
    assert len(await standing(mesh)) == 2
    assert (await unwanted.cancel()).cancelled
    assert (await late.outcome(timeout=10)).status == "expired"
    assert await eventually(lambda: none_stands(mesh))


async def test_a_cancelled_task_stops_also_when_its_large_message_cannot_be_removed_now(
    mesh: Mesh, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def waits(_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def refused(*_: Any) -> int:
        raise RequestTimeoutError("STREAM.PURGE", 5.0)

    await start_worker(waits)
    handle = await mesh.submit("echo", {"data": SOME})
    await in_time(begun.wait(), 10)
    monkeypatch.setattr(blobs, "remove", refused)
    ender = Ender(mesh.connection, "tester", "tester-1")
    with pytest.raises(RequestTimeoutError):
        await ender.cancel(Backlog(mesh.connection), handle.task_id, by="somebody")
    await in_time(stopped.wait(), 5)
    assert (await handle.outcome(timeout=5)).status == "cancelled"


async def test_the_second_message_of_one_task_goes_at_once_and_the_first_stays(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, gate: Gate
) -> None:
    first = await mesh.submit("echo", {"data": SOME}, task_id="one")
    kept = await standing(mesh)
    assert (await mesh.submit("echo", {"data": SOME}, task_id="one")).duplicate
    assert await eventually(lambda: only(mesh, 1)) == kept
    gate.open.set()
    await start_worker(gate)
    assert await first.result(timeout=10) == {"data": SOME}


async def test_a_value_whose_result_comes_too_late_is_removed(
    mesh: Mesh, steward: ActorProcess, start_worker: StartWorker, connection: Connection
) -> None:
    async def overtaken(task: Envelope) -> bytes:
        other = endings.make_result(task, "cancelled", None, agent="other", instance="other-1")
        await endings.store_result(connection, task, other)
        return SOME

    await start_worker(overtaken, raw=True)
    assert (await (await mesh.submit("echo", {"data": SOME})).outcome(timeout=10)).status == "cancelled"
    assert await eventually(lambda: none_stands(mesh))


async def test_users_with_an_account_of_their_own_send_and_get_large_payloads(tmp_path: Path) -> None:
    async with (
        at_work(tmp_path, "porter", "carry") as here,
        actor(STEWARD, here.server.url, tmp_path / "steward.log", **here.env(subjects.STEWARD)),
        actor(PORTER, here.server.url, tmp_path / "porter.log", **here.env("porter")) as porter,
        here.mesh("alice") as mesh,
        here.mesh("operator") as operator,
    ):
        handle = await mesh.submit("carry", {"data": SOME})
        assert await handle.result(timeout=30) == SOME
        assert await eventually(lambda: only(operator, 1)), "the message has been released by an agent"
        first = await mesh.submit("carry", {"data": SOME, "size": 5, "seconds": 1.0}, task_id="named")
        again = await mesh.submit("carry", {"data": SOME, "size": 5, "seconds": 1.0}, task_id="named")
        assert again.duplicate
        assert await first.result(timeout=30) == bytes(5)
        assert await eventually(lambda: only(operator, 1)), "what was sent twice has been released by its client"
        assert "denied" not in porter.log + (tmp_path / "steward.log").read_text()


async def test_an_agent_with_credentials_of_before_payloads_fails_a_task_with_one_and_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, ".BLOBS.", "revo.blob.")
    async with (
        at_work(tmp_path, "porter", "carry") as here,
        actor(STEWARD, here.server.url, tmp_path / "steward.log", **here.env(subjects.STEWARD)),
        actor(PORTER, here.server.url, tmp_path / "porter.log", **here.env("porter")),
        here.mesh("alice") as mesh,
    ):
        for message in ({"data": SOME}, {"size": 2 * MIB}):
            outcome = await (await mesh.submit("carry", message)).outcome(timeout=20)
            assert outcome.error is not None
            assert (outcome.status, outcome.error.code, outcome.attempts) == ("failed", "permission_denied", 1)
        fits = await mesh.submit("carry", {"size": 600 * 1024})
        assert await fits.result(timeout=20) == bytes(600 * 1024), "it goes with the result, as it did before"


DIGEST = hashlib.sha256(SOME).hexdigest()
REFERENCE = Blob(id="b1", size=len(SOME), sha256="0" * 64, pieces=4)


HOSTILE = {
    "digest": (blobs.header(REFERENCE), "damaged_blob"),
    "pieces": (blobs.header(REFERENCE.model_copy(update={"pieces": 5})), "damaged_blob"),
    "size": (blobs.header(REFERENCE.model_copy(update={"size": 10})), "damaged_blob"),
    "too-much": (blobs.header(REFERENCE.model_copy(update={"size": 10**12, "pieces": 10**9})), "payload_too_large"),
    "of-another": (blobs.header(REFERENCE.model_copy(update={"id": "other", "sha256": DIGEST})), "damaged_blob"),
    "elsewhere": ('{"id":"x.b1.0","size":1,"sha256":"' + "0" * 64 + '","pieces":1}', "decode"),
    "nonsense": ("x", "decode"),
}


async def test_a_reference_that_is_not_to_the_tasks_own_payload_fails_the_task_with_a_word(
    mesh: Mesh, start_worker: StartWorker, gate: Gate
) -> None:
    await blobs.put(mesh.connection, Place("victim", "echo", "digest"), SOME, blob_id="other")
    await start_worker(gate)
    subject = subjects.task("echo", "normal", "anon")
    for task_id, (said, code) in HOSTILE.items():
        await blobs.put(mesh.connection, Place("anon", "echo", task_id), SOME, blob_id="b1")
        headers = {TASK_ID: task_id, CONTENT_TYPE: MSGPACK, BLOB: said}
        await jetstream.store(mesh.connection, subject, b"", headers)
        outcome = await mesh.handle("echo", task_id).outcome(timeout=10)
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code, outcome.attempts) == ("failed", code, 1), task_id
    assert gate.runs == []


async def test_what_is_beyond_the_maximum_is_refused_before_anything_is_sent(
    settings: Settings, connection: Connection
) -> None:
    own = settings.model_copy(update={"blob_max": MIB})
    async with Mesh.connect(settings=own) as mesh:
        with pytest.raises(PayloadTooLargeError, match=rf"{MIB + 8}.*{MIB}.*REVO_BLOB_MAX"):
            await mesh.submit("echo", {"data": bytes(MIB - 3)})
        refused, taken = await mesh.submit_many("echo", [{"data": bytes(MIB)}, {"data": b""}])
        assert isinstance(refused, PayloadTooLargeError)
        assert not isinstance(taken, Exception)
        assert await none_stands(mesh)


async def test_a_full_store_of_payloads_refuses_submitters_and_keeps_results_in_hand(
    server: Server, tmp_path: Path, start_worker: StartWorker, mesh: Mesh
) -> None:
    body = {"subjects_filter": ">"}
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.BLOBS, body=body)
    await jetstream.call(
        mesh.connection, "STREAM.UPDATE", subjects.BLOBS, body={**info["config"], "max_bytes": 3 * MIB}
    )
    filler = Place("anon", "other", "x1")
    await blobs.put(mesh.connection, filler, SOME, blob_id="filler")
    runs = 0

    async def returns(_: Any) -> bytes:
        nonlocal runs
        runs += 1
        return SOME

    worker = await start_worker(returns)
    handle = await mesh.submit("echo", {})
    await eventually(lambda: worker.unstored == 1)
    async with actor(STEWARD, server.url, tmp_path / "steward.log"):
        with pytest.raises(QueueFullError):
            await mesh.submit("echo", {"data": SOME})
        assert [type(one) for one in await mesh.submit_many("echo", [{"data": SOME}])] == [QueueFullError]
        await blobs.remove(mesh.connection, filler, "filler")
        assert await handle.result(timeout=30) == SOME
        assert runs == 1
        assert await eventually(lambda: only(mesh, 1)), "of what was refused nothing is left"


async def test_a_sweep_removes_what_nothing_names_and_nothing_else(mesh: Mesh, start_worker: StartWorker) -> None:
    async def echo(message: dict[str, Any]) -> Any:
        if "fail" in message:
            raise ValueError(message["fail"])
        return message

    await start_worker(echo, policy=ONCE)
    queued = await mesh.submit("nobody", {"data": SOME})
    failed = await mesh.submit("echo", {"data": SOME, "fail": "x"})
    ended = await mesh.submit("echo", {"data": SOME})
    await failed.outcome(timeout=10)
    await ended.result(timeout=10)
    await eventually(lambda: standing_in_queue(mesh, 1))
    value = blobs.id_in((await raw_result(mesh, ended.task_id)).headers)
    (useless,) = [one for one in await standing(mesh) if one[0] == ended.task_id and one[1] != value]
    needed = await standing(mesh) - {useless}
    assert len(needed) == 3, "no steward heard that one is not needed any more, the other three are"
    for number in range(5):
        await blobs.put(mesh.connection, Place("anon", "echo", f"gone-{number}"), SOME[:1000], blob_id="b1")
    await blobs.put(mesh.connection, Place("anon", "nobody", queued.task_id), SOME, blob_id="b2")
    storage = Storage(mesh.connection, Backlog(mesh.connection))
    for task_id, blob_id in needed:
        place = Place("anon", "nobody" if task_id == queued.task_id else "echo", task_id)
        assert not await storage.release(place, blob_id), "whoever says that it may go"
    assert await storage.sweep() == 0, "they may be about to be named"
    assert [await storage.sweep(older_than=0, most=4) for _ in range(4)] == [1, 4, 2, 0]
    assert await standing(mesh) == needed
    ender = Ender(mesh.connection, "tester", "tester-1")
    await ender.drop(failed.task_id)
    await ender.cancel(Backlog(mesh.connection), queued.task_id, by="somebody")
    assert await standing(mesh) == {(ended.task_id, value)}


async def test_a_sweep_leaves_what_is_of_a_task_that_is_moved_to_a_lane_meanwhile(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, handle = mesh.connection, await mesh.submit("nobody", {"data": SOME})
    backlog = Backlog(connection)
    refresh = backlog.refresh

    async def just_before_it_is_moved() -> None:
        await refresh()
        stored = await jetstream.at(connection, subjects.TASKS, handle.sequence)
        if stored is not None:
            task = envelope_of(stored, connection.settings.deadline)
            lane = subjects.TaskAddress(task.capability, task.priority, task.client).subject(lane=True)
            await jetstream.store(connection, lane, task.body, moving.copy_headers(task))
            await jetstream.delete(connection, subjects.TASKS, handle.sequence)

    monkeypatch.setattr(backlog, "refresh", just_before_it_is_moved)
    assert await Storage(connection, backlog).sweep(older_than=-5.0) == 0
    assert len(await standing(mesh)) == 1


async def standing_in_queue(mesh: Mesh, count: int) -> bool:
    info = await jetstream.call(mesh.connection, "STREAM.INFO", subjects.TASKS)
    return int(info["state"]["messages"]) == count


async def test_a_payload_of_which_a_piece_is_gone_is_never_taken_for_the_whole(mesh: Mesh) -> None:
    place = Place("anon", "echo", "x1")
    blob = await blobs.put(mesh.connection, place, SOME, blob_id="b1")
    assert await blobs.get(mesh.connection, place, blob) == SOME
    assert await blobs.put(mesh.connection, place, SOME, blob_id="b1") == blob, "done again it is the same"
    body = {"filter": place.piece("b1", 2)}
    await jetstream.call(mesh.connection, "STREAM.PURGE", subjects.BLOBS, body=body)
    with pytest.raises(DamagedBlobError, match="piece 3 of 4 is gone"):
        await blobs.get(mesh.connection, place, blob)


async def test_a_client_that_knows_nats_alone_sends_and_gets_large_payloads(
    mesh: Mesh, server: Server, start_worker: StartWorker
) -> None:
    async def echo(message: dict[str, str]) -> Any:
        return message

    await start_worker(echo)
    given = {"text": "large " * 300_000}
    body = json.dumps(given).encode()
    pieces = [body[:700_000], body[700_000:700_001], body[700_001:1_500_000], body[1_500_000:]]
    said = {"id": "own", "size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "pieces": len(pieces)}
    client = await nats.connect(server.url)
    try:
        done = await client.subscribe("revo.done.anon.echo.*")
        for number, piece in enumerate(pieces):
            first = {"Nats-Expected-Last-Subject-Sequence": "0"}
            stored = await client.request(f"revo.blob.anon.echo.plain.own.{number}", piece, headers=first)
            assert json.loads(stored.data)["stream"] == "BLOBS"
        headers = {"Revo-Task-Id": "plain", "Revo-Blob": json.dumps(said)}
        await client.request("revo.task.echo.normal", b"", headers=headers)
        result = json.loads((await done.next_msg(timeout=10)).data)
        blob = result["blob"]
        found = [
            (await client.request(f"$JS.API.DIRECT.GET.BLOBS.revo.blob.anon.echo.plain.{blob['id']}.{number}")).data
            for number in range(blob["pieces"])
        ]
    finally:
        await client.close()
    assert (result["status"], result["value"], blob["content_type"]) == ("succeeded", None, "application/json")
    assert hashlib.sha256(b"".join(found)).hexdigest() == blob["sha256"]
    assert json.loads(b"".join(found)) == given


@pytest.mark.parametrize("size", [400_000, 3 * MIB])
@pytest.mark.parametrize("again", [False, True])
async def test_many_messages_are_submitted_without_holding_more_than_a_few(mesh: Mesh, again: bool, size: int) -> None:
    """Those in the queue's messages and those beside them, by a client and by a handler that runs again."""
    count = 64 * MIB // size
    token = FAMILY.set(Family("anon.lead.1", again=True, standing={}) if again else None)
    tracemalloc.start()
    try:
        ends = await mesh.submit_many("nobody", ({"n": n, "data": bytes(size)} for n in range(count)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        FAMILY.reset(token)
    assert [one for one in ends if isinstance(one, Exception)] == []
    assert len(ends) == count
    assert peak < 32 * MIB, f"{peak / MIB:.0f} MiB of {count * size / MIB:.0f}"
