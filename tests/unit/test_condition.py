"""What is made of what an instance says, and how its figures are counted."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from actors.registry.actor import Registry
from actors.registry.catalog import Known
from actors.registry.condition import Finding, find
from actors.registry.messages import Find
from actors.registry.model import Condition, Health, Instance
from bus.health import HALF_LIFE, METHODS, Meter


def instance(**more: Any) -> Instance:
    given = {"agent": "echo", "instance": "echo-1", "state": "ready", "capabilities": {"echo": "00", "shout": "01"}}
    return Instance.model_validate({**given, **more})


@pytest.mark.parametrize(
    ("said", "others", "condition", "reason"),
    [
        ({}, {}, "idle", ""),
        ({"running": 1}, {}, "busy", ""),
        ({"waiting": 1}, {}, "busy", ""),
        ({"state": "starting"}, {}, "starting", ""),
        ({"state": "draining", "paused": "why"}, {}, "draining", ""),
        ({"paused": "its disk is full", "running": 1}, {}, "paused", "its disk is full"),
        ({}, {"pauses": {"echo": "a", "shout": "b"}}, "paused", "echo is paused: a; shout is paused: b"),
        ({"running": 1}, {"pauses": {"echo": "a"}}, "busy", "echo is paused: a"),
        ({"health": Health(error="no licence", degraded=["slow"])}, {}, "error", "no licence"),
        ({"health": Health(degraded=["slow", "old"])}, {}, "degraded", "slow; old"),
        ({"breakers": {"echo": "open"}}, {}, "degraded", "the breaker of echo is open"),
        ({"paused": "why"}, {"suspicion": "deaf: nothing"}, "suspect", "deaf: nothing"),
        ({}, {"age": 2.9}, "idle", ""),
        ({}, {"age": 3.1}, "suspect", "its lease was not renewed for 3.1 s"),
    ],
)
def test_the_worst_that_can_be_said_of_an_instance_counts(
    said: dict[str, Any], others: dict[str, Any], condition: str, reason: str
) -> None:
    known = {"suspicion": "", "age": 0.0, "heartbeat": 2.0, "pauses": {}, **others}
    assert find(instance(**said), **known) == (condition, reason)


async def test_who_works_is_found_and_an_answer_to_a_broadcast_is_expected_of_whoever_hears_it() -> None:
    registry, catalog = Registry(), cast("Any", SimpleNamespace(pauses={"shout": "why"}, definitions={}, revision=7))
    catalog.reached = AsyncMock()
    conditions = ("idle", "busy", "degraded", "error", "late", "paused", "stopped", "suspect", "starting")
    said: dict[str, dict[str, Any]] = {"starting": {"state": "starting"}, "paused": {"paused": "by hand"}}
    known = [
        Known(instance(instance=f"echo-{name}", **said.get(name, {})), b"", 1, time.monotonic()) for name in conditions
    ]
    catalog.having = lambda *_: known
    catalog.plain = lambda one: {"instance": one.instance.instance.removeprefix("echo-")}
    catalog.suspicion = lambda name: "deaf" if name == "echo-suspect" else ""
    as_shown = {"late": "suspect", "stopped": "paused"}

    def condition(one: Known) -> Finding:
        name = one.instance.instance.removeprefix("echo-")
        return Finding(cast("Condition", as_shown.get(name, name)))

    catalog.condition = condition
    registry._catalog = catalog

    async def found(**more: Any) -> list[str]:
        page = await registry.find(Find(capability="echo", **more))
        return [one["instance"] for one in page.instances]

    assert await found() == ["idle", "busy", "degraded"]
    assert await found(names=True) == ["idle", "busy", "degraded", "error", "late", "stopped"]


def test_what_failed_long_ago_counts_for_little() -> None:
    now = 100.0
    meter = Meter(lambda: now)
    assert meter.error_rate == meter.weight == 0.0
    assert meter.latency() == {}
    for _ in range(8):
        meter.ended(0.1, failed=True)
    assert (meter.error_rate, meter.weight, meter.done) == (1.0, 8.0, 8)
    now += HALF_LIFE
    assert meter.weight == pytest.approx(4.0), "an old share stands for little"
    assert meter.error_rate == 1.0, "yet nothing better is known"
    for _ in range(4):
        meter.ended(0.1, failed=False)
    assert meter.error_rate == pytest.approx(0.5)


def test_requests_are_told_apart_by_method_and_tasks_are_not_among_them() -> None:
    meter = Meter()
    for _ in range(20):
        meter.ended(60.0, failed=False)
        meter.ended(0.001, failed=False, method="say")
        meter.ended(2.0, failed=True, method="think")
    assert meter.requests() == {"say": 0.001, "think": 2.0}
    assert meter.latency()["p95"] == 60.0, "together with the tasks"
    for _ in range(32):
        meter.ended(0.1, failed=False, method="say")
    assert 0.08 < meter.requests()["say"] < 0.1, "the recent ones count more"
    for number in range(METHODS):
        meter.ended(1.0, failed=False, method=f"method-{number}")
    assert len(meter.requests()) == METHODS


def test_quantiles_are_of_the_last_durations() -> None:
    meter = Meter()
    for took in range(10_000, 0, -1):
        meter.ended(took / 1000, failed=False)
    assert meter.latency() == {"p50": 0.128, "p95": 0.243, "p99": 0.253}
