"""A death is counted once, however often the steward must begin anew with its obituary."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bus import endings, events
from bus.connection import Connection
from bus.errors import RequestTimeoutError
from bus.messages import Beat, InHand
from bus.obituary import Obituary
from bus.telemetry import Telemetry

TASK = InHand(
    task_id="t",
    capability="echo",
    client="anon",
    priority="normal",
    sequence=1,
    deliveries=1,
    attempt=1,
    state="running",
    since=1.0,
)


async def test_what_is_written_again_is_counted_once_and_what_hangs_has_not_crashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[Any, ...]] = []

    async def tell(_: object, kind: str, name: str, what: str, **about: Any) -> None:
        told.append((kind, name, what, about["recovery"], about["count"], about["once"]))

    async def away(*_: object) -> None:
        raise RequestTimeoutError("results", 5.0)

    monkeypatch.setattr(events, "tell", tell)
    monkeypatch.setattr(endings, "stored_result", away)
    writer = Obituary(cast("Connection", None), Telemetry(service="steward", instance="steward-1"))
    beat = Beat(agent="echo", instance="echo", at=1.0, concurrency=1, capabilities=[], in_hand=[TASK])
    for name in ("echo-1", "echo-2"):
        beat = beat.model_copy(update={"instance": name})
        for _ in range(3):
            with pytest.raises(RequestTimeoutError):
                await writer.died(beat)
        await writer.died(beat.model_copy(update={"in_hand": []}))
    for at in (2.0, 9.0):
        await writer.hangs(beat.model_copy(update={"in_hand": [], "at": at}), 3.0)
    assert told == [
        ("fault", "echo-1", "crash", "restart", 1, "crash-echo-1"),
        ("fault", "echo-2", "crash", "restart", 2, "crash-echo-2"),
        ("fault", "echo-2", "timeout", "back-off", 1, "hang-echo-2-2.0"),
        ("fault", "echo-2", "timeout", "back-off", 2, "hang-echo-2-9.0"),
    ]
