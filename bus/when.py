"""When a task is to be done that is not to be done now: what a caller says, checked, as the server takes it."""

from __future__ import annotations

import datetime
import functools
import math
import time
from typing import Final, NamedTuple

from bus.cron import Cron, time_zone
from bus.errors import ConfigError

MAX_AHEAD: Final = 10 * 366 * 86400.0
"""Seconds that a time may lie ahead."""

Time = datetime.datetime | float | str
Span = datetime.timedelta | float
_UTC: Final = datetime.UTC


class When(NamedTuple):
    """When something is due, as the server takes it."""

    text: str
    """`@at 2026-11-22T08:00:00.000000Z`, `@every 5s`, a cron pattern of six fields or `@daily` and its like."""
    zone: str = ""
    span: float | None = None
    """Seconds from now, if that was said: whoever has the server's clock reckons with it."""

    @property
    def once(self) -> bool:
        """Whether it is due only once."""
        return self.text.startswith("@at ")

    def after(self, then: float, *, base: float = 0.0) -> float | None:
        """The first time after `then`, in unix seconds, that it is due; None: never. What is due every so often is so
        counted from `base`, when it was last or when it began.
        """
        kind, _, rest = self.text.partition(" ")
        if kind == "@at":
            at = datetime.datetime.fromisoformat(rest).timestamp()
            return at if at > then else None
        if kind == "@every":
            every = float(rest[:-1])
            start = math.floor(base + 0.5)  # the server keeps whole seconds
            return start + every * max(1.0, math.floor((then - start) / every) + 1)
        due = _cron(self.text, self.zone).after(datetime.datetime.fromtimestamp(then, _UTC))
        return due.timestamp() if due else None


def when(
    *,
    at: Time | None = None,
    after: Span | None = None,
    every: Span | None = None,
    cron: str | None = None,
    timezone: str | None = None,
) -> When:
    """When it is due, from what a caller says.

    Raises:
        ConfigError: it says nothing, several things at once, or something that the server would refuse.
    """
    said = [
        name for name, value in {"at": at, "after": after, "every": every, "cron": cron}.items() if value is not None
    ]
    if len(said) != 1:
        raise ConfigError(" and ".join(said) or "schedule", "give one of at, after, every and cron")
    if timezone is not None:
        time_zone(timezone)
        if at is None and cron is None:
            raise ConfigError(f"timezone {timezone}", f"means nothing with {said[0]}; it is for cron and at")
    if at is not None:
        return _at(_moment(at, timezone))
    if after is not None:
        seconds = _seconds("after", after, least=0.0)
        return _at(time.time() + seconds)._replace(span=seconds)
    if every is not None:
        seconds = _seconds("every", every, least=1.0)
        if not seconds.is_integer():
            raise ConfigError(f"every {seconds:g}", "is not a whole number of seconds, which is what the server keeps")
        return When(f"@every {int(seconds)}s")
    return When(_cron(cron or "", timezone or "").text, timezone or "")


@functools.lru_cache(maxsize=1024)
def _cron(pattern: str, zone: str) -> Cron:
    """Whether there is a next time is found out once: that takes longer than all else."""
    return Cron(pattern, zone)


def parse(text: str, zone: str) -> When:
    """The same from what stands on the wire.

    Raises:
        ConfigError: the server would refuse it.
    """
    kind, _, rest = text.partition(" ")
    if kind == "@at" and not zone:
        return _at(_moment(rest, None))
    if kind == "@every" and not zone and rest.endswith("s") and rest[:-1].isdigit():
        return when(every=float(rest[:-1]))
    return when(cron=text, timezone=zone or None)


def ahead(span: float, now: float) -> When:
    """What is due so many seconds after `now` (unix seconds), by whosever clock.

    Raises:
        ConfigError: the server would refuse it.
    """
    return _at(now + span)


def _at(moment: float) -> When:
    if not 0 < moment < time.time() + MAX_AHEAD:
        raise ConfigError(f"at {moment:.0f}", "is not a time between 1970 and ten years from now")
    text = datetime.datetime.fromtimestamp(moment, _UTC).isoformat(timespec="microseconds")
    return When(f"@at {text.removesuffix('+00:00')}Z")


def _moment(at: Time, timezone: str | None) -> float:
    """Unix seconds of a time."""
    if isinstance(at, int | float) and not isinstance(at, bool):
        return float(at)
    moment = at
    if isinstance(moment, str):
        try:
            moment = datetime.datetime.fromisoformat(moment)
        except ValueError as error:
            raise ConfigError(f"at {at!r:.40}", "is no time such as 2026-12-24T18:00:00+01:00") from error
    if not isinstance(moment, datetime.datetime):
        raise ConfigError(f"at {at!r:.40}", "is no datetime, unix seconds or text such as 2026-12-24T18:00:00+01:00")
    if moment.tzinfo is None:
        if timezone is None:
            reason = "says no time zone: end it with Z or +01:00, or give one, such as Europe/Berlin"
            raise ConfigError(f"at {moment.isoformat()}", reason)
        moment = moment.replace(tzinfo=time_zone(timezone))
    elif timezone is not None:
        raise ConfigError(f"timezone {timezone}", f"contradicts at {moment.isoformat()}, which says one itself")
    try:
        return moment.timestamp()
    except (OverflowError, ValueError) as error:
        raise ConfigError(f"at {moment!r:.60}", "is too far away") from error


def _seconds(what: str, span: Span, *, least: float) -> float:
    seconds = span.total_seconds() if isinstance(span, datetime.timedelta) else span
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= MAX_AHEAD:
        bounds = "from 1 second" if least else "from 0"
        raise ConfigError(f"{what} {span!r:.40}", f"is not a number of seconds, or a timedelta, {bounds} to ten years")
    return float(seconds)
