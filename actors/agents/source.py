"""Reads the file under review, and nothing else. Whoever wrote the task may be hostile."""

from __future__ import annotations

import io
import os
import stat
import tokenize
from pathlib import Path
from typing import Final

from actors.agents.errors import (
    BinaryFileError,
    MissingFileError,
    NotAFileError,
    OutsideRootError,
    TooLargeError,
    UnreadableError,
)

_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_source(path: str, *, root: Path, max_bytes: int) -> str:
    """The text of a Python file below `root`.

    Symbolic links are followed as long as they stay below it. The size is checked before anything is read, and a pipe
    or device is not even opened. A link that is exchanged between check and opening, anywhere on the way, is not
    followed.

    Raises:
        OutsideRootError, MissingFileError, NotAFileError, UnreadableError, TooLargeError, BinaryFileError: as they say.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise MissingFileError(path, "does not exist") from None
    if "\0" in path:
        raise MissingFileError(path, "does not exist")
    try:
        base = root.resolve(strict=True)
        resolved = (base / path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise UnreadableError(path, f"cannot be found: {type(error).__name__}") from error
    if not resolved.is_relative_to(base):
        raise OutsideRootError(path, "is outside the folder that may be read")
    if resolved == base:
        raise NotAFileError(path, "is not a regular file")
    try:
        data = _read_bytes(path, base, resolved.relative_to(base), max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(path, "does not exist") from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {(error.strerror or 'unknown error').lower()}") from error
    return decode(data, name=path)


def _read_bytes(path: str, base: Path, inside: Path, max_bytes: int) -> bytes:
    folder = os.open(base, _FOLDER)
    try:
        for part in inside.parts[:-1]:  # one by one: O_NOFOLLOW speaks of the last part of a path only
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        _check(path, os.stat(inside.name, dir_fd=folder, follow_symlinks=False), max_bytes)
        descriptor = os.open(inside.name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _check(path, os.fstat(descriptor), max_bytes)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:  # it grew while we read
        raise TooLargeError(path, len(data), max_bytes)
    return data


def _check(path: str, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError(path, "is not a regular file")
    if status.st_size > max_bytes:
        raise TooLargeError(path, status.st_size, max_bytes)


def decode(data: bytes, *, name: str) -> str:
    """Source bytes as text, in the encoding that they declare (PEP 263).

    Raises:
        BinaryFileError: when they are not text in it.
    """
    if b"\0" in data:
        raise BinaryFileError(name, "is binary: it holds a NUL byte")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError) as error:  # not UnicodeDecodeError alone: `undefined`, `idna`
        raise BinaryFileError(name, "is not text in the encoding that it declares") from error
    _encoded(text, name=name)  # unicode_escape and utf-7 bring forth what no text file holds
    return text


def _encoded(text: str, *, name: str) -> bytes:
    if "\0" in text:
        raise BinaryFileError(name, "is binary: it holds a NUL byte")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BinaryFileError(name, "is not text: it holds a lone surrogate") from error


def check_size(source: str, *, name: str, max_bytes: int) -> None:
    """Hold a source that came with the task to the same limit.

    Raises:
        TooLargeError, BinaryFileError: as they say.
    """
    size = len(_encoded(source, name=name))
    if size > max_bytes:
        raise TooLargeError(name, size, max_bytes)
