"""The same two tools run directly over many files: what the sum of all reviews must equal.

Written apart from the reviews on purpose, so that it can catch them out: one ruff over all files, complexipy in this
process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.agents.code_analyst.analysis import RUFF_OPTIONS
from actors.agents.tools import find_tool

_SKIPPED: Final = frozenset({"__pycache__", "site-packages", "test", "tests", "idlelib", "lib2to3", ".venv", ".git"})
MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Totals:
    """Findings by rule, how many functions there are and the sum of their complexities, over the files that parse."""

    rules: dict[str, int]
    functions: int
    complexity: int
    unparseable: int


def python_files(limit: int, root: Path | None = None) -> tuple[Path, list[Path]]:
    """Up to `limit` Python files below `root`, in order, and the root; without one, of the standard library."""
    base = Path(sysconfig.get_path("stdlib") if root is None else root).resolve()
    found: list[Path] = []
    for path in sorted(base.rglob("*.py")):
        inside = path.relative_to(base)
        if _SKIPPED.isdisjoint(inside.parts) and path.is_file() and not path.is_symlink() and _is_text(path):
            found.append(path)
            if len(found) == limit:
                break
    return base, found


def _is_text(path: Path) -> bool:
    """Whether both ways of running the tools read the same text: UTF-8, not too large."""
    try:
        data = path.read_bytes()
        data.decode()
    except (OSError, UnicodeDecodeError):
        return False
    return len(data) <= MAX_BYTES and b"\0" not in data


def direct_totals(files: Sequence[Path]) -> Totals:
    """What the tools say of the files when nobody stands between."""
    from complexipy import code_complexity  # noqa: PLC0415  (the agent itself never loads it)

    found = subprocess.run(
        [find_tool("ruff"), *RUFF_OPTIONS, *map(str, files)],
        capture_output=True,
        check=False,
        cwd="/",
    )
    if found.returncode not in (0, 1):
        raise RuntimeError(f"ruff ended with status {found.returncode}: {found.stderr.decode(errors='replace')}")
    raw = json.loads(found.stdout)
    broken = {one["filename"] for one in raw if one["code"] in (None, "invalid-syntax")}
    rules = Counter(one["code"] for one in raw if one["filename"] not in broken)
    functions = complexity = 0
    for path in files:
        if str(path) in broken:
            continue
        for function in code_complexity(
            path.read_text(encoding="utf-8-sig"), no_ignore=True, with_plans=False
        ).functions:
            functions += 1
            complexity += function.complexity
    return Totals(dict(sorted(rules.items())), functions, complexity, len(broken))


def add_up(reports: Iterable[dict[str, Any]]) -> Totals:
    """The totals of many reports, as they came out of the mesh."""
    rules: Counter[str] = Counter()
    functions = complexity = 0
    for report in reports:
        rules.update(report["rules"])
        values = [function["complexity"] for function in report["functions"]]
        functions += len(values)
        complexity += sum(values)
    return Totals(dict(sorted(rules.items())), functions, complexity, 0)


if __name__ == "__main__":
    _, chosen = python_files(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    sys.stdout.write(f"{direct_totals(chosen)}\n")
