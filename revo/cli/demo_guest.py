"""The guest of `revo demo`: an agent that is not ours, and speaks the Synadia Agent Protocol in plain nats-py.

It is a program of `examples`, beside the sources. Where Revo is installed without them the demo has no guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from actors.keyring import Keyring
from bus import events, roles
from bus.child import Child
from bus.grants import Wish
from bus.mesh import Handle, Mesh
from bus.messages import Result

PROGRAM: Final = Path(__file__).parents[2] / "examples" / "foreign_agent.py"
NAME: Final = "summarizer"
"""What the program calls itself."""
EVERY: Final = 10
"""Of so many files it gets one."""
LARGEST: Final = 100_000
"""Bytes of a file that is sent as text."""
DEADLINE: Final = 60.0
"""Seconds after which a steward ends its tasks, should it never come."""
_PATIENCE: Final = 10.0
"""Seconds until it is met. Nothing is lost without: its tasks wait for it."""
_REFUSED: Final = "400"
"""What it says to source that is not Python."""


def is_there() -> bool:
    """Whether the program is, and can sign the server's challenge: nats-py leaves that to a package of its own."""
    return PROGRAM.is_file() and importlib.util.find_spec("nkeys") is not None


def let_in(keyring: Keyring) -> None:
    """Make it a user who may take prompts under its own name, and nothing else."""
    keyring.ensure(NAME, roles.FOREIGN, Wish())


async def start(stack: AsyncExitStack, url: str, keyring: Keyring) -> None:
    """Start its process, which ends with the stack. It hears what any program is told: a URL and a key."""
    env = {**os.environ, "NATS_URL": url, "NATS_NKEY": str(keyring.path(NAME))}
    child = await Child.start([sys.executable, str(PROGRAM)], env=env, stderr=sys.stderr.fileno())
    stack.push_async_callback(child.finish)


async def met(mesh: Mesh) -> str:
    """Its instance, once a bridge has met it and does its tasks; empty when none has in 10 s."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE), events.follow(mesh.connection, since=0.0) as happening:
            async for event in happening:
                if (event.agent, event.what) == (NAME, "registered"):
                    return event.name
    return ""


def share(files: Sequence[Path]) -> list[Path]:
    """The files that it gets."""
    return [path for path in files if 0 < path.stat().st_size <= LARGEST][::EVERY]


async def submit(mesh: Mesh, files: Sequence[Path]) -> list[Handle]:
    """A task for each file, by the name of the agent: as durable as any."""
    return [await mesh.submit(f"@{NAME}", {"prompt": _text(path)}, deadline=DEADLINE) for path in files]


def answered(results: Sequence[Result]) -> int:
    """How many of its tasks it answered: with a summary, or by refusing what is not Python."""
    own = [result for result in results if result.capability == f"@{NAME}"]
    return sum(one.status == "succeeded" or (one.error is not None and one.error.code == _REFUSED) for one in own)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")
