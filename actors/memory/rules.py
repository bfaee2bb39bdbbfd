"""Which rule holds for which part of a value, by patterns of paths: `runs`, `stats.*`, `**.tags`, `.`. Pure."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from actors.memory.errors import InvalidRuleError
from bus import subjects

COUNTER: Final = "counter"
SET: Final = "set"
APPEND: Final = "append"
BUILT_IN: Final = (COUNTER, SET, APPEND)

MAX_RULES: Final = 64
MAX_PATTERN: Final = 256

Pattern = tuple[str, ...]


def check(rules: Mapping[str, str]) -> None:
    """See that these can be rules. Whether a function of one's own is registered where it is needed, nobody knows yet.

    Raises:
        InvalidRuleError: a pattern that can match nothing or is no pattern, no name of a rule, or too many of them.
    """
    if len(rules) > MAX_RULES:
        raise InvalidRuleError("the rules", f"there are {len(rules)}, and may be {MAX_RULES}")
    for pattern, kind in rules.items():
        parse(pattern)
        if not subjects.is_token(kind):
            built_in = ", ".join(BUILT_IN)
            raise InvalidRuleError(
                f"{pattern}={kind!r:.80}", f"a rule is {built_in}, or the name under which a function is registered"
            )


def parse(pattern: str) -> Pattern:
    """A pattern as the parts of a path; `*` is any one part, `**` any number of them, also none.

    Raises:
        InvalidRuleError: it is none.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidRuleError(f"{pattern:.64}...", f"it has {len(pattern)} characters, and may have {MAX_PATTERN}")
    if pattern == ".":
        return ()
    parts = tuple(pattern.split("."))
    if not all(parts):
        raise InvalidRuleError(
            repr(pattern), "a part of it is empty: it is the parts of a path with dots between; `.` is the value itself"
        )
    if any("*" in part and part not in {"*", "**"} for part in parts):
        raise InvalidRuleError(repr(pattern), "`*` and `**` stand for whole parts: `stats.*`, `**.tags`")
    if ("**", "**") in itertools.pairwise(parts):
        raise InvalidRuleError(repr(pattern), "`**` stands for any number of parts already; once will do")
    return parts


class Rules:
    """Rules by path. Where several match, the most exact one counts, whichever was given first."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._rules = sorted(((parse(pattern), kind) for pattern, kind in rules.items()), key=_exactness)
        self.custom = not set(rules.values()) <= set(BUILT_IN)
        """Whether any is not built in."""

    def of(self, path: Sequence[Any]) -> str:
        """The rule for what stands at a path; empty: none. A key that is no text is matched as it is written."""
        if not self._rules:
            return ""
        parts = [str(step) for step in path]
        return next((kind for pattern, kind in self._rules if matches(pattern, parts)), "")


def compiled(rules: Mapping[str, str]) -> Rules:
    """The rules, ready for use."""
    return _compiled(tuple(rules.items()))


@functools.lru_cache(maxsize=256)
def _compiled(rules: tuple[tuple[str, str], ...]) -> Rules:
    return Rules(dict(rules))


def _exactness(rule: tuple[Pattern, str]) -> tuple[int, int, list[int], Pattern]:
    """Before others stands who names more parts, then who leaves less open, then who names the earlier ones."""
    pattern = rule[0]
    open_parts = [("*", "**").index(part) + 1 if part in {"*", "**"} else 0 for part in pattern]
    return -open_parts.count(0), open_parts.count(2), open_parts, pattern


def matches(pattern: Pattern, parts: Sequence[str]) -> bool:
    """Whether a path matches. Takes as many steps as both lengths multiplied, at the most."""
    at = place = 0
    star = -1  # the last `**` so far: what it stands for grows when the rest does not fit
    since = 0
    while place < len(parts):
        if at < len(pattern) and pattern[at] == "**":
            star, since = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in {"*", parts[place]}:
            at, place = at + 1, place + 1
        elif star >= 0:
            since += 1
            at, place = star + 1, since
        else:
            return False
    return all(part == "**" for part in pattern[at:])
