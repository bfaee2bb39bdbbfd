"""What goes in and what comes out of a code review, and what can be wrong with a file."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Self

from pydantic import BaseModel, Field, model_validator

MAX_NAME: Final = 4096
"""Characters of a name or path; PATH_MAX of Linux, in bytes."""

Name = Annotated[str, Field(max_length=MAX_NAME)]


class CodeReview(BaseModel):
    """The task: Python source, or the path of a file below the agent's root."""

    source: str | None = None
    path: Name | None = None
    name: Name = "source.py"
    """What findings call a source that came without a path."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.source is None) == (self.path is None):
            raise ValueError("give either source or path")
        return self


class Finding(BaseModel):
    """One finding of ruff. Lines and columns count from 1."""

    rule: str
    message: str
    line: int
    column: int


class FunctionComplexity(BaseModel):
    """The cognitive complexity of one function; methods are named `Class::method`."""

    name: str
    line: int
    complexity: int


class Report(BaseModel):
    """The review of one file."""

    name: str
    lines: int
    findings: list[Finding]
    rules: dict[str, int]
    """Findings by rule."""
    functions: list[FunctionComplexity]
    function_count: int
    total_complexity: int
    max_complexity: int
    truncated: bool = False
    """Whether `findings` or `functions` lists only the first of what was found, to fit a message. Counts are whole."""


_MAX_SHOWN: Final = 300


class SourceError(Exception):
    """A file that cannot be reviewed; the same file cannot be reviewed later either."""

    retryable: ClassVar[bool] = False
    code: ClassVar[str] = "source"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        shown = self.name if self.name.isprintable() else repr(self.name)  # no line of a log is to be forged
        return f"{shown[:_MAX_SHOWN]} {self.reason}"


class NotParseableError(SourceError):
    """It is not Python."""

    code = "not_parseable"


class BinaryFileError(SourceError):
    """It is not text."""

    code = "binary"


class TooLargeError(SourceError):
    """It is larger than the agent's setting `max_bytes`."""

    code = "too_large"

    def __init__(self, name: str, size: int, limit: int) -> None:
        super().__init__(name, f"of {size} bytes exceeds the limit of {limit} bytes")
        self.args = (name, size, limit)
        self.size = size
        self.limit = limit


class OutsideRootError(SourceError):
    """Its path leads out of the folder that the agent may read."""

    code = "outside_root"


class MissingFileError(SourceError):
    """There is no such file."""

    code = "missing"


class NotAFileError(SourceError):
    """It is a folder, a device, a socket or a pipe."""

    code = "not_a_file"


class UnreadableError(SourceError):
    """The system does not let us read it."""

    code = "unreadable"
