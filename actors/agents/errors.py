"""What can be wrong with a file that is to be reviewed: the same file cannot be reviewed later either."""

from __future__ import annotations

from typing import ClassVar, Final

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
