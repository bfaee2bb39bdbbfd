"""What a client keeps of those that it asks: breakers, and views. The connection is a fake."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bus import codec, views
from bus.asking import Asker
from bus.connection import Connection
from bus.errors import BreakerOpenError, NoRespondersError, PermissionDeniedError, RemoteError
from bus.lines import MOST, Lines
from bus.messages import CONTENT_TYPE, MSGPACK
from bus.replies import failure
from bus.settings import Settings
from bus.telemetry import Telemetry
from bus.wire import Message
from tests.eventually import eventually

DENIED = "revo.registry.suspect.secret.*"


class FakeConnection:
    """Answers by a table of services: with a value, an error as it comes over the wire, or nobody does."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.caller = self.user = ""
        self.restricted = False
        self.credentials = None
        self.is_connected = True
        self.answers: dict[str, object] = {"revo-registry": {"instances": [], "more": False}}
        self.heard: list[str] = []
        """What is subscribed to."""

    def on_reconnect(self, _: Callable[[], Any]) -> None:
        """It never is lost."""

    forget = on_reconnect

    async def subscribe(self, subject: str, _: Callable[[Message], None]) -> SimpleNamespace:
        if subject == DENIED:
            raise PermissionDeniedError("subscribe to", subject)
        self.heard.append(subject)

        async def drain() -> None:
            self.heard.remove(subject)

        return SimpleNamespace(drain=drain)

    async def request(self, subject: str, body: bytes, headers: dict[str, str], *, timeout: float) -> Message:
        service = subject.split(".")[2]
        if service not in self.answers:
            raise NoRespondersError(subject)
        answer = self.answers[service]
        if isinstance(answer, BaseException):
            return message("", *failure(answer, MSGPACK))
        return message("", codec.encode(answer), {CONTENT_TYPE: MSGPACK})


def message(subject: str, body: bytes, headers: dict[str, str]) -> Message:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Message(subject, "", body, f"NATS/1.0\r\n{lines}\r\n".encode())


@pytest.fixture
def far() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
async def asker(far: FakeConnection) -> AsyncIterator[Asker]:
    made = Asker(cast("Connection", far), Telemetry(service="test", instance="test-1"))
    yield made
    await made.close()


async def ask(asker: Asker, service: str, choose: str | None = None) -> Any:
    return await asker.ask(service, "say", {}, timeout=5, choose=choose, key=None, instance=None, retries=0)


async def code_of(asker: Asker, service: str) -> str:
    try:
        return str(await ask(asker, service))
    except (RemoteError, BreakerOpenError, NoRespondersError) as error:
        return error.code


async def test_who_asks_nonsense_shuts_the_method_for_nobody_and_who_cannot_work_does(
    far: FakeConnection, asker: Asker
) -> None:
    far.answers |= {"desk": ValueError("no such customer"), "back": ConnectionRefusedError("its database")}
    turns: list[dict[str, str]] = []
    asker.on_breaker = lambda: turns.append({**asker.breakers()})
    assert {await code_of(asker, "desk") for _ in range(20)} == {"value_error"}
    assert [await code_of(asker, "back") for _ in range(6)][4:] == ["connection_refused_error", "breaker_open"]
    assert asker.breakers() == {"back/say": "open"}
    assert turns == [{"back/say": "open"}], "and who keeps our lease hears of it"


async def test_who_does_not_exist_leaves_nothing_behind(far: FakeConnection, asker: Asker) -> None:
    for number in range(MOST + 100):
        with pytest.raises(NoRespondersError):
            await ask(asker, f"nobody-{number}")
    assert (far.heard, asker._views.there) == ([], {})
    assert len(list(asker._lines)) <= MOST
    with pytest.raises(NoRespondersError):
        await ask(asker, "nobody", "random")
    assert len(far.heard) == 2, "who chooses looks for whom to choose from"
    asker._views.there["nobody"].used -= views.EMPTY
    asker._views._look()
    await eventually(lambda: far.heard == [])


async def test_a_view_is_opened_by_an_answer_and_closed_when_nobody_has_asked_for_long(
    far: FakeConnection, asker: Asker
) -> None:
    far.answers["desk"] = "here"
    assert await ask(asker, "desk") == "here"
    await eventually(lambda: "desk" in asker._views.there)
    assert sorted(far.heard) == ["revo.registry.lease.desk.*", "revo.registry.suspect.desk.*"]
    view = asker._views.there["desk"]
    lease = codec.encode({"state": "ready"})
    view._on_news(message("revo.registry.lease.desk.desk-1", lease, {CONTENT_TYPE: MSGPACK}))
    view.used -= views.KEPT - 10
    asker._views._look()
    assert "desk" in asker._views.there
    await ask(asker, "desk")
    assert time.monotonic() - view.used < 10, "an ask by it keeps it open"
    view.used -= views.KEPT
    asker._views._look()
    await eventually(lambda: far.heard == [])
    await ask(asker, "desk")
    await eventually(lambda: "desk" in asker._views.there)


async def test_no_more_views_are_open_than_there_may_be(
    far: FakeConnection, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MOST", 3)
    for number in range(5):
        far.answers[f"desk-{number}"] = number
        await ask(asker, f"desk-{number}", "random")
    await eventually(lambda: len(far.heard) == 6)
    assert list(asker._views.there) == ["desk-2", "desk-3", "desk-4"]


async def test_a_view_that_is_denied_in_part_leaves_nothing_and_is_not_tried_at_every_ask(
    far: FakeConnection, asker: Asker
) -> None:
    far.answers["secret"] = "here"
    with pytest.raises(PermissionDeniedError):
        await ask(asker, "secret", "random")
    assert far.heard == []
    assert await ask(asker, "secret") == "here"
    assert asker._views._opening == {}


def test_of_too_many_methods_those_are_forgotten_that_were_asked_long_ago_and_have_nothing_to_remember() -> None:
    lines, now = Lines(""), time.monotonic()
    preferred, shut, used = lines.line("desk", "preferred"), lines.line("desk", "shut"), lines.line("desk", "used")
    preferred.preferred = "random"
    for _ in range(5):
        shut.breaker.ended(shut.breaker.admit(now), now, good=False)
    for line in (preferred, shut):
        line.used = 0.0
    used.used = now + 60
    for number in range(MOST + 10):
        lines.line("desk", f"m{number}")
    assert len(list(lines)) <= MOST
    for line in (preferred, shut, used):
        assert lines.line(line.service, line.method) is line
    assert ("desk", "m0") not in lines.there
    assert ("desk", f"m{MOST + 9}") in lines.there
