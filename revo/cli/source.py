"""Where many tasks of one `revo submit` come from: files that a pattern finds, or the lines of a file of messages.

Both are read as they are needed: neither all paths nor all lines are ever held.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

from bus import codec
from bus.errors import ConfigError, EncodeError
from bus.settings import MIB

MAX_LINE: Final = 64 * MIB
"""Bytes of one line, or of one file whose text is sent."""


@dataclass(slots=True)
class Item:
    """One task to be."""

    n: int
    """Its number, from 1 on: of a line, that of the line."""
    name: dict[str, Any]
    """How its result names it."""
    message: dict[str, Any] | None
    fault: str = ""
    """Why there is no message."""
    key: str = ""
    """The same text for the same piece of the same work, and for no other."""
    task_id: str = ""
    """What that makes of it; who reads it for good sets it."""

    @property
    def where(self) -> str:
        """How people find it."""
        return str(self.name.get("path", f"line {self.n}"))


class Source(Protocol):
    """What is to be done, piece by piece."""

    def count(self) -> int | None:
        """How many pieces there are, found by going through all of them; None: that cannot be done."""

    def items(self) -> Iterator[Item]:
        """The pieces, in an order that is the same each time while nothing changes."""
        ...


@dataclass(frozen=True, slots=True)
class Lines:
    """One message a line, as JSON. Empty lines are passed over; they count as lines."""

    file: str
    """`-` is standard input."""
    fields: dict[str, Any]
    """What is added to each message, and wins."""
    batch: str
    to: str
    """Who is to do it: the same line is other work for somebody else."""

    def check(self) -> None:
        """Make sure that there is such a file.

        Raises:
            ConfigError: it cannot be read.
        """
        if self.file != "-":
            with _opened(self.file):
                pass

    def count(self) -> int | None:
        """See `Source`; of standard input nobody knows before its end."""
        if self.file == "-":
            return None
        with _opened(self.file) as file:
            return sum(1 for _, line, _ in _lines(file) if line)

    def items(self) -> Iterator[Item]:
        """See `Source`."""
        work = self.batch or ("-" if self.file == "-" else str(Path(self.file).resolve()))
        with _opened(self.file) as file:
            for n, line, whole in _lines(file):
                if line:
                    message, fault = self._message(line) if whole else (None, f"is longer than {MAX_LINE} bytes")
                    yield _item(Item(n, {"n": n}, message, fault), "line", self.to, work, str(n))

    def _message(self, line: bytes) -> tuple[dict[str, Any] | None, str]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            return None, f"is not JSON: {error}"
        if not isinstance(message, dict):
            return None, 'must be a map, as in {"text": "hi"}'
        return {**message, **self.fields}, ""


@dataclass(frozen=True, slots=True)
class Files:
    """One message for each file that a pattern finds: its path and, if that is wanted, its text."""

    pattern: str
    path_field: str
    text_field: str | None
    fields: dict[str, Any]
    batch: str
    to: str
    """Who is to do it, as in `Lines`."""

    def check(self) -> None:
        """Make sure that there is something to do.

        Raises:
            ConfigError: the pattern finds no file.
        """
        if next(self._paths(), None) is None:
            raise ConfigError(f"--each {self.pattern}", "finds no file; put the pattern in quotes, ** is any folders")

    def count(self) -> int | None:
        """See `Source`."""
        return sum(1 for _ in self._paths())

    def items(self) -> Iterator[Item]:
        """See `Source`."""
        for n, path in enumerate(self._paths(), 1):
            message: dict[str, Any] | None = {self.path_field: path, **self.fields}
            fault, state = "", ""
            try:
                if self.text_field is not None:
                    message = {self.path_field: path, self.text_field: _text(path), **self.fields}
                else:
                    found = os.stat(path)  # noqa: PTH116  (a path a file, and there may be a million)
                    state = f"{found.st_size} {found.st_mtime_ns}"  # a file that was changed is other work
            except (OSError, ValueError) as error:
                message, fault = None, getattr(error, "strerror", None) or str(error)
            work = self.batch or os.getcwd()  # noqa: PTH109
            yield _item(Item(n, {"n": n, "path": path}, message, fault), "file", self.to, work, path, state)

    def _paths(self) -> Iterator[str]:
        return (path for path in glob.iglob(self.pattern, recursive=True) if os.path.isfile(path))  # noqa: PTH113, PTH207


def _item(item: Item, *names: str) -> Item:
    """With its key."""
    if item.message is not None:
        try:
            content = codec.canonical(item.message, subject=item.where)
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            item.key = "\0".join((*names, digest))
        except EncodeError as error:
            item.message, item.fault = None, error.reason
    return item


def _text(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        raw = file.read(MAX_LINE + 1)
    if len(raw) > MAX_LINE:
        raise ValueError(f"is larger than {MAX_LINE} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("is not text in UTF-8; send its path alone") from None


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Each line by its number, without what surrounds it; False: it is too long, and this is its begin."""
    n = 0
    while line := file.readline(MAX_LINE + 1):
        n += 1
        whole = len(line) <= MAX_LINE or line.endswith(b"\n")
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(MIB)):
            pass
        yield n, (line.removeprefix(b"\xef\xbb\xbf") if n == 1 else line).strip(), whole


def _opened(name: str) -> IO[bytes]:
    if name == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise ConfigError(f"--jsonl {name}", (error.strerror or str(error)).lower()) from error
