"""An agent that says how far it is, shows what it has and keeps it; and how a test has one in its own process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actors.actor import Agent, TaskContext, handlers, task
from actors.mailbox import Mailbox
from actors.runtime import Threads, task_handler
from bus.following import Item, Lost
from bus.worker import Worker
from tests.conftest import StartWorker

WOKEN = 20
"""Chunks that a run shows when it goes on: more than a successor may have shown by then."""


class Story(BaseModel):
    """Of so many pages. The first run holds before it has saved page `hold`, the second three pages later, and so on,
    `holds` times in all, until SIGUSR1.
    """

    pages: int = 10
    hold: int = 3
    holds: int = 0
    journal: str = ""


class Place(BaseModel):
    pages: int = 0


class Teller(Agent):
    """Tells a story page by page."""

    concurrency = 4

    async def on_start(self) -> None:
        self.go = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.go.set)

    @task("tell", saves=Place, ack_wait=1.0, backoff=0.05, time_limit=60.0)
    async def tell(self, story: Story, context: TaskContext) -> int:
        place = context.saved or Place()
        for page in range(place.pages, story.pages):
            write(story.journal, f"page {page} {os.getpid()}")
            context.emit({"page": page, "pid": os.getpid()})
            await context.progress((page + 1) / story.pages, f"page {page}")
            held = len([line for line in read(story.journal) if line[0] == "hold"])
            if held < story.holds and page == story.hold + 3 * held:
                write(story.journal, f"hold {page} {os.getpid()}")
                await self.go.wait()
                for _ in range(WOKEN):
                    context.emit({"page": page, "pid": os.getpid()})
            await context.save(Place(pages=page + 1))
        return story.pages


class Speech(BaseModel):
    of: str = "words"


SPEECHES: dict[str, tuple[list[Any], Any]] = {
    "words": (["Act 3\n", "To be", ", or ", "not to be", "\nthat is ", "the question"], "Hamlet"),
    "bytes": (
        [b"\xff", {"raw": [b"\xff"], "share": float("nan")}],
        {"raw": {"deep": b"\xff\xfe"}, "far": float("inf")},
    ),
    "raw": ([], b"\xff"),
}
"""What is shown of each, piece by piece, and what is returned."""


class Speaker(Teller):
    """Tells stories, and has speeches that know no lines."""

    @task("speak", time_limit=60.0)
    async def speak(self, speech: Speech, context: TaskContext) -> Any:
        pieces, value = SPEECHES[speech.of]
        for n, piece in enumerate(pieces, 1):
            await context.emit(piece)
            await context.progress(n / len(pieces), f"piece {n}")
        return value


def numbers(items: list[Item]) -> list[int]:
    """The numbers of what was said, and of what is gone."""
    found: list[int] = []
    for item in items:
        found += range(item.first, item.last + 1) if isinstance(item, Lost) else [item.number]
    return found


def write(journal: str, line: str) -> None:
    if journal:
        with Path(journal).open("a") as file:
            file.write(f"{line}\n")


def read(journal: str | Path) -> list[list[str]]:
    path = Path(journal)
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


async def serve(start_worker: StartWorker, agent: type[Agent], **how: Any) -> Worker:
    """Run an agent's one capability in this process."""
    actor = agent()
    (handler,) = handlers(agent)
    threads, mailbox = Threads(agent.name, 4), Mailbox(agent.name, concurrency=4, capacity=10)
    call = task_handler(actor, handler, mailbox, threads)
    return await start_worker(call, capability=handler.name, raw=True, saves=handler.saves is not None, **how)
