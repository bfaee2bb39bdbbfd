"""The actor's HTTP port: `/healthz`, `/readyz` and `/metrics`, for whoever keeps the process alive and watches it.

It serves what it is told to, reads no bodies and changes nothing. HTTP/1.1 is parsed and written by h11.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import h11

from bus.errors import ConfigError
from bus.settings import Settings

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds that a request may take to come, and its answer to be read."""
MAX_CONNECTIONS: Final = 32
MAX_HEAD: Final = 8 * 1024
"""Bytes of a request's line and headers."""
LAG_EVERY: Final = 1.0
"""Seconds between two looks at how late the event loop is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "application/json"

    @classmethod
    def of(cls, status: int, **fields: object) -> Answer:
        """One of JSON."""
        return cls(status, json.dumps(fields).encode() + b"\n")


Page = Callable[[str], Answer]
"""Takes the `Accept` header of a request and answers it, at once."""


class Probes:
    """Serves pages by HTTP from `open` to `close`."""

    def __init__(self, settings: Settings, pages: dict[str, Page]) -> None:
        self._address = settings.http_address
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], None] = {}

    @property
    def port(self) -> int:
        """The port that is listened on; 0 while none is."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def open(self) -> None:
        """Listen from now on, if the setting `http` says where.

        Raises:
            ConfigError: nobody can listen there.
        """
        if self._address is None:
            return
        host, port = self._address
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
        except OSError as error:
            raise ConfigError(f"REVO_HTTP={host}:{port}", os.strerror(error.errno or 0).lower()) from error
        log.info("serves /healthz, /readyz and /metrics on http://%s:%d", host, self.port)

    async def close(self) -> None:
        """Listen no more, and cut off who is there."""
        if self._server is None:
            return
        self._server.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            next(iter(self._open)).cancel()  # who has been here longest: a probe that comes must be answered
        self._open[task] = None
        try:
            await self._converse(reader, writer)
            writer.close()
            async with asyncio.timeout(PATIENCE):
                await writer.wait_closed()
        except asyncio.CancelledError:
            log.debug("http: cut off")  # by us; before Python 3.12 asyncio calls that an error of its own
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            log.debug("http: %s", error)
        finally:
            writer.transport.abort()  # what nobody has read by now nobody gets
            del self._open[task]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    request = await _next_request(connection, reader)
            except h11.RemoteProtocolError as error:
                writer.write(_response(connection, Answer.of(error.error_status_hint, error=str(error)), "GET"))
                return
            if request is None:
                return
            method, answer = request.method.decode(), self._answer(request)
            writer.write(_response(connection, answer, method))
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return  # it said `close`, or sends a body that nobody reads
            connection.start_next_cycle()

    def _answer(self, request: h11.Request) -> Answer:
        path = request.target.decode("ascii", "replace").partition("?")[0]
        page = self._pages.get(path)
        if page is None:
            return Answer.of(404, error=f"there is no {path[:200]}", paths=sorted(self._pages))
        if request.method not in (b"GET", b"HEAD"):
            return Answer.of(405, error="only GET and HEAD are answered")
        accept = next((value for name, value in request.headers if name == b"accept"), b"")
        return page(accept.decode("latin-1"))


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request, once all of it is there; None when there is none. A body is left unread."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request = event
            connection.next_event()  # its end, if it has no body
            return request
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_HEAD))
        else:
            return None


def _response(connection: h11.Connection, answer: Answer, method: str) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
    ]
    if answer.status == 405:
        headers.append(("Allow", "GET, HEAD"))
    parts = [connection.send(h11.Response(status_code=answer.status, headers=headers))]
    if method != "HEAD":
        parts.append(connection.send(h11.Data(data=answer.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


def watch_lag(note: Callable[[float], None]) -> Callable[[], None]:
    """Have `note` told once a second how late the event loop is, in seconds; returns what ends it."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def look(due: float) -> None:
        nonlocal timer
        note(max(0.0, loop.time() - due))
        again = loop.time() + LAG_EVERY
        timer = loop.call_at(again, look, again)

    first = loop.time() + LAG_EVERY
    timer = loop.call_at(first, look, first)

    def end() -> None:
        if timer is not None:
            timer.cancel()

    return end
