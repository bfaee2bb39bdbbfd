"""The way of a message in and out, as short as Python makes it (ADR 10).

nats-py connects, authenticates, reconnects and pings. What it does for each message is replaced here, for that was most
of the time of a task: a regular expression over a buffer that is cut at every message, a queue and a switch of tasks on
the way in; checks and a queue of flushes on the way out. Private parts of nats-py 2.16 are used for it, which
`pyproject.toml` pins. Must not know what travels.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from bus.credentials import Credentials
from bus.errors import ConfigError

log = logging.getLogger(__name__)

_MAX_LINE: Final = 64 * 1024
"""Bytes of one protocol line; a server's INFO may name every server of a large cluster."""
_HIGH_WATER: Final = 1024 * 1024
"""Bytes on their way to the server above which who publishes waits."""
LAZY: Final = 0.002
"""Seconds that a message which nobody waits for may wait for company."""
_END: Final = b"\r\n"
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110, token
_NEWLINES: Final = str.maketrans({"\r": " ", "\n": " "})
_REMEMBERED: Final = 1024
"""Names of headers that need no second look."""


class Message:
    """One message as it arrived."""

    __slots__ = ("_headers", "data", "head", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes = b"") -> None:
        """`head` is its headers as they came."""
        self.subject = subject
        self.reply = reply
        self.data = data
        self.head = head
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Its headers; read when somebody asks, for of many messages nobody does."""
        if self._headers is None:
            self._headers = read_headers(self.head) if self.head else {}
        return self._headers

    def header(self, name: str) -> str:
        """One of them, or an empty text; without reading the others."""
        if self._headers is not None:
            return self._headers.get(name, "")
        start = self.head.find(f"\r\n{name}:".encode())
        if start < 0:
            return ""
        start += len(name) + 3
        return self.head[start : self.head.find(_END, start)].decode(errors="replace").strip()


OnMessage = Callable[[Message], None]
"""Is called in the order of arrival by the loop that reads: it must be quick."""


class WireParser(Parser):
    """Takes message by message out of what one read gave, without moving the rest.

    With the first bytes of a connection it takes the place of its stream reader: messages are handed on as the event
    loop reads them, without a copy or a switch of tasks in between. What is no message goes on to nats-py.
    """

    def __init__(self, client: WireClient) -> None:
        self._client = client
        super().__init__(client)

    def reset(self) -> None:
        """Forget the connection that was lost, and the half of a message that it left behind."""
        self._rest = bytearray()
        self._needed = 0
        self._line = b""
        self._reader: asyncio.StreamReader | None = None

    async def parse(self, data: bytes = b"") -> None:
        """Take what nats-py has read: the first bytes of a connection, and then what is no message.

        Raises:
            ProtocolError: it is not the NATS protocol.
        """
        try:
            await self._parse(data)
        except ValueError as error:
            raise ProtocolError from error  # a number or a JSON that is none

    async def _parse(self, data: bytes) -> None:
        if self._reader is None:
            reader = getattr(self._client._transport, "_io_reader", None)  # noqa: SLF001
            for line in self._messages(data):
                await self._control(line)
            if reader is not None and not reader._buffer:  # noqa: SLF001
                self._take_place_of(reader)
            return
        *lines, self._line = (self._line + data).split(_END)
        for line in lines:
            await self._control(line)

    def _take_place_of(self, reader: asyncio.StreamReader) -> None:
        pass_on = reader.feed_data

        def feed_data(data: bytes) -> None:
            if self._reader is not reader:
                return  # the connection was given up
            try:
                for line in self._messages(data):
                    pass_on(line + _END)
            except (ProtocolError, ValueError):
                pass_on(b"?" + _END)  # nats-py finds out, and reconnects

        self._reader = reader
        reader.feed_data = feed_data  # type: ignore[method-assign, assignment]

    def _messages(self, data: bytes) -> Iterator[bytes]:
        """Hand on every message that is complete; yields the lines that are none."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        rest, needed = self._rest, 0
        position, end = 0, len(data)
        while position < end:
            line_end = data.find(_END, position)
            if line_end < 0:
                if end - position > _MAX_LINE:
                    raise ProtocolError
                break
            if data.startswith((b"MSG ", b"HMSG "), position):
                words = data[position:line_end].split()
                start = line_end + 2
                stop = start + int(words[-1])
                if stop + 2 > end:
                    needed = stop + 2 - position
                    break
                self._client.deliver(words, data, start, stop)
                position = stop + 2
            else:
                yield data[position:line_end]
                position = line_end + 2
        if rest is self._rest:  # otherwise the connection was given up meanwhile
            self._needed = needed
            rest += data[position:]

    async def _control(self, line: bytes) -> None:
        """What the server says that is no message; nats-py knows what to do about it."""
        client, verb = self._client, line[:5].upper()
        if verb.startswith(b"PING"):
            await client._process_ping()  # noqa: SLF001
        elif verb.startswith(b"PONG"):
            await client._process_pong()  # noqa: SLF001
        elif verb.startswith(b"-ERR"):
            await client._process_err(line[5:].decode(errors="replace").strip().lower())  # noqa: SLF001
        elif verb.startswith(b"INFO"):
            await client._process_info(json.loads(line[5:]))  # noqa: SLF001
        elif not verb.startswith(b"+OK"):
            raise ProtocolError


