"""Who is gone, by what a bridge has heard, and whether it has listened."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.bridge.foreigners import LATE, Foreign, Foreigners


class Wires:
    is_connected = True

    def on_reconnect(self, _: Any) -> None:
        """It is never lost."""


@pytest.fixture
def gone() -> list[str]:
    return []


@pytest.fixture
def foreigners(gone: list[str]) -> Foreigners:
    made = Foreigners(
        cast("Any", Wires()), cast("Any", None), spawn=lambda work: work.close(), changed=lambda: gone.append("changed")
    )
    for name in ("here", "silent"):
        info = SimpleNamespace(agent=name, instance=name, prompt=name)
        made._known[name] = Foreign(cast("Any", info), time.monotonic() - 60.0, 60.0 if name == "here" else 1.0)
    return made


def test_who_is_silent_for_two_of_his_heartbeats_is_gone(foreigners: Foreigners, gone: list[str]) -> None:
    foreigners.forget_the_silent(LATE)
    assert [one.agent for one in foreigners.alive()] == ["here"]
    assert gone == ["changed"]


def test_a_bridge_that_looks_late_takes_nobody_for_gone_and_begins_anew(foreigners: Foreigners) -> None:
    foreigners.forget_the_silent(2.5)
    assert len(foreigners.alive()) == 2, "what they said meanwhile has not been read"
    foreigners.forget_the_silent(0.0)
    assert len(foreigners.alive()) == 2
    for one in foreigners._known.values():
        one.heard -= 200.0
    foreigners.forget_the_silent(0.0)
    assert foreigners.alive() == []
