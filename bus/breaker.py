"""Whether to try what has failed lately: closed, open, half-open. Pure: time and chance are handed in.

*Closed* lets everything through and counts. *Open* lets nothing through for a while, which grows with every time that
it opens again. *Half-open* lets a few through and judges by them. Should they take long, a few more are let through
after each such while; where they have run for longer than the failures took, twice as many each time: not to have
failed by now is a good sign, if no proof. Only what has ended well closes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["closed", "open", "half-open"]

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"
OUTLIVED: Final = 2.0
"""A trial that has run for so many times as long as the slowest failure would have failed by now."""
UNTRIED: Final = 4
"""So many times the longest pause in which it might have been tried, nothing is known any more, and it is closed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a breaker opens, and for how long. Times are seconds."""

    share: float = 0.5
    """Of what ended lately, so much must have failed."""
    minimum: float = 5.0
    """Of what ended lately, there must be as much: one failure of two says little."""
    half_life: float = 10.0
    """After so long something that ended counts half."""
    pause: float = 1.0
    """How long it is open the first time; each time in a row twice as long."""
    longest: float = 30.0
    jitter: float = 0.2
    """Up to this share is added, by chance, so that not all who wait come back at once."""
    trials: int = 1
    """How many are let through at a time when it is half-open, at first."""
    successes: int = 2
    """How many of them in a row must be good until it closes."""


DEFAULT: Final = Rules()


class Breaker:
    """One of them. `admit` asks for a way through, and `ended` must be told what came of every one that was given."""

    __slots__ = (
        "_allowed",
        "_bad",
        "_count",
        "_failures",
        "_good",
        "_since",
        "_slowest",
        "_state",
        "_trials",
        "_tried_since",
        "_until",
        "_updated",
        "rules",
    )

    def __init__(self, rules: Rules = DEFAULT) -> None:
        self.rules = rules
        self._state: State = CLOSED
        self._since = 0.0
        """When it changed, or a trial of it ended."""
        self._until = 0.0
        """When it may be tried again."""
        self._count = 1
        """Of changes of its state: what began before one says nothing about what is after it."""
        self._failures = 0
        """How often it has opened in a row."""
        self._good = 0.0
        self._bad = 0.0
        self._updated = 0.0
        self._trials = 0
        self._allowed = rules.trials
        """So many trials at a time."""
        self._tried_since = 0.0
        """Since when there are trials."""
        self._slowest = 0.0
        """Seconds that the slowest failure took, of those that count still."""

    def state(self, now: float) -> State:
        """How it stands; open becomes half-open when its time is over, and closed when nobody has tried for long."""
        if self._state == CLOSED or (self._state == OPEN and now < self._until):
            return self._state
        if self._trials:  # none while it is open
            return HALF_OPEN
        untried = max(self._until, self._since)
        return HALF_OPEN if now < untried + UNTRIED * self.rules.longest else CLOSED

    def retry_in(self, now: float) -> float:
        """Seconds until it lets somebody through: 0 where it does at this moment."""
        if self._state == OPEN:
            return max(0.0, self._until - now)
        if self._state == HALF_OPEN and self._trials >= self._allowed:
            return max(0.0, self._since + self._pause() - now)  # they may take long, or nobody says how they ended
        return 0.0

    def admit(self, now: float) -> int:
        """A way through, or 0 for none. What comes of it is to be told to `ended` with this number."""
        if self._state == CLOSED:
            return self._count
        if self.state(now) == CLOSED:
            self._failures = 0
            self._enter(CLOSED, now)
            return self._count
        if self.retry_in(now) > 0:
            return 0
        if self._state == OPEN:
            self._enter(HALF_OPEN, now)
            self._tried_since, self._allowed = now, self.rules.trials
        elif self._trials >= self._allowed:
            if now - self._tried_since > OUTLIVED * self._slowest:
                self._allowed *= 2
            self._trials, self._since = 0, now
        self._trials += 1
        return self._count

    def ended(self, way: int, now: float, *, good: bool | None, took: float = 0.0, chance: float = 0.0) -> State | None:
        """What came of it after `took` seconds: it was good, or not, or that says nothing (None), as when its caller
        gave up.

        Returns the new state if this changed it. `chance` is from 0 to 1.
        """
        if way != self._count:
            return None
        if self._state == HALF_OPEN:
            return self._tried(now, took, chance, good=good)
        if good is None:
            return None
        self._fade(now)
        if good:
            self._good += 1
            return None
        self._bad += 1
        self._slowest = max(self._slowest, took)
        ended = self._good + self._bad
        if ended < self.rules.minimum - 0.5 or self._bad < self.rules.share * ended:  # each counts a little less than 1
            return None
        if now - self._since > self.rules.longest:
            self._failures = 0  # it has been well for long
        return self._open(now, chance)

    def _tried(self, now: float, took: float, chance: float, *, good: bool | None) -> State | None:
        self._trials, self._since = max(0, self._trials - 1), now
        if good is None:
            return None
        if not good:
            self._slowest = max(self._slowest, took)
            return self._open(now, chance)
        self._good += 1
        if self._good < self.rules.successes:
            return None
        self._slowest = 0.0
        return self._enter(CLOSED, now)

    def _open(self, now: float, chance: float) -> State:
        self._until = now + self._pause() * (1 + self.rules.jitter * chance)
        self._failures += 1
        return self._enter(OPEN, now)

    def _pause(self) -> float:
        return min(self.rules.longest, self.rules.pause * 2.0 ** min(self._failures, 30))

    def _enter(self, state: State, now: float) -> State:
        self._state, self._since = state, now
        self._count += 1
        self._good = self._bad = 0.0
        self._updated = now
        self._trials = 0
        return state

    def _fade(self, now: float) -> None:
        """What ended long ago counts less."""
        if now - self._updated < self.rules.half_life / 50:
            return
        left = 0.5 ** (max(0.0, now - self._updated) / self.rules.half_life)
        self._good *= left
        self._bad *= left
        self._slowest *= left
        self._updated = now