class WireClient(Client):
    """nats-py's client with our way of a message in and out."""

    def __init__(self, credentials: Credentials | None = None, *, secure: bool = False) -> None:
        """`secure`: say nothing before the connection is encrypted."""
        super().__init__()
        self.credentials = credentials
        self.secure = secure
        self._ps = WireParser(self)
        self._handlers: dict[bytes, OnMessage] = {}
        self._writing = False
        self._later: asyncio.TimerHandle | None = None
        self._congested = False

    async def close(self) -> None:
        """Close, in a task of its own: as nats-py gives up to reconnect it may cancel the very future that it waits for
        afterwards, and that must not look as if we had been cancelled (trap 16).
        """
        closing = asyncio.ensure_future(super().close())
        try:
            await asyncio.wait((closing,))
        except asyncio.CancelledError:
            closing.cancel()
            await asyncio.wait((closing,))
            raise
        if not closing.cancelled():
            closing.result()

    def new_inbox(self) -> str:
        """A subject to be answered on. As nats-py's, but nobody can guess it who knows an earlier one."""
        return f"{self._inbox_prefix.decode()}.{secrets.token_hex(16)}"

    def _writer(self) -> asyncio.StreamWriter:
        writer: asyncio.StreamWriter = self._transport._io_writer  # type: ignore[union-attr]  # noqa: SLF001
        return writer

    async def _process_connect_init(self) -> None:
        """As nats-py's, which leaves a connection open that the server, or we, did not want."""
        try:
            await super()._process_connect_init()
        except BaseException:
            self._writer().close()
            raise

    def _connect_command(self) -> bytes:
        """As nats-py's, with our credentials as they stand in their file now.

        Raises:
            nats.errors.Error: their file cannot be read, or nothing is encrypted that should be; nats-py tries again.
        """
        if self.secure and self._writer().get_extra_info("ssl_object") is None:
            # Whoever stands between us and the server can make it seem to speak no TLS.
            raise nats.errors.Error("the server does not speak TLS")
        if self.credentials is not None:
            try:
                key, signature = self.credentials.answer(self._server_info.get("nonce", ""))
            except ConfigError as error:
                raise nats.errors.Error(str(error)) from error
            self._auth_configured = True
            self._public_nkey = key
            self._signature_cb = lambda _: signature.encode()
        return super()._connect_command()

    # --- in -----------------------------------------------------------------------------------------------

    async def listen(self, subject: str, queue: str, handler: OnMessage) -> int:
        """Have `handler` called for every message on a subject, across reconnects; returns the subscription's number.

        Raises:
            nats.errors.ConnectionClosedError: the connection is closed.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        self._sid += 1
        number = self._sid
        self._handlers[b"%d" % number] = handler
        self._subs[number] = subscription = Subscription(self, number, subject, queue=queue)
        await self._send_subscribe(subscription)
        return number

    async def end_interest(self, number: int) -> None:
        """Tell the server to send no more; what it has sent still comes until `forget`."""
        await self._send_unsubscribe(number)

    def forget(self, number: int) -> None:
        """Hand nothing more to the handler."""
        self._handlers.pop(b"%d" % number, None)
        self._remove_sub(number)

    def deliver(self, words: list[bytes], data: bytes, start: int, stop: int) -> None:
        """Hand on one message: `words` are those of its line, and its headers and body stand at `data[start:stop]`."""
        handler = self._handlers.get(words[2])
        if handler is None:
            return  # of a subscription that has ended
        head = b""
        if words[0] == b"HMSG":
            reply = words[3].decode() if len(words) == 6 else ""
            body = start + int(words[-2])
            head = data[start:body]
            start = body
        else:
            reply = words[3].decode() if len(words) == 5 else ""
        try:
            handler(Message(words[1].decode(), reply, data[start:stop], head))
        except Exception:
            # One message that nobody could read must not make the connection deaf.
            log.exception("a message on %s could not be handled", words[1].decode(errors="replace"))

    # --- out ----------------------------------------------------------------------------------------------

    def send(self, subject: str, body: bytes, head: bytes, reply: str, *, lazy: bool = False) -> None:
        """Have one message go out in this turn of the loop; `head` is what `write_headers` made, or empty.

        A `lazy` one goes with the next that is not, or in `LAZY` seconds: each write is a call of the system.

        Raises:
            nats.errors.Error: it cannot be sent.
        """
        if head:
            line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(body)}"
        else:
            line = f"HPUB {subject} {reply} 0 {len(body)}"
        if line.count(" ") != 4 or not subject or not line.isprintable():
            raise nats.errors.BadSubjectError  # a space or a line break in it could smuggle a command
        if not head:
            line = f"PUB {subject} {reply} {len(body)}"
        command = b"%b\r\n%b%b\r\n" % (line.encode(), head, body)
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if not self.is_connected and self._pending_data_size + len(command) > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        self._pending.append(command)
        self._pending_data_size += len(command)
        if lazy:
            if self._later is None and not self._writing:
                self._later = asyncio.get_running_loop().call_later(LAZY, self._write)
        elif not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """Write what has gathered in this turn. While the connection is lost it stays, for nats-py to send."""
        self._writing = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        writer = getattr(self._transport, "_io_writer", None)
        if not self._pending or not self.is_connected or writer is None:
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        writer.write(b"".join(pending))
        self._congested = writer.transport.get_write_buffer_size() > _HIGH_WATER

    def forget_unsent(self) -> None:
        """Let what was to be sent after a reconnect go: nats-py would write it to the lost connection as it closes."""
        self._pending, self._pending_data_size = [], 0

    @property
    def congested(self) -> bool:
        """Whether more is on its way to the server than it takes."""
        return self._congested or self._pending_data_size > _HIGH_WATER

    async def relieved(self) -> None:
        """Return when the server has taken most of what was on its way, or the connection is lost."""
        if self.is_connected and self._transport is not None:
            self._write()
            try:
                await self._transport.drain()
            except (OSError, RuntimeError) as error:
                log.debug("lost while it was congested: %s", error)  # whoever reads finds out, and reconnects
        self._congested = False


_known_names: dict[str, str] = {}
"""How a header's name is read: stripped, or empty when it is none."""


