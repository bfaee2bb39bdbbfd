"""The same tool run directly over many files: what the sum of all security reviews must equal.

Written apart from the reviews on purpose, so that it can catch them out: one `bandit` over all files.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actors.agents.tools import find_tool


def direct_risks(files: Sequence[Path]) -> dict[str, int]:
    """Risks by the test that found them, as `bandit` says when nobody stands between."""
    found = subprocess.run(
        [find_tool("bandit"), "--quiet", "--ignore-nosec", "--format", "json", *map(str, files)],
        capture_output=True,
        check=False,
        cwd="/",
    )
    if found.returncode not in (0, 1):
        raise RuntimeError(f"bandit ended with status {found.returncode}: {found.stderr.decode(errors='replace')}")
    return dict(sorted(Counter(one["test_id"] for one in json.loads(found.stdout)["results"]).items()))


def add_up_risks(reports: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The same of many reports, as they came out of the mesh."""
    tests: Counter[str] = Counter()
    for report in reports:
        tests.update(report["tests"])
    return dict(sorted(tests.items()))
