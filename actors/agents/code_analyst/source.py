"""Reads the file under review, and nothing else. Whoever wrote the task may be hostile."""

from __future__ import annotations

import io
import os
import stat
import tokenize
from pathlib import Path

from actors.agents.code_analyst.model import (
    BinaryFileError,
    MissingFileError,
    NotAFileError,
    OutsideRootError,
    TooLargeError,
    UnreadableError,
)


def read_source(path: str, *, root: Path, max_bytes: int) -> str:
    """The text of a Python file below `root`.

    Symbolic links are followed as long as they stay below it. The size is checked before anything is read, and a pipe
    or device is never opened for reading. A link that is exchanged between the check and the opening is not followed.

    Raises:
        OutsideRootError, MissingFileError, NotAFileError, UnreadableError, TooLargeError, BinaryFileError: as they say.
    """
    if "\0" in path:
        raise MissingFileError(repr(path), "does not exist")
    try:
        base = root.resolve(strict=True)
        resolved = (base / path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise UnreadableError(path, f"cannot be found: {type(error).__name__}") from error
    if not resolved.is_relative_to(base):
        raise OutsideRootError(path, "is outside the folder that may be read")
    return decode(_read_bytes(path, resolved, max_bytes), name=path)


def _read_bytes(path: str, resolved: Path, max_bytes: int) -> bytes:
    try:
        descriptor = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingFileError(path, "does not exist") from None
    except NotADirectoryError:
        raise MissingFileError(path, "does not exist") from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {(error.strerror or 'unknown error').lower()}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
        os.close(descriptor)
        if stat.S_ISREG(status.st_mode):
            raise TooLargeError(path, status.st_size, max_bytes)
        raise NotAFileError(path, "is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew while we read
        raise TooLargeError(path, len(data), max_bytes)
    return data


def decode(data: bytes, *, name: str) -> str:
    """Source bytes as text, in the encoding that they declare (PEP 263).

    Raises:
        BinaryFileError: when they are not text in it.
    """
    if b"\0" in data:
        raise BinaryFileError(name, "is binary: it holds a NUL byte")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise BinaryFileError(name, "is not text in the encoding that it declares") from error


def check_size(source: str, *, name: str, max_bytes: int) -> None:
    """Hold a source that came with the task to the same limit.

    Raises:
        TooLargeError, BinaryFileError: as they say.
    """
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise BinaryFileError(name, "is not text: it holds a lone surrogate") from error
    if size > max_bytes:
        raise TooLargeError(name, size, max_bytes)
    if "\0" in source:
        raise BinaryFileError(name, "is binary: it holds a NUL byte")
