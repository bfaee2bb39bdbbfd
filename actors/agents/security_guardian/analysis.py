"""Bandit over one source, in a process of its own that sees the source and nothing else.

Neither the target's configuration nor `# nosec` in it has a say: who is reviewed does not choose what is found.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Final

from actors.agents.errors import NotParseableError
from actors.agents.review import MAX_ANSWER, MAX_LISTED, MAX_TEXT, failed, lines_of, packages_of, within
from actors.agents.security_guardian.model import Risk, SecurityReport
from actors.agents.tools import ToolCrashedError, run_tool

_PARSE_FAULT: Final = 3
_OWN_FAULT: Final = 4

_SCAN: Final = """\
import json, logging, sys
sys.path.append(sys.argv[1])
logging.disable(logging.CRITICAL)
from bandit.core.config import BanditConfig
from bandit.core.manager import BanditManager
manager = BanditManager(BanditConfig(), "file", ignore_nosec=True)
manager.files_list = ["-"]
manager.run_tests()
for _, reason in manager.skipped:
    sys.exit((sys.stderr.write(reason), 3 if "syntax" in reason else 4)[1])
json.dump([
    [i.test_id, i.test, i.severity, i.confidence, i.text, i.lineno, i.col_offset + 1, i.cwe.id]
    for i in manager.get_issue_list()
], sys.stdout)
"""
"""What `bandit --ignore-nosec -` does, less its reading of configuration and its report."""


async def risks(source: str, name: str, *, timeout: float) -> list[Risk]:
    """What bandit finds in the source, in its order.

    Raises:
        NotParseableError: it is not Python.
        ToolError: which of them says whether a retry helps; bandit could not do it.
    """
    argv = [sys.executable, "-I", "-S", "-c", _SCAN, packages_of("bandit")]
    finished = await run_tool("bandit", argv, stdin=source.encode(), timeout=timeout, max_output=MAX_ANSWER)
    said = finished.stderr.decode(errors="replace").strip()[-200:]
    if finished.status == _PARSE_FAULT:
        raise NotParseableError(name, f"is not Python: {said}")
    if finished.status == _OWN_FAULT:
        raise ToolCrashedError("bandit", f"ran into its own fault on this source: {said}")
    if finished.status != 0:
        raise failed("bandit", finished)
    return [
        Risk(
            test=test,
            name=what,
            severity=severity,
            confidence=confidence,
            message=message[:MAX_TEXT],
            line=line,
            column=column,
            cwe=cwe,
        )
        for test, what, severity, confidence, message, line, column, cwe in json.loads(finished.stdout)
    ]


def report(source: str, name: str, found: list[Risk]) -> SecurityReport:
    """Bandit's answer as a report. Its counts are of everything, its list ends at `MAX_LISTED`."""
    listed = within(MAX_LISTED, found)
    return SecurityReport(
        name=name,
        lines=lines_of(source),
        risks=listed,
        tests=dict(sorted(Counter(risk.test for risk in found).items())),
        severities=dict(sorted(Counter(risk.severity for risk in found).items())),
        truncated=len(listed) < len(found),
    )
