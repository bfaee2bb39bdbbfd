"""Requests in flight on one connection: who waits for which reply, until when, and what ends all of them at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import NamedTuple

from bus.alarms import Alarm, Alarms
from bus.errors import BusError, ConnectionLostError, NoRespondersError, RequestTimeoutError
from bus.wire import Message


class _Call(NamedTuple):
    future: asyncio.Future[Message]
    subject: str
    alarm: Alarm | None


class Calls:
    """The calls of one connection. Each has a token, the last one of the subject that its reply comes on."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._pending: dict[str, _Call] = {}
        self._tokens: list[str] = []

    def new_token(self) -> str:
        """A token for the next call. Nobody can guess it: who was asked once knows what our inbox is called, and could
        send answers that are not his to calls that he can name.
        """
        if not self._tokens:
            drawn = os.urandom(8 * 256).hex()
            self._tokens.extend(drawn[start : start + 16] for start in range(0, len(drawn), 16))
        return self._tokens.pop()

    def add(self, token: str, subject: str, timeout: float | None) -> asyncio.Future[Message]:
        """A call that is in flight from now on; the future is done with the reply, or with what went wrong.

        It fails after `timeout` seconds, and at once when the connection is lost. Without a time-out it has no reply,
        and `drop` ends it.
        """
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        alarm = None if timeout is None else self._alarms.set(timeout, lambda: self._time_out(token, timeout))
        self._pending[token] = _Call(future, subject, alarm)
        return future

    def drop(self, token: str) -> None:
        """Nobody waits for it any more."""
        self._take(token)

    def on_reply(self, message: Message) -> None:
        """A reply has come; one that came too late, or twice, is left out."""
        call = self._take(message.subject.rpartition(".")[2])
        if call is None or call.future.done():
            return
        if message.head and not message.data and message.headers.get("Status") == "503":
            call.future.set_exception(NoRespondersError(call.subject))
        else:
            call.future.set_result(message)

    def fail_all(self, why: BusError | None) -> None:
        """No reply will come to any of them: for this reason, or because the connection is lost."""
        for token in list(self._pending):
            call = self._take(token)
            if call is not None and not call.future.done():
                call.future.set_exception(why or ConnectionLostError(call.subject))

    def fail(self, subject: str, error: Callable[[str], BusError]) -> bool:
        """Fail the calls on a subject, whose case is not known, with an error for their own; whether there are any."""
        found = False
        for call in list(self._pending.values()):
            if call.subject.lower() == subject.lower():
                found = True
                if not call.future.done():
                    call.future.set_exception(error(call.subject))
        return found

    def _take(self, token: str) -> _Call | None:
        call = self._pending.pop(token, None)
        if call is not None and call.alarm is not None:
            call.alarm.clear()
        return call

    def _time_out(self, token: str, seconds: float) -> None:
        call = self._take(token)
        if call is not None and not call.future.done():
            call.future.set_exception(RequestTimeoutError(call.subject, seconds))
