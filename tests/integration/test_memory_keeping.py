"""What is kept until somebody says otherwise, and what makes room: conflict sets, deletes, a full bucket."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest

from actors.memory.model import Namespace
from bus import jetstream, subjects
from bus.errors import QueueFullError
from bus.mesh import Mesh
from bus.server import Server
from bus.settings import Settings
from revo import Entry, Memory

ENTRIES = f"$KV.{subjects.MEMORY_BUCKET}.{subjects.ENTRIES}"


def there(entry: Entry | None) -> Entry:
    assert entry is not None
    return entry


async def contradicted(memory: Memory, key: str) -> Entry:
    """An entry that was written twice from nothing, and holds what the second wanted to write."""
    await memory.put(key, {"by": "ann"})
    assert (await memory.put(key, {"by": "bob"})).outcome == "conflict"
    return there(await memory.get(key))


async def test_what_waits_for_a_choice_is_carried_on_by_every_write_but_the_one_that_chooses(mesh: Mesh) -> None:
    memory = Memory(mesh, "plans")
    await memory.configure(Namespace(strategy="merge", rules={"n": "counter"}))
    entry = await contradicted(memory, "app")
    await memory.put("app", {**entry.value, "n": 1}, entry)  # who does not look takes nothing away
    entry = there(await memory.get("app"))
    assert (entry.value, [one.value for one in entry.alternatives]) == ({"by": "ann", "n": 1}, [{"by": "bob"}])

    assert (await memory.delete("app")).outcome == "written"
    entry = there(await memory.get("app"))
    assert (entry.live, len(entry.alternatives)) == (False, 1), "a reader is told although it is deleted"
    await memory.undelete("app")
    entry = there(await memory.get("app"))
    assert (entry.value, len(entry.alternatives)) == ({"by": "ann", "n": 1}, 1)
    assert [one.key for one in (await memory.conflicts()).entries] == ["app"]

    await memory.resolve("app", {"by": "bob"}, entry)
    entry = there(await memory.get("app"))
    assert (entry.value, entry.alternatives) == ({"by": "bob"}, ())
    assert not (await memory.conflicts()).entries


@pytest.mark.parametrize("strategy", ["last_writer_wins", "first_writer_wins", "merge", "highest_rank", "manual"])
async def test_a_delete_without_a_base_takes_away_what_is_there(mesh: Mesh, strategy: str) -> None:
    memory = Memory(mesh, "plans")
    await memory.configure(Namespace.model_validate({"strategy": strategy}))
    await memory.put("app", {"a": 1})
    assert (await memory.delete("app")).outcome == "written"
    assert await memory.get("app") is None
    before = len(await memory.history("app"))
    assert (await memory.delete("app")).outcome == "absent"
    assert (await memory.delete("never")).outcome == "absent"
    assert len(await memory.history("app")) == before, "nothing was stored"
    assert await memory.history("never") == []


async def test_what_is_purged_is_gone_with_all_its_versions_and_what_is_no_key_is_in_nobodys_way(mesh: Mesh) -> None:
    memory = Memory(mesh, "plans")
    for number in range(3):
        await memory.put("secret", number)
    await memory.put("secrets/other", 1)
    for bad in ("plans.fo=FF._", "plans.no-end"):
        await jetstream.store(mesh.connection, f"{ENTRIES}.{bad}", b"\xc0")
    assert await memory.purge("secret")
    assert not await memory.purge("secret")
    assert (await memory.get("secret"), await memory.history("secret")) == (None, [])
    assert [one.key for one in (await memory.list()).entries] == ["secrets/other"]
    async with contextlib.aclosing(memory.watch()) as seen:
        assert (await anext(seen)).key == "secrets/other"


async def fill(memory: Memory, size: int) -> None:
    """Write values of a size until there is no room."""
    for number in itertools.count():
        await memory.put(f"{size}/{number // 4}", b"x" * size)


async def test_when_the_bucket_is_full_what_was_stored_stays_and_deletes_make_room(tmp_path: Path) -> None:
    async with Server(tmp_path / "nats") as server:
        settings = Settings(nats_url=server.url, memory_max_bytes=400_000)
        async with Mesh.connect(settings=settings) as mesh:
            memory = Memory(mesh, "plans")
            async with memory.lock("held"):
                for size in (20_000, 1_000, 1):  # until there is room for nothing
                    with pytest.raises(QueueFullError):
                        await fill(memory, size)
            assert await memory.locks() == [], "it was given back although there was no room"
            assert there(await memory.get("20000/0")).value == b"x" * 20_000
            assert (await memory.delete("20000/0")).outcome == "written"
            assert await memory.get("20000/0") is None
            await memory.put("small", 1)
            assert await memory.purge("20000/1")
            await memory.put("large", b"x" * 20_000)
