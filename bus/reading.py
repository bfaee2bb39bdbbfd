"""Reads what streams hold, in bulk: by sequences, or all since a time. Complete, whichever copy of a stream answers."""

from __future__ import annotations

import asyncio
import datetime
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from bus import jetstream, subjects
from bus.connection import Connection
from bus.errors import RequestTimeoutError, ServerError
from bus.wire import Message

_BATCH: Final = 1000
_BATCH_BYTES: Final = 8 * 1024 * 1024
_NAMED: Final = 500
"""Subjects that are asked for at once; the server takes 1,024."""
_PULLED: Final = 500
"""Messages, and bytes, of one direct read; messages of one pull."""


class Behind:
    """Tells a reader that has come to an end whether it read a copy that is behind the stream's leader.

    Consumers and direct reads may be served by any copy, and one that has just been started is behind for a while.
    """

    def __init__(
        self, connection: Connection, stream: str, last: int, *, subject: str = ">", since: float = 0.0
    ) -> None:
        """What is after sequence `last`, or was stored before `since` (unix seconds), is not missed."""
        self._connection = connection
        self._stream = stream
        self._last = last
        self._subject = subject
        self._since_ns = int(since * 1e9)
        self._seen = 0
        self._until = 0.0

    async def check(self, following: int) -> bool:
        """Whether the leader has something from sequence `following` on. Then it waits a moment: the copy may get it.

        Raises:
            RequestTimeoutError: the copy does not catch up.
        """
        missed = await jetstream.after(self._connection, self._stream, following, self._subject)
        if missed is None or missed.sequence > self._last or missed.stored_at_ns < self._since_ns:
            return False
        now, patience = asyncio.get_running_loop().time(), self._connection.settings.publish_timeout
        if following > self._seen:
            self._seen, self._until = following, now + patience  # it moves
        elif now > self._until:
            raise RequestTimeoutError(f"{self._stream} (its copies are behind)", patience)
        await asyncio.sleep(0.1)
        return True


async def scan(
    connection: Connection,
    stream: str,
    first: int,
    last: int,
    *,
    subject: str = "",
    patience: float | None = None,
) -> AsyncGenerator[jetstream.StoredMessage, None]:
    """What a stream holds from one sequence to another, both included, in order, or what it holds on a subject
    (wildcards allowed); the stream allows direct reads.

    Read in batches, without a consumer, 35,000 messages a second. What comes or goes meanwhile may be in it or not;
    what stood there before and still stands is in it, whichever copy was read.
    `patience` is seconds without an answer; by default the setting `request_timeout`.

    Raises:
        ConnectionLostError: at once, when the connection is lost.
        RequestTimeoutError: no answer, or the copies stay behind the leader.
    """
    first = max(1, first)  # of an empty stream it is 0
    if first > last:
        return
    behind = Behind(connection, stream, last, subject=subject or ">")
    async with _arrivals(connection, stream, patience) as arrived:
        while first <= last:
            request: dict[str, int | str] = {"batch": min(_BATCH, last - first + 1), "seq": first}
            request |= {"max_bytes": _BATCH_BYTES, **({"next_by_subj": subject} if subject else {})}
            await connection.publish(
                subjects.api("DIRECT.GET", stream), json.dumps(request).encode(), reply=arrived.inbox
            )
            left = 0
            while True:
                message = await arrived.next()
                headers = message.headers
                if headers.get("Status") and "Nats-Sequence" not in headers:
                    _check_end(headers, stream)
                    break
                found = jetstream.direct(message)
                left, first = int(headers.get("Nats-Num-Pending", 0)), found.sequence + 1
                if found.sequence > last:
                    return
                yield found
            if not left and first <= last and not await behind.check(first):
                return


async def subjects_in(connection: Connection, stream: str, pattern: str) -> list[str]:
    """The subjects that a stream holds something on and that match a pattern, as its leader has it, in no order."""
    return list(await counts_in(connection, stream, pattern))


async def counts_in(connection: Connection, stream: str, pattern: str) -> dict[str, int]:
    """How many messages a stream holds on each subject that matches a pattern and has one, as its leader has it."""
    found: dict[str, int] = {}
    while True:
        body = {"subjects_filter": pattern, "offset": len(found)}
        info = await jetstream.call(connection, "STREAM.INFO", stream, body=body)
        more = info["state"].get("subjects") or {}
        found |= more
        if not more or len(found) >= int(info.get("total", 0)):
            return found


