"""When a cron pattern is due, by the rules of the server that keeps the schedules, so that what it would refuse is
refused here and what is shown as the next time is the next time.

Six fields (seconds first), or the five of `crontab` with seconds 0; or `@hourly`, `@daily`, `@weekly`, `@monthly`,
`@yearly`. Where both the day of the month and the day of the week are restricted, either will do. A time that a
change of clocks leaves out is left out; one that it repeats is due twice.
"""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Iterator
from typing import Final, NamedTuple

from bus.errors import ConfigError

_NAMED: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_YEARS: Final = 5
"""How far the server looks ahead for the next time."""
_MINUTE: Final = datetime.timedelta(minutes=1)


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS: Final = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    _Field("day of the week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


class _Allowed(NamedTuple):
    values: frozenset[int]
    every: bool
    """Whether it is unrestricted, as `*`: then the other field of the two that name a day decides alone."""


class Cron:
    """A pattern that can be due."""

    def __init__(self, pattern: str, zone: str = "") -> None:
        """`zone` is the name of a time zone such as `Europe/Berlin`; by default UTC.

        Raises:
            ConfigError: the server would refuse the pattern or the time zone, or it is never due.
        """
        written = " ".join(pattern.split()) if isinstance(pattern, str) else ""
        fields = _NAMED.get(written, written).split()
        if len(fields) == len(_FIELDS) - 1:
            fields = ["0", *fields]
        if len(fields) != len(_FIELDS):
            reason = "is not 5 fields as in crontab, 6 with seconds first, or a word such as @daily"
            raise ConfigError(f"cron {pattern!r:.80}", reason)
        self._pattern = written
        self.text = written if written in _NAMED else " ".join(fields)
        """As the server takes it."""
        self.zone = zone
        self._zone = time_zone(zone or "UTC")
        self._allowed = [self._read(text, field) for text, field in zip(fields, _FIELDS, strict=True)]
        if self.after(datetime.datetime.now(datetime.UTC)) is None:
            raise ConfigError(f"cron {written!r:.80}", f"is not due within {_YEARS} years")

    def _read(self, text: str, field: _Field) -> _Allowed:
        values: set[int] = set()
        every = False
        for part in filter(None, text.split(",")):
            found, all_ = self._range(part, field)
            values.update(found)
            every |= all_
        return _Allowed(frozenset(values), every)

    def _range(self, part: str, field: _Field) -> tuple[range, bool]:
        span, *steps = part.split("/")
        first, *rest = span.split("-")
        if len(steps) > 1 or len(rest) > 1:
            raise self._wrong(part, field)
        step = self._number(steps[0], field, part) if steps else 1
        if first in ("*", "?"):
            low, high = field.low, field.high
        else:
            low = self._number(first, field, part)
            high = self._number(rest[0], field, part) if rest else field.high if steps else low
        if not (field.low <= low <= high <= field.high and step > 0):
            raise self._wrong(part, field)
        return range(low, high + 1, step), first in ("*", "?") and step == 1

    def _number(self, text: str, field: _Field, part: str) -> int:
        if text.lower() in field.names:
            return field.names.index(text.lower()) + field.low
        if not (text.isascii() and text.isdigit()):
            raise self._wrong(part, field)
        return int(text)

    def _wrong(self, part: str, field: _Field) -> ConfigError:
        hint = "; Sunday is 0" if field.names and field.low == 0 else ""
        reason = f"{part!r:.40} is no {field.name}: {field.low} to {field.high}, as in 3, 1-5, */10 or 1,15{hint}"
        return ConfigError(f"cron {self._pattern!r:.80}", reason)

    def after(self, then: datetime.datetime) -> datetime.datetime | None:
        """The first time after `then` that it is due, in UTC; None: not within five years."""
        seconds, minutes, hours, *_ = (allowed.values for allowed in self._allowed)
        start = then.astimezone(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=1)
        for minute in self._minutes(start):
            local = minute.astimezone(self._zone)
            if local.minute in minutes and local.hour in hours and self._is_day(local.date()):
                first = start.second if minute <= start else 0
                due = min((second for second in seconds if second >= first), default=None)
                if due is not None:
                    return minute + datetime.timedelta(seconds=due)
        return None

    def _minutes(self, start: datetime.datetime) -> Iterator[datetime.datetime]:
        """Every minute from `start` on, in UTC, of the days that may be; days are those of the time zone."""
        day = start.astimezone(self._zone).date()
        until = day.replace(day=1, year=day.year + _YEARS)
        first = start.replace(second=0)
        while day < until:
            following = day + datetime.timedelta(days=1)
            if self._is_day(day):
                now = max(first, self._midnight(day))
                end = self._midnight(following)
                while now < end:
                    yield now
                    now += _MINUTE
            day = following

    def _midnight(self, day: datetime.date) -> datetime.datetime:
        local = datetime.datetime.combine(day, datetime.time(), self._zone)
        return local.astimezone(datetime.UTC)

    def _is_day(self, day: datetime.date) -> bool:
        *_, of_month, months, of_week = self._allowed
        if day.month not in months.values:
            return False
        by_month, by_week = day.day in of_month.values, day.isoweekday() % 7 in of_week.values
        return by_month and by_week if of_month.every or of_week.every else by_month or by_week


def time_zone(name: str) -> datetime.tzinfo:
    """A time zone by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name == "UTC":
        return datetime.UTC  # also where there is no list of time zones
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise ConfigError(f"timezone {name!r:.80}", "is none; one is called Europe/Berlin, or UTC") from error
