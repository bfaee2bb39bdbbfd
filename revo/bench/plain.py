"""The same work in plain nats-py, as short as it can be done durably: what the mesh is compared with.

A process of its own does the work: `python -m revo.bench.plain URL`. The only module above `bus` that knows NATS.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import nats
import nats.errors
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

from bus.child import PIPE, Child
from bus.settings import Settings
from revo.bench.echo import IN_FLIGHT

STREAM: Final = "PLAIN"
SUBJECT: Final = "plain.task"
ASKED: Final = "plain.ask"
SAID: Final = "plain.said"
CONSUMER: Final = "plain"
REPLY: Final = "Reply"
BODY: Final = b"x" * 1024
DUPLICATE_WINDOW: Final = 120.0


async def work(url: str) -> None:
    """Do tasks until the process is killed: fetch, run, reply, ack."""
    client = await nats.connect(url)
    jetstream = client.jetstream()

    async def answer(message: Msg) -> None:
        await client.publish(message.reply, message.data)

    await client.subscribe(ASKED, cb=answer)
    await asyncio.sleep(0)  # as in `heard`
    await client.flush()
    pulling = await jetstream.pull_subscribe_bind(consumer=CONSUMER, stream=STREAM)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        try:
            messages = await pulling.fetch(IN_FLIGHT, timeout=2)
        except (TimeoutError, nats.errors.TimeoutError):
            continue
        for message in messages:
            assert message.headers is not None
            await client.publish(message.headers[REPLY], message.data)
            await message.ack()


class Plain:
    """A client with a worker process at the other end."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jetstream: JetStreamContext = client.jetstream()
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._inbox = client.new_inbox()

    async def open(self) -> None:
        """Make the stream as ours is, and listen to replies."""
        settings = Settings.from_env()
        config = StreamConfig(
            name=STREAM,
            subjects=[SUBJECT],
            retention=RetentionPolicy.WORK_QUEUE,
            duplicate_window=DUPLICATE_WINDOW,
            max_bytes=settings.tasks_max_bytes,
        )
        await self.jetstream.add_stream(config)
        consumer = ConsumerConfig(durable_name=CONSUMER, ack_wait=settings.ack_wait, max_ack_pending=-1)
        await self.jetstream.add_consumer(STREAM, consumer)
        await self.client.subscribe(f"{self._inbox}.*", cb=self._on_reply)

    async def _on_reply(self, message: Msg) -> None:
        self._waiting.pop(message.subject.rpartition(".")[2]).set_result(message.data)

    async def task(self) -> None:
        """One task, there and back."""
        task_id = secrets.token_hex(16)
        future = self._waiting[task_id] = asyncio.get_running_loop().create_future()
        headers = {"Nats-Msg-Id": task_id, REPLY: f"{self._inbox}.{task_id}"}
        await self.jetstream.publish(SUBJECT, BODY, headers=headers)
        await future

    async def ask(self) -> None:
        """One request."""
        await self.client.request(ASKED, BODY, timeout=5)

    async def publish_async(self, count: int) -> float:
        """Store so many messages with dedup ids, as nats-py does it fastest; returns the seconds that it took."""
        await self.jetstream.purge_stream(STREAM)
        began = time.perf_counter()
        futures = [
            await self.jetstream.publish_async(SUBJECT, BODY, headers={"Nats-Msg-Id": secrets.token_hex(16)})
            for _ in range(count)
        ]
        await asyncio.gather(*futures)
        return time.perf_counter() - began


async def drained(url: str, count: int) -> float:
    """Fill one queue, then take and ack all of it by `fetch`; returns messages a second."""
    client = await nats.connect(url)
    try:
        made = Plain(client)
        await made.open()
        await made.publish_async(count)
        pulling = await made.jetstream.pull_subscribe_bind(consumer=CONSUMER, stream=STREAM)
        began, taken = time.perf_counter(), 0
        while taken < count:
            for message in await pulling.fetch(IN_FLIGHT, timeout=2):
                await message.ack()
                taken += 1
        await client.flush()
        return count / (time.perf_counter() - began)
    finally:
        await client.close()


async def heard(url: str, count: int, pause: float) -> list[float]:
    """Publish so many messages with pauses (seconds) and hear them; returns the seconds that each took."""
    speaker, listener = await nats.connect(url), await nats.connect(url)
    times: list[float] = []
    all_there = asyncio.Event()

    async def hear(message: Msg) -> None:
        times.append(time.monotonic() - float(message.data))
        if len(times) == count:
            all_there.set()

    try:
        await listener.subscribe(SAID, cb=hear)
        await asyncio.sleep(0)  # nats-py's flush writes PING before a SUB that is pending; then the first is not heard
        await listener.flush()
        for _ in range(count):
            await speaker.publish(SAID, b"%.9f" % time.monotonic())
            await asyncio.sleep(pause)
        await all_there.wait()
    finally:
        await speaker.close()
        await listener.close()
    return times


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Plain]:
    """A connected client, and its worker in a process of its own."""
    client = await nats.connect(url)
    made = Plain(client)
    await made.open()
    try:
        async with worker_process(url):
            yield made
    finally:
        await client.close()


@asynccontextmanager
async def worker_process(url: str) -> AsyncIterator[None]:
    """A worker in a process of its own, ready."""
    worker = await Child.start([sys.executable, "-m", "revo.bench.plain", url], stdout=PIPE)
    try:
        assert worker.stdout is not None
        await worker.stdout.readline()
        yield
    finally:
        worker.signal(signal.SIGKILL)
        await worker.wait()
        await worker.finish()


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1]))
