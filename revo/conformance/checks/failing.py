"""Checks of errors: tried again, counted, given up."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from bus import attempts, codec, jetstream, subjects
from bus.messages import CONTENT_TYPE, MSGPACK
from revo.conformance.bench import ERROR, Bench
from revo.conformance.proving import proves
from revo.conformance.tap import Seen, Unmet
from revo.conformance.told import Task, expect

DEFAULT_ATTEMPTS = 3


@proves("retry", "running")
async def retry(bench: Bench) -> None:
    task = await bench.submit("fail-once", value="at last")
    nak = await _handed_back(bench, task)
    word, _, options = nak.body.decode(errors="replace").partition(" ")
    expect(word, "-NAK", "what a task is handed back with")
    try:
        delay = json.loads(options)["delay"]
    except (ValueError, KeyError, TypeError):
        raise Unmet(f"handed back with {nak.body!r}, which names no delay") from None
    if not isinstance(delay, int) or delay <= 0:
        raise Unmet(f"the delay is {delay!r}, and not nanoseconds above zero")
    end = await bench.done(task)
    expect((end["status"], end["value"]), ("succeeded", "at last"), "end")
    expect(end["attempts"], 2, "attempts")
    again = [seen for seen in bench.tap.all("told", task.tell) if seen.event == "begin"][1]
    if again.at - nak.at < delay / 1e9 - 0.05:
        raise Unmet(f"it began {again.at - nak.at:.2f} s later, its delay was {delay / 1e9:.2f} s")


@proves("record", "running")
async def record(bench: Bench) -> None:
    task = await bench.submit("fail-once")
    nak = await _handed_back(bench, task)
    found = await attempts.of(bench.connection, task.client, task.capability, task.task_id)
    expect((found.errors, found.returned), (1, nak.deliveries), "errors and returned in the record")
    written = [seen for seen in bench.tap.all("record", task.name) if seen.order < nak.order]
    if not written:
        raise Unmet("the record was written after the task was handed back")
    expect("Nats-Expected-Last-Subject-Sequence" in written[0].headers, True, "whether it compares before it writes")
    expect("Nats-TTL" in written[0].headers, True, "whether the record has a Nats-TTL")
    await bench.done(task)


async def _handed_back(bench: Bench, task: Task) -> Seen:
    """How the task was handed back after its handler had failed; before, it may be for want of a slot."""

    def failed(seen: Seen) -> bool:
        return seen.kind == "told" and seen.name == task.tell and seen.event == "end"

    after = await bench.tap.until("end of its handler", failed, bench.patience)

    def nak(seen: Seen) -> bool:
        return seen.kind == "settled" and seen.sequence == task.sequence and seen.order > after.order

    handed_back = await bench.tap.until("-NAK", nak, bench.patience)
    if handed_back.settles:
        raise Unmet(f"settled with {handed_back.body!r} after an error that a retry may cure")
    return handed_back


@proves("last-attempt", "running")
async def last_attempt(bench: Bench) -> None:
    most = int((await bench.policy()).get("max_attempts", DEFAULT_ATTEMPTS))
    task = await bench.submit("fail")
    end = await bench.done(task)
    expect((end["status"], end.code), ("failed", ERROR), "end")
    expect(bench.begins(task), most, "times that it ran")
    expect(end["attempts"], most, "attempts")


@proves("final", "running")
async def final(bench: Bench) -> None:
    task = await bench.submit("fail-for-good")
    end = await bench.done(task)
    expect((end["status"], end.code), ("failed", ERROR), "end")
    expect(bench.begins(task), 1, "times that it ran")
    expect(end["error"].get("retryable"), False, "retryable in its error")


@proves("deaths", "killed")
async def deaths(bench: Bench) -> AsyncGenerator[None, None]:
    most = int((await bench.policy()).get("max_attempts", DEFAULT_ATTEMPTS))
    task = await bench.submit("fail", seconds=0.2)
    await bench.begun(task)
    yield
    end = await bench.done(task)
    expect((end["status"], end["attempts"]), ("failed", most), "status and attempts of a task of a killed process")
    expect(bench.begins(task), most + 1, "times that it ran")


@proves("poison", "back")
async def poison(bench: Bench) -> AsyncGenerator[None, None]:
    task = await bench.submit(priority="urgent")
    await bench.take("urgent")
    told = {"errors": 0, "returned": 0, "suspect": True, "alone": 100}
    headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": "600s", CONTENT_TYPE: MSGPACK}
    subject = subjects.attempt(task.client, task.capability, task.task_id)
    await jetstream.store(bench.connection, subject, codec.encode(told), headers)
    yield
    end = await bench.done(task)
    expect((end["status"], bench.begins(task)), ("failed", 0), "status and runs of a task that processes died of")
