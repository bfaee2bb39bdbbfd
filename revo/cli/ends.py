"""The results of many tasks of one `revo submit`: JSON lines, in a file from which the work can be taken up again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from bus.errors import ConfigError
from revo.cli.common import to_json

_BEGIN: Final = b'{"n": '
"""Of each line of ours."""


class Ends:
    """Writes results, and knows those that were written before.

    Of those it keeps eight bytes each, so a million of them are no matter.
    """

    def __init__(self, file: IO[bytes] | None, good: array[int], bad: array[int]) -> None:
        self._file = file
        self._good = good
        self._bad = bad

    def before(self, task_id: str) -> bool | None:
        """Whether a task had succeeded by the word of the file; None: the file does not know it."""
        key = _key(task_id)
        if _in(self._good, key):
            return True
        return False if _in(self._bad, key) else None

    def write(self, record: dict[str, Any]) -> None:
        """Write one result as a line. When this returns it stands in the file, also if this process is killed.

        Raises:
            ConfigError: the disk is full, or worse.
        """
        line = f"{to_json(record)}\n"
        if self._file is None:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"--results {self._file.name}", f"cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[Ends]:
    """The results in a file, which is made if there is none; without one they go to stdout, and none are known.

    What a kill left of a last line is cut off: that task is looked for again.

    Raises:
        ConfigError: the file cannot be written, holds something else, or another process writes it now.
    """
    if path is None:
        yield Ends(None, array("Q"), array("Q"))
        return
    what, is_new = f"--results {path}", not path.exists()
    try:
        file = path.open("a+b")
    except OSError as error:
        raise ConfigError(what, f"cannot be written: {(error.strerror or str(error)).lower()}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(what, "another process is writing it") from error
        try:
            yield Ends(file, *_read(file, what))
        finally:
            if is_new and not file.tell():
                path.unlink(missing_ok=True)  # a command that did nothing leaves nothing


def _read(file: IO[bytes], what: str) -> tuple[array[int], array[int]]:
    found: dict[bool, array[int]] = {True: array("Q"), False: array("Q")}
    file.seek(0)
    whole = 0
    for n, line in enumerate(file, 1):
        if not line.endswith(b"\n") and _BEGIN.startswith(line[: len(_BEGIN)]):
            break
        whole += len(line)
        try:
            record = json.loads(line)
            found[record["status"] == "succeeded"].append(_key(record["task_id"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(what, f"line {n} is no result of `revo submit`; name another file") from error
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return array("Q", sorted(found[True])), array("Q", sorted(found[False]))


def _key(task_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(task_id.encode(), digest_size=8).digest())


def _in(known: array[int], key: int) -> bool:
    at = bisect_left(known, key)
    return at < len(known) and known[at] == key