def read_headers(raw: bytes) -> dict[str, str]:
    """Headers as they stand in a message, and the status in its first line as `Status` and `Description`.

    As nats-py reads them: bytes that are not UTF-8 are replaced, a name that is no token is left out.
    """
    first, *lines = raw.decode(errors="replace").split("\r\n")
    headers: dict[str, str] = {}
    if len(first) > 8:
        status, _, description = first[8:].strip().partition(" ")
        if status.isdigit():
            headers["Status"] = status
        if description:
            headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            known = _known_names.get(name)
            if known is None:
                known = _learn(name)
            if known:
                headers[known] = value.strip()
    return headers


def _learn(name: str) -> str:
    stripped = name.strip()
    known = stripped if stripped.isascii() and not any(sign.isspace() for sign in stripped) else ""
    if len(_known_names) < _REMEMBERED:
        _known_names[name] = known
    return known


def write_headers(headers: Mapping[str, Any]) -> bytes:
    """Headers as they go out. A line break in a value becomes a space: no value can begin another header.

    Raises:
        nats.errors.BadHeaderError: a name is not a token.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        text = "".join([f"{name}: {value.translate(_NEWLINES)}\r\n" for name, value in headers.items()])
    if not _known_good.issuperset(headers):
        _check_names(headers)
    return b"NATS/1.0\r\n%b\r\n" % text.encode(errors="replace")


_known_good: set[str] = set()


def _check_names(headers: Mapping[str, Any]) -> None:
    for name in headers:
        if not _NAME.match(name):
            raise nats.errors.BadHeaderError(name)
        if len(_known_good) < _REMEMBERED:
            _known_good.add(name)
