"""What `revo submit --each` and `--jsonl` were told: where messages come from, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bus.errors import ConfigError
from revo.cli.source import Files, Lines
from revo.cli.submit import fields_of

AT_ONCE: Final = 1000
"""So many tasks wait or run at a time, if nothing else is said."""


@dataclass(frozen=True)
class Work:
    """Where many messages come from and where their results go, as the user wrote it."""

    each: str | None
    jsonl: str | None
    path_field: str | None
    text_field: str | None
    results: Path | None
    batch: str | None
    at_once: int | None
    again: bool

    @property
    def given(self) -> bool:
        """Whether there is anything of it."""
        said = (self.each, self.jsonl, self.path_field, self.text_field, self.results, self.batch, self.at_once)
        return self.again or any(one is not None for one in said)

    def source(self, fields: list[str], to: str) -> Files | Lines:
        """What to read. `to` says who is to do it.

        Raises:
            ConfigError: options that do not go together, or nothing to be read.
        """
        if (self.each is None) == (self.jsonl is None):
            raise ConfigError("--each, --jsonl", "name one of them: where do the messages come from?")
        if self.again and self.results is None:
            raise ConfigError("--again", "goes with --results: what failed stands there")
        if any("=" not in one for one in fields) and self.each is not None:
            raise ConfigError(f"--each {self.each}", f"put the pattern in quotes: the shell made {fields[0]!r} of it")
        added, batch = fields_of(fields), self.batch or ""
        made: Files | Lines
        if self.each is not None:
            made = Files(self.each, self.path_field or "path", self.text_field, added, batch, to)
            if made.path_field == made.text_field:
                raise ConfigError(f"--content {self.text_field}", "is the field that the path goes to; see --as")
        else:
            for name, value in (("--as", self.path_field), ("--content", self.text_field)):
                if value is not None:
                    raise ConfigError(f"{name} {value}", "goes with --each: a line is a whole message")
            assert self.jsonl is not None
            made = Lines(self.jsonl, added, batch, to)
        made.check()
        return made
