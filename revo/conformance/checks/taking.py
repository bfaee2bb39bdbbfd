"""Checks of how tasks are taken and read."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from bus import codec, jetstream, subjects
from bus.messages import JSON, MSGPACK
from revo.conformance.bench import Bench
from revo.conformance.proving import proves
from revo.conformance.tap import Seen, Unmet
from revo.conformance.told import End, expect, read

VALUE: Final[Any] = {
    "text": 'a\n"ü\u2028🙂',
    "numbers": [0, -1, 1.5, 2**53 - 1],
    "none": None,
    "yes": True,
    "deep": {"er": [[]]},
}
"""What must come back as it went."""
_STALL: Final = 0.5
"""Seconds that a busy machine may keep us from noting when something came."""
_MARK: Final = "kept by whoever starts: "


@proves("consumers", "running")
async def consumers(bench: Bench) -> None:
    for priority in subjects.PRIORITIES:
        config = await bench.consumer(priority)
        wanted = {
            "filter_subject": subjects.consumer_filter(bench.capability, priority),
            "ack_policy": "explicit",
            "max_deliver": -1,
            "max_ack_pending": -1,
        }
        for key, value in wanted.items():
            expect(config.get(key), value, f"{key} of consumer {bench.capability}-{priority}")
        if config.get("deliver_subject"):
            raise Unmet(f"consumer {bench.capability}-{priority} is pushed")


@proves("policy", "running")
async def policy(bench: Bench) -> None:
    said = await bench.policy()
    wanted = ("ack_wait", "max_attempts", "time_limit", "backoff", "backoff_max", "max_deaths")
    missing = [key for key in wanted if not isinstance(said.get(key), int | float)]
    if missing:
        raise Unmet(f"metadata revo.policy lacks {', '.join(missing)}")
    expect(said["ack_wait"], await bench.ack_wait(), "ack_wait in revo.policy")


@proves("consumers-stand", "back")
async def consumers_stand(bench: Bench) -> AsyncGenerator[None, None]:
    config = await bench.consumer("low")
    marked = {**config, "description": f"{_MARK}{config.get('description', '')}"}
    name, subject = config["durable_name"], config["filter_subject"]
    body = {"stream_name": subjects.TASKS, "config": marked, "action": "update"}
    await jetstream.call(bench.connection, "CONSUMER.CREATE", subjects.TASKS, name, subject, body=body)
    task = await bench.submit()
    yield
    await bench.done(task)
    expect((await bench.consumer("low")).get("description"), marked["description"], f"description of {name}")


@proves("priorities", "back")
async def priorities(bench: Bench) -> AsyncGenerator[None, None]:
    low = [await bench.submit("wait", seconds=0.02, priority="low") for _ in range(30)]
    critical = await bench.submit(priority="critical")
    yield
    begun = await bench.begun(critical)
    before = sum(
        seen.order < begun.order for task in low for seen in bench.tap.all("told", task.tell) if seen.event == "begin"
    )
    if before > len(low) // 2:
        raise Unmet(f"{before} of {len(low)} low tasks began before the critical one that waited beside them")
    for task in low:
        await bench.done(task)


@proves("ack-extension", "running")
async def ack_extension(bench: Bench) -> None:
    ack_wait = await bench.ack_wait()
    task = await bench.submit("wait", seconds=2.5 * ack_wait)
    begun = await bench.begun(task)
    settled = await bench.settled(task)
    expect(bench.begins(task), 1, "times that a handler ran for longer than the ack deadline")
    signs = [begun, *bench.tap.all("extended", sequence=task.sequence), settled]
    longest = max(after.at - before.at for before, after in itertools.pairwise(signs))
    if longest > ack_wait + _STALL:
        raise Unmet(f"nothing was said of it for {longest:.1f} s, and the ack deadline is {ack_wait:g} s")


@proves("json", "running")
async def as_json(bench: Bench) -> None:
    for content_type in ("", JSON, "application/json; charset=utf-8"):
        headers = {"Content-Type": content_type} if content_type else {}
        end = await bench.done(await bench.submit(value=VALUE, headers=headers))
        expect(end["status"], "succeeded", f"status of a task of type {content_type!r}")
        expect(end["value"], VALUE, "value")


@proves("content-types", "running")
async def content_types(bench: Bench) -> None:
    packed, other = await asyncio.gather(
        bench.submit(value=VALUE, content_type=MSGPACK), bench.submit(headers={"Content-Type": "text/csv"})
    )
    end = await bench.done(packed)
    if end["status"] == "succeeded":
        expect(end["value"], VALUE, "value")
        expect(codec.content_type_of(end.seen.headers), MSGPACK, "content type of the result of a msgpack task")
    else:
        _failed_to_decode(end, "a msgpack task")
    _failed_to_decode(await bench.done(other), "a task of type text/csv")


@proves("garbage", "running")
async def garbage(bench: Bench) -> None:
    for body in (b'{"do": ', b"\xff\xfe", b""):
        task = await bench.submit(raw=body)
        end = await bench.done(task)
        _failed_to_decode(end, f"a task with body {body!r}")
        if any(b"delay" in seen.body for seen in bench.handed_back(task)):
            raise Unmet(f"a task with body {body!r} was tried again")


@proves("garbage-headers", "running")
async def garbage_headers(bench: Bench) -> None:
    for headers in ({"Revo-Deadline": "soon"}, {"Revo-Deadline": "-1"}, {"Revo-Deadline": "99999999999"}):
        _failed_to_decode(await bench.done(await bench.submit(headers=headers)), f"a task with {headers}")
    task = await bench.submit(headers={"Revo-Task-Id": "a.b"})
    seen = await bench.settled(task)
    task.task_id = _id_of(seen, task.body)
    _failed_to_decode(await bench.done(task), "a task with a dot in its Revo-Task-Id")


@proves("unknown-headers", "running")
async def unknown_headers(bench: Bench) -> None:
    headers = {"My-Own": "x", "Revo-Of-A-Later-Version": "y", "traceparent": "nonsense"}
    expect((await bench.done(await bench.submit(headers=headers)))["status"], "succeeded", "status")


@proves("bare-id", "running")
async def bare_id(bench: Bench) -> None:
    body = json.dumps({"do": "echo", "value": 1}).encode()
    stored = await jetstream.store(bench.connection, f"revo.task.{bench.capability}.normal", body)

    def settled(seen: Seen) -> bool:
        return seen.settles and seen.sequence == stored.sequence

    seen = await bench.tap.until("+ACK of a bare task", settled, bench.patience)
    ends = [read(one) for one in bench.tap.all("done") if one.name.startswith(f"{subjects.ANONYMOUS}.")]
    mine = [end for end in ends if end["sequence"] == stored.sequence]
    if not mine:
        raise Unmet(f"no result for a task that was published bare, as client {subjects.ANONYMOUS}")
    expect(mine[0].seen.name.rpartition(".")[2], _id_of(seen, body), "id of a bare task")
    expect(mine[0]["task_id"], _id_of(seen, body), "task_id in its result")


def _id_of(settled: Seen, body: bytes) -> str:
    digest = hashlib.blake2b(f"{settled.sequence}.{settled.stored_at_ns}.".encode(), digest_size=16)
    digest.update(body)
    return digest.hexdigest()


def _failed_to_decode(end: End, what: str) -> None:
    expect((end["status"], end.code), ("failed", "decode"), f"end of {what}")
