"""The storms fall on a server that knows users; the agent and the client have accounts of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.server import Server
from bus.settings import Settings
from tests.guarded import Guarded, at_work


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with at_work(tmp_path, "chaotic", "chaos") as running:
        yield running


@pytest.fixture
def server(here: Guarded) -> Server:
    return here.server


@pytest.fixture
def settings(here: Guarded) -> Settings:
    return here.settings("operator")
