"""Which files a demonstration or a benchmark reviews."""

from __future__ import annotations

import io
import sysconfig
import tokenize
from pathlib import Path
from typing import Final

_SKIPPED: Final = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "node_modules", "test", "tests", "idlelib", "lib2to3"}
)
MAX_BYTES: Final = 1024 * 1024


def python_files(limit: int, root: Path | None = None) -> tuple[Path, list[Path]]:
    """Up to `limit` Python files below `root`, in order, and the root; without one, of the standard library."""
    base = Path(sysconfig.get_path("stdlib") if root is None else root).resolve()
    found: list[Path] = []
    for path in sorted(base.rglob("*.py")):
        inside = path.relative_to(base)
        if not _SKIPPED.isdisjoint(inside.parts) or any(part.startswith(".") for part in inside.parts):
            continue
        if path.is_file() and path.resolve() == path and _is_text(path):
            found.append(path)
            if len(found) == limit:
                break
    return base, found


def _is_text(path: Path) -> bool:
    """Whether both ways of running the tools read the same text: UTF-8, not too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return False
        data = path.read_bytes()
        data.decode()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except (OSError, UnicodeDecodeError, SyntaxError):
        return False
    return encoding in {"utf-8", "utf-8-sig"} and b"\0" not in data