async def latest(
    connection: Connection, stream: str, wanted: Sequence[str], *, patience: float | None = None
) -> AsyncGenerator[jetstream.StoredMessage, None]:
    """The newest message on each of these subjects that has one, in no order; the stream allows direct reads.

    What one copy does not have the leader is asked for. What comes meanwhile may be in it or not. `patience`
    is as in `scan`.

    Raises:
        ConnectionLostError, RequestTimeoutError: as in `scan`.
    """
    async with _arrivals(connection, stream, patience) as arrived:
        for start in range(0, len(wanted), _NAMED):
            missing, more = dict.fromkeys(wanted[start : start + _NAMED]), True
            while missing and more:
                request = {"multi_last": list(missing), "max_bytes": _BATCH_BYTES}
                await connection.publish(
                    subjects.api("DIRECT.GET", stream), json.dumps(request).encode(), reply=arrived.inbox
                )
                more = False
                while "Nats-Sequence" in (message := await arrived.next()).headers:
                    found, more = jetstream.direct(message), True
                    missing.pop(found.subject, None)
                    yield found
                _check_end(message.headers, stream)
                more = more and int(message.headers.get("Nats-Num-Pending", 0)) > 0
            for subject in missing if connection.clustered else ():
                late = await jetstream.last(connection, stream, subject)
                if late is not None:
                    yield late


class _Arrivals:
    """Messages of an answer as they come to an inbox, for as long as the connection lasts."""

    def __init__(self, connection: Connection, what: str, lost: asyncio.Future[Message], patience: float) -> None:
        """`lost` fails when the connection is lost. `patience`: seconds for one message."""
        self._what = what
        self._lost = lost
        self._patience = patience
        self._arrived: deque[Message] = deque()
        self._news = asyncio.Event()
        self.inbox = connection.client.new_inbox()
        lost.add_done_callback(self._wake)

    def put(self, message: Message) -> None:
        """One has come."""
        self._arrived.append(message)
        self._news.set()

    def _wake(self, _: object) -> None:
        self._news.set()

    async def next(self) -> Message:
        """The next one.

        Raises:
            ConnectionLostError: at once; what was asked is not answered after a reconnect.
            RequestTimeoutError: none came.
        """
        while not self._arrived:
            if self._lost.done():
                self._lost.result()
            self._news.clear()
            try:
                async with asyncio.timeout(self._patience):
                    await self._news.wait()
            except TimeoutError:
                raise RequestTimeoutError(self._what, self._patience) from None
        return self._arrived.popleft()


@asynccontextmanager
async def _arrivals(connection: Connection, what: str, patience: float | None = None) -> AsyncIterator[_Arrivals]:
    """An inbox; `patience` is by default the setting `request_timeout`."""
    seconds = connection.settings.request_timeout if patience is None else patience
    with connection.unbroken(what) as lost:
        arrivals = _Arrivals(connection, what, lost, seconds)
        subscription = await connection.subscribe(arrivals.inbox, arrivals.put)
        try:
            yield arrivals
        finally:
            await subscription.drain()


@asynccontextmanager
async def _consuming(connection: Connection, stream: str, consumer: str) -> AsyncIterator[_Arrivals]:
    try:
        async with _arrivals(connection, stream) as arrived:
            yield arrived
    finally:
        if connection.is_connected:  # otherwise it goes by itself
            await jetstream.call(connection, "CONSUMER.DELETE", stream, consumer)


def _check_end(headers: Mapping[str, str], stream: str) -> None:
    status = headers["Status"]
    if status == "503":
        raise jetstream.JetStreamBusyError(
            stream, "it allows no direct reads, or has no leader; `revo doctor` tells which"
        )
    if status not in ("204", "404"):
        raise ServerError(stream, f"direct read refused: {status} {headers.get('Description', '')}")


async def stored_since(
    connection: Connection, stream: str, since: float, *, subject: str = "", headers_only: bool = False
) -> AsyncGenerator[Message, None]:
    """What a stream has stored from a time on until now, in order. Reads by a consumer that goes by itself.

    `since` is unix seconds; `subject` may hold wildcards and is all by default. Whichever copy is read, what the leader
    had when this was called is in it.

    Raises:
        RequestTimeoutError: no answer, or the copy that is read stays behind the leader.
    """
    name = f"read-{secrets.token_hex(8)}"
    start = datetime.datetime.fromtimestamp(max(0.0, since), datetime.UTC).isoformat()
    config = {
        "name": name,
        "deliver_policy": "by_start_time",
        "opt_start_time": start,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "headers_only": headers_only,
        "inactive_threshold": 30_000_000_000,
        **({"filter_subject": subject} if subject else {}),
    }
    body = {"stream_name": stream, "config": config, "action": "create"}
    names = (stream, name, subject) if subject else (stream, name)
    info = await jetstream.call(connection, "STREAM.INFO", stream)
    behind = Behind(connection, stream, int(info["state"]["last_seq"]), subject=subject or ">", since=since)
    await jetstream.call(connection, "CONSUMER.CREATE", *names, body=body)
    request = json.dumps({"batch": _PULLED, "no_wait": True}).encode()
    following = 1
    async with _consuming(connection, stream, name) as arrived:
        while True:
            await connection.publish(subjects.api("CONSUMER.MSG.NEXT", stream, name), request, reply=arrived.inbox)
            for _ in range(_PULLED):
                message = await arrived.next()
                if not message.reply:  # 404 or 408: that was all
                    break
                following = subjects.parse_ack(message.reply).sequence + 1
                yield message
            else:
                continue
            if not await behind.check(following):
                return
