"""The two tools of a review. Each runs in a process of its own and sees the source and nothing else.

Neither the target's configuration nor comments in it that silence a tool (`noqa`, `complexipy: ignore`) have a say: who
is reviewed does not choose what is found.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from actors.agents.code_analyst.model import Finding, FunctionComplexity, Report
from actors.agents.errors import NotParseableError
from actors.agents.review import MAX_ANSWER, MAX_LISTED, MAX_TEXT, failed, lines_of, packages_of, within
from actors.agents.tools import find_tool, run_tool

RULES: Final = "E,W,F,B,ASYNC,C4,PERF,PIE,PLE,PLW,RUF,S,SIM"
"""Faults and risks; not style that a formatter settles, and nothing that depends on where a file lies."""
IGNORED: Final = "E501,W191,E1,RUF013,RUF100"
"""RUF013 resolves relative imports, so it depends on the path. RUF100 calls suppressions unused that we ignore."""

RUFF_OPTIONS: Final = (
    "check",
    "--isolated",  # no configuration file, wherever it lies
    "--no-cache",
    "--ignore-noqa",
    "--no-preview",
    "--target-version=py314",  # the newest that the oldest ruff we allow (0.14) knows
    f"--select={RULES}",
    f"--ignore={IGNORED}",
    "--output-format=json",
)

_SYNTAX: Final = "invalid-syntax"
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\.py\Z")
_PARSE_FAULT: Final = 3

_COMPLEXITY: Final = """\
import json, sys
sys.path.append(sys.argv[1])
from complexipy import code_complexity
try:
    found = code_complexity(sys.stdin.buffer.read().decode(), no_ignore=True, with_plans=False)
except ValueError as error:
    sys.exit((sys.stderr.write(str(error)), 3)[1])
json.dump([[f.name, f.line_start, f.complexity] for f in found.functions], sys.stdout)
"""


async def ruff_findings(source: str, name: str, *, timeout: float) -> list[Finding]:
    """What ruff finds in the source, in its order.

    Raises:
        NotParseableError: it is not Python.
        ToolError: which of them says whether a retry helps; the tool could not do it.
    """
    base = Path(name).name
    shown = base if _SAFE_NAME.match(base) else "source.py"  # rules know `__init__.py`; options are not to be smuggled
    argv = [find_tool("ruff"), *RUFF_OPTIONS, f"--stdin-filename={shown}", "-"]
    finished = await run_tool("ruff", argv, stdin=source.encode(), timeout=timeout, max_output=MAX_ANSWER)
    if finished.status not in (0, 1):
        raise failed("ruff", finished)
    findings = []
    for raw in json.loads(finished.stdout):
        line, column = raw["location"]["row"], raw["location"]["column"]
        if raw["code"] in (None, _SYNTAX):
            raise NotParseableError(name, f"is not Python: line {line}: {raw['message'][:200]}")
        findings.append(Finding(rule=raw["code"], message=raw["message"][:MAX_TEXT], line=line, column=column))
    return findings


async def complexities(source: str, name: str, *, timeout: float) -> list[FunctionComplexity]:
    """The cognitive complexity of each function of the source.

    Raises:
        NotParseableError: it is not Python.
        ToolError: which of them says whether a retry helps; the tool could not do it.
    """
    # -I -S: neither environment nor site packages, but for the one folder; it halves the start to 15 ms.
    argv = [sys.executable, "-I", "-S", "-c", _COMPLEXITY, packages_of("complexipy")]
    finished = await run_tool("complexipy", argv, stdin=source.encode(), timeout=timeout, max_output=MAX_ANSWER)
    if finished.status == _PARSE_FAULT:
        raise NotParseableError(name, f"is not Python: {finished.stderr.decode(errors='replace')[:200]}")
    if finished.status != 0:
        raise failed("complexipy", finished)
    return [
        FunctionComplexity(name=function[:MAX_TEXT], line=line, complexity=value)
        for function, line, value in json.loads(finished.stdout)
    ]


def report(source: str, name: str, findings: list[Finding], functions: list[FunctionComplexity]) -> Report:
    """The two tools' answers as one report. Its counts are of everything, its lists end at `MAX_LISTED`."""
    listed, measured = within(MAX_LISTED, findings), within(MAX_LISTED, functions)
    return Report(
        name=name,
        lines=lines_of(source),
        findings=listed,
        rules=dict(sorted(Counter(finding.rule for finding in findings).items())),
        functions=measured,
        function_count=len(functions),
        total_complexity=sum(function.complexity for function in functions),
        max_complexity=max((function.complexity for function in functions), default=0),
        truncated=len(listed) < len(findings) or len(measured) < len(functions),
    )
