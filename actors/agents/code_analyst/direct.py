"""The same two tools run directly over many files: what the sum of all reviews must equal.

Written apart from the reviews on purpose, so that it can catch them out: one ruff over all files, complexipy in this
process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.agents.code_analyst.analysis import RUFF_OPTIONS
from actors.agents.files import python_files
from actors.agents.tools import find_tool


@dataclass(frozen=True, slots=True)
class Totals:
    """Findings by rule, how many functions there are and the sum of their complexities, over the files that parse."""

    rules: dict[str, int]
    functions: int
    complexity: int
    unparseable: int


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
    functions = complexity = 0
    for path in files:
        if str(path) in broken:
            continue
        try:
            measured = code_complexity(path.read_text(encoding="utf-8-sig"), no_ignore=True, with_plans=False).functions
        except ValueError:  # one of the two parsers gives up before the other does, on deep nesting
            broken.add(str(path))
            continue
        functions += len(measured)
        complexity += sum(function.complexity for function in measured)
    rules = Counter(one["code"] for one in raw if one["filename"] not in broken)
    return Totals(dict(sorted(rules.items())), functions, complexity, len(broken))


def add_up(reports: Iterable[dict[str, Any]]) -> Totals:
    """The totals of many reports, as they came out of the mesh."""
    rules: Counter[str] = Counter()
    functions = complexity = 0
    for report in reports:
        rules.update(report["rules"])
        functions += report["function_count"]
        complexity += report["total_complexity"]
    return Totals(dict(sorted(rules.items())), functions, complexity, 0)


if __name__ == "__main__":
    _, chosen = python_files(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    sys.stdout.write(f"{direct_totals(chosen)}\n")
