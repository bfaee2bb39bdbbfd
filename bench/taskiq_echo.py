"""The echo in taskiq over NATS JetStream: its durable broker and the result backend that it has."""

from __future__ import annotations

import os

from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

URL = os.environ["BENCH_NATS_URL"]

broker = PullBasedJetStreamBroker(
    [URL], durable="bench", pull_consume_batch=64, pull_consume_timeout=0.2
).with_result_backend(NATSObjectStoreResultBackend([URL]))


@broker.task
async def echo(text: str) -> str:
    return text
