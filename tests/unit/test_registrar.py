"""When an instance renews its lease. The bucket is a fake."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace
from typing import cast
from unittest.mock import AsyncMock

import pytest

from actors.mailbox import Mailbox
from actors.registry.messages import Registration
from actors.registry.registrar import Registrar
from actors.selfreport import SelfReport
from bus.connection import Connection
from bus.settings import Settings
from tests.eventually import eventually


async def test_what_changes_is_told_at_once_and_what_changes_all_the_time_not_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewals: list[float] = []

    async def put(self: Registrar, connection: Connection, expect: int) -> None:
        self._renewed = time.monotonic()
        renewals.append(self._renewed)

    monkeypatch.setattr(Registrar, "_put", put)
    far = SimpleNamespace(settings=Settings(lease_heartbeat=3600.0), on_reconnect=lambda _: None)
    registration = Registration(agent="desk", instance="desk-1", secret="0123456789abcdef")
    registrar = Registrar(cast("Connection", far), registration, dict)
    registrar._revision = 1
    report = SelfReport(Mailbox("desk", concurrency=1, capacity=1), AsyncMock())
    unwatch = report.start(registrar.renew_soon)
    keeping = asyncio.create_task(registrar.keep())
    report.turned()
    await eventually(lambda: renewals)
    until = time.monotonic() + 0.35

    def turn() -> bool:
        registrar.renew_soon()
        return time.monotonic() > until

    await eventually(turn)
    unwatch()
    keeping.cancel()
    await asyncio.wait((keeping,))
    assert 2 <= len(renewals) <= 5, "once in 0.1 s at the most"
    assert min(later - one for one, later in itertools.pairwise(renewals)) >= 0.09
