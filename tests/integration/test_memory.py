"""Entries of shared memory: versions, conflicts, lists, and what is refused, against a real server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from actors.memory.model import MAX_ALTERNATIVES, Alternative, Namespace
from bus import jetstream, subjects
from bus.errors import (
    BatchTooLargeError,
    BusError,
    ConfigError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    InvalidSubjectError,
    PayloadTooLargeError,
)
from bus.family import FAMILY, Family
from bus.mesh import Mesh
from bus.settings import Settings
from revo import ConflictError, Entry, Memory, NoSuchVersionError, TooManyConflictsError
from tests.eventually import eventually

STREAM = subjects.bucket(subjects.MEMORY_BUCKET)


class Finding(BaseModel):
    rule: str
    lines: list[int] = []


async def stored(mesh: Mesh) -> int:
    """How many messages were ever stored for shared memory."""
    return int((await jetstream.call(mesh.connection, "STREAM.INFO", STREAM))["state"]["last_seq"])


def live(entry: Entry | None) -> Entry:
    assert entry is not None
    return entry


async def test_every_write_is_a_version_that_says_who_made_it_and_can_be_had_back(mesh: Mesh) -> None:
    memory = Memory(mesh, "findings")
    key = "project/app/über findings"
    assert await memory.get(key) is None
    assert await memory.history(key) == []

    token = FAMILY.set(Family("shop.review.17"))
    with mesh.telemetry.span("a handler") as span:
        first = await memory.put(key, Finding(rule="E501", lines=[1]))
    FAMILY.reset(token)
    entry = live(await memory.get(key))
    assert entry.read(Finding) == Finding(rule="E501", lines=[1])
    assert (entry.version, entry.base, entry.by) == (first.version, 0, mesh.telemetry.instance)
    assert (entry.task, entry.trace_id) == ("shop.review.17", span.trace_id)
    assert abs(entry.at - live(await memory.get(key, entry.version)).at) < 1e-9

    second = await memory.put(key, {"rule": "E501", "lines": [1, 2]}, base=entry)
    assert [one.version for one in await memory.history(key)] == [first.version, second.version]
    assert live(await memory.get(key, first.version)).value == {"rule": "E501", "lines": [1]}
    (difference,) = await memory.diff(key, first.version)
    assert difference.path.startswith("lines")

    deleted = await memory.delete(key, base=second.version)
    assert await memory.get(key) is None
    assert live(await memory.get(key, deleted.version)).deleted, "a version that is asked for is shown"
    again = await memory.undelete(key)
    assert live(await memory.get(key)).value == {"rule": "E501", "lines": [1, 2]}
    assert [(one.version, one.deleted, one.base) for one in await memory.history(key)] == [
        (first.version, False, 0),
        (second.version, False, first.version),
        (deleted.version, True, second.version),
        (again.version, False, deleted.version),
    ]
    with pytest.raises(NoSuchVersionError, match="not deleted"):
        await memory.undelete(key)

    for number in range(20):
        await memory.put(key, number)
    assert [one.value for one in await memory.history(key)] == list(range(4, 20)), "16 are kept"
    for version, reason in ((first.version, "no longer kept"), (10**6, "newest"), (-1, "numbers from 1")):
        with pytest.raises(NoSuchVersionError, match=reason):
            await memory.get(key, version)


async def test_what_cannot_be_carried_out_is_refused_by_name_and_changes_nothing(mesh: Mesh) -> None:
    memory = Memory(mesh, "findings")
    entry = await memory.put("here", {"n": 1})
    other = await memory.put("there", 1)
    before = await stored(mesh)
    cycle: list[Any] = []
    cycle.append(cycle)
    bad_keys = ["", "/a", "a//b", "a/", "a\n", "x/" * 20 + "x", "k" * 500]
    bad_values = [object(), 2**70, cycle, {(1, 2): "a key that could not be read again"}, "\ud800"]
    bad_bases = [-1, 10**6, 2**80, other.version, True]
    bad_ttls: list[Any] = [-1, math.nan, math.inf, 1e300, "1"]
    put, put_all = memory.put, memory.put_all
    refused: list[tuple[type[BusError], str, Callable[[], Awaitable[object]]]] = [
        *((InvalidKeyError, "is no key", partial(put, key, 1)) for key in bad_keys),
        *((EncodeError, "here", partial(put, "here", value)) for value in bad_values),
        *((ConfigError, "ttl", partial(put, "here", 1, ttl=ttl)) for ttl in bad_ttls),
        *((NoSuchVersionError, "here", partial(put, "here", 1, base)) for base in bad_bases),
        (NoSuchVersionError, "never", partial(put, "never", 1, base=entry.version)),
        (NoSuchVersionError, "there", partial(put_all, {"here": 2, "there": 2}, {"there": entry.version})),
        (PayloadTooLargeError, "here", partial(put, "here", b"x" * (mesh.connection.max_payload - 1000))),
        (ConfigError, "elsewhere", partial(put_all, {"here": 1}, {"elsewhere": 3})),
        (ConfigError, "twice", partial(put_all, {"here": 1}, delete=["here"])),
        (BatchTooLargeError, "1001", partial(put_all, {f"{n}": n for n in range(1001)})),
        (ConfigError, "limit", partial(memory.list, limit=0)),
        (ConfigError, "limit", partial(memory.conflicts, limit=10**9)),
        (NoSuchVersionError, "findings", partial(anext, memory.watch(since=-1))),
        (InvalidKeyError, "is no key", partial(anext, memory.watch("a//b"))),
    ]
    for kind, text, call in refused:
        with pytest.raises(kind, match=text):
            await call()
    with pytest.raises(InvalidSubjectError):
        Memory(mesh, "no.such")
    assert await stored(mesh) == before, "nothing was written"

    await jetstream.store(mesh.connection, "$KV.MEMORY.entry.findings.here._", b"\xc1not json", {})
    with pytest.raises(DecodeError, match="here"):
        await memory.get("here")


async def test_the_strategy_decides_where_something_else_stands_there(mesh: Mesh) -> None:
    async def clash(strategy: str, value: Any = "theirs", **more: Any) -> tuple[Memory, Entry]:
        memory = Memory(mesh, strategy)
        await memory.configure(Namespace(strategy=strategy, **more))  # type: ignore[arg-type]
        await memory.put("k", {"a": 1})
        base = live(await memory.get("k"))
        await memory.put("k", value, base)
        return memory, base

    memory, base = await clash("last_writer_wins")
    assert (await memory.put("k", "ours", base)).outcome == "overwrote"
    assert live(await memory.get("k")).value == "ours"

    memory, base = await clash("first_writer_wins")
    with pytest.raises(ConflictError) as caught:
        await memory.put("k", "ours", base)
    assert (live(caught.value.theirs).value, caught.value.ours, caught.value.base) == ("theirs", "ours", base.version)
    with pytest.raises(ConflictError):
        await memory.put("k", "knows of nothing")

    memory, base = await clash("merge", {"a": 1, "b": 2})
    merged = await memory.put("k", {"a": 3}, base)
    assert (merged.outcome, merged.value) == ("merged", {"a": 3, "b": 2})
    entry = live(await memory.get("k"))
    assert (entry.value, entry.base, entry.merged) == ({"a": 3, "b": 2}, base.version, base.version + 1)

    memory, base = await clash("highest_rank", ranks={"client": 1})
    entry = live(await memory.get("k"))
    assert entry.rank == 1
    with pytest.raises(ConflictError, match="rank"):
        await memory.put("k", "ours", base)
    await memory.configure(Namespace(strategy="highest_rank", ranks={"client": 2}))
    assert (await memory.put("k", "ours", base)).outcome == "overwrote"

    memory, base = await clash("manual")
    assert (await memory.put("k", "ours", base)).outcome == "conflict"
    entry = live(await memory.get("k"))
    assert entry.value == "theirs"
    (alternative,) = entry.alternatives
    assert isinstance(alternative, Alternative)
    assert (alternative.value, alternative.base, alternative.by) == ("ours", base.version, mesh.telemetry.instance)
    assert alternative.trace_id


async def test_conflicts_stand_there_until_somebody_chooses(mesh: Mesh) -> None:
    memory = Memory(mesh, "plans")
    await memory.configure(Namespace(strategy="manual"))
    for key in ("a", "b", "c/d"):
        await memory.put(key, "first")
        for number in range(2):
            await memory.put(key, number, base=None)
    page = await memory.conflicts(limit=2)
    assert [(one.key, one.conflicts) for one in page.entries] == [("a", 2), ("b", 2)]
    assert [one.key for one in (await memory.conflicts(page.after)).entries] == ["c/d"]

    entry = live(await memory.get("b"))
    await memory.resolve("b", "chosen", entry)
    assert live(await memory.get("b")).alternatives == ()
    assert [one.key for one in (await memory.conflicts()).entries] == ["a", "c/d"]
    word = await jetstream.last(mesh.connection, STREAM, "$KV.MEMORY.conflict.plans.b._")
    assert word is not None
    assert "KV-Operation" in word.headers, "who lists takes back what is true no more"
    assert (await memory.put("b", "late", entry)).outcome == "conflict", "based on what was resolved by another"
    assert [one.key for one in (await memory.conflicts()).entries] == ["a", "b", "c/d"], "the word of it is anew"

    for number in range(2, MAX_ALTERNATIVES):
        await memory.put("a", number)
    before = await stored(mesh)
    with pytest.raises(TooManyConflictsError):
        await memory.put("a", "one more")
    assert await stored(mesh) == before


async def test_several_writes_are_stored_all_or_none(mesh: Mesh) -> None:
    memory = Memory(mesh, "plans")
    await memory.configure(Namespace(strategy="first_writer_wins"))
    made = await memory.put_all({f"k/{n}": n for n in range(50)})
    assert [one.version for one in made] == list(range(made[0].version, made[0].version + 50))
    assert {one.version for one in made} == {one.version for one in (await memory.list("k")).entries}

    before = await stored(mesh)
    with pytest.raises(ConflictError, match="k/7"):
        await memory.put_all({"new": 1, "k/7": 8, "newer": 2}, delete=["k/8"])
    assert await stored(mesh) == before
    done = await memory.put_all({"new": 1, "k/7": 8}, {"k/7": made[7].version, "k/8": made[8].version}, delete=["k/8"])
    assert [one.key for one in done] == ["new", "k/7", "k/8"]
    for one in done:
        assert live(await memory.get(one.key, one.version)).key == one.key
    assert await memory.get("k/8") is None
    assert await memory.put_all({}) == []

    manual = Memory(mesh, "manual")
    await manual.configure(Namespace(strategy="manual"))
    await manual.put("a", 1)
    conflict, plain = await manual.put_all({"a": 2, "b": 3})
    assert (conflict.outcome, plain.outcome) == ("conflict", "written")
    assert live(await manual.get("b", plain.version)).value == 3
    assert live(await manual.get("a", conflict.version)).alternatives


async def test_many_writers_at_once_lose_nothing(mesh: Mesh, settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        meshes = [mesh, await stack.enter_async_context(Mesh.connect(settings=settings))]
        await Memory(mesh, "stats").configure(Namespace(strategy="merge", rules={"runs": "counter", "seen": "set"}))

        async def write(number: int) -> None:
            memory = Memory(meshes[number % 2], "stats")
            for turn in range(3):
                entry = await memory.get("k")
                value: dict[str, Any] = entry.value if entry else {"runs": 0, "seen": []}
                mine = {"runs": value["runs"] + 1, "seen": [*value["seen"], f"{number}.{turn}"]}
                await memory.put("k", mine, entry)

        await asyncio.gather(*(write(number) for number in range(5)))
        value = live(await Memory(mesh, "stats").get("k")).value
        assert value["runs"] == 15
        assert sorted(value["seen"]) == sorted(f"{number}.{turn}" for number in range(5) for turn in range(3))

        mine, other = (Memory(one, "stats") for one in meshes)
        await mine.put("c", 0)
        await other.configure(Namespace())
        assert (await other.put("c", 1)).outcome == "written", "who changes it follows at once"

        async def without_base() -> bool:
            return (await mine.put("c", 2)).outcome == "written"

        await eventually(without_base)
        assert await mine.describe() == Namespace()
        await jetstream.store(mesh.connection, "$KV.MEMORY.namespace.stats", b'{"strategy": "of later"}', {})

        async def refused() -> bool:
            try:
                await mine.put("c", 3)
            except DecodeError:
                return True
            return False

        await eventually(refused)


async def test_lists_go_by_key_and_page_by_page(mesh: Mesh) -> None:
    memory = Memory(mesh, "findings")
    keys = sorted([f"app/{n:02}/x" for n in range(12)] + ["app", "app/ü ber", "apple/1", "b/_", "b"])
    for key in keys:
        await memory.put(key, "x" * 100)
    await memory.put("app/05", 1)
    await memory.delete("app/05")
    assert [one.key async for one in memory.walk()] == keys
    under = [key for key in keys if key == "app" or key.startswith("app/")]
    assert [one.key async for one in memory.walk("app")] == under
    found, after = [], ""
    while True:
        page = await memory.list("app", after, limit=5)
        found += [one.key for one in page.entries]
        after = page.after
        if not after:
            break
        assert len(page.entries) == 5
    assert found == under
    assert [one.key for one in (await memory.list("b/_")).entries] == ["b/_"]
    (summary,) = (await memory.list("apple/1")).entries
    assert (summary.by, summary.size, summary.conflicts) == (mesh.telemetry.instance, 102, 0)
    assert (await Memory(mesh, "empty").list()).entries == ()
