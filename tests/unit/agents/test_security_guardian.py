"""The security guardian: bandit's findings, whoever wrote the file and whatever stands in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from actors.agents.errors import BinaryFileError, NotParseableError, OutsideRootError, TooLargeError
from actors.agents.files import python_files
from actors.agents.review import MAX_LISTED, ReviewSettings
from actors.agents.security_guardian import SecurityGuardian
from actors.agents.security_guardian.direct import add_up_risks, direct_risks
from actors.agents.security_guardian.model import SecurityReport, SecurityReview
from actors.agents.tools import ToolCrashedError, ToolTimeoutError, find_tool

BAD = "import subprocess\n\n\ndef f(x):\n    assert x\n    subprocess.call(x, shell=True)\n    eval(x)\n"


def guardian(root: Path, **settings: float) -> SecurityGuardian:
    agent = SecurityGuardian()
    agent.settings = ReviewSettings.model_validate({"root": root, **settings})
    return agent


async def review(source: str, **settings: float) -> SecurityReport:
    return await guardian(Path("/"), **settings).review(SecurityReview(source=source))


async def test_a_source_gets_a_report_of_its_risks() -> None:
    report = await review(BAD)
    assert report.tests == {"B101": 1, "B307": 1, "B404": 1, "B602": 1}
    assert report.severities == {"HIGH": 1, "LOW": 2, "MEDIUM": 1}
    worst = next(risk for risk in report.risks if risk.severity == "HIGH")
    assert (worst.test, worst.name, worst.line, worst.column, worst.cwe) == (
        "B602",
        "subprocess_popen_with_shell_equals_true",
        6,
        5,
        78,
    )
    assert (report.lines, report.truncated) == (7, False)


async def test_it_says_what_bandit_says_when_nobody_stands_between(tmp_path: Path) -> None:
    root, files = python_files(24)
    agent = guardian(root)
    reports = [await agent.review(SecurityReview(path=str(path.relative_to(root)))) for path in files]
    assert add_up_risks(report.model_dump() for report in reports) == direct_risks(files)
    assert sum(sum(report.tests.values()) for report in reports) > 10
    (tmp_path / "bad.py").write_text(BAD)
    command = [find_tool("bandit"), "-q", "--ignore-nosec", "-f", "json", str(tmp_path / "bad.py")]
    said = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)["results"]
    ours = (await guardian(tmp_path).review(SecurityReview(path="bad.py"))).risks
    assert [(risk.test, risk.line, risk.message, risk.confidence) for risk in ours] == [
        (one["test_id"], one["line_number"], one["issue_text"], one["issue_confidence"]) for one in said
    ]


async def test_neither_comments_nor_configuration_silence_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text(BAD.replace("shell=True)", "shell=True)  # nosec"))
    (tmp_path / ".bandit").write_text("[bandit]\nskips = B101,B307,B404,B602\n")
    (tmp_path / "pyproject.toml").write_text('[tool.bandit]\nskips = ["B101", "B307", "B404", "B602"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "a.py"))
    report = await guardian(tmp_path).review(SecurityReview(path="a.py"))
    assert sum(report.tests.values()) == 4


async def test_a_module_of_the_target_is_not_imported_in_place_of_the_tools(tmp_path: Path) -> None:
    for name in ("bandit.py", "json.py", "yaml.py", "sitecustomize.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    (tmp_path / "a.py").write_text(BAD)
    await guardian(tmp_path).review(SecurityReview(path="a.py"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("source", ["", "\n", "x = 1\r\ny = 2\r\n", "\ufeffx = 1\n", "# -*- coding: latin-1 -*-\n"])
async def test_unusual_but_good_sources_have_no_risks(source: str) -> None:
    assert (await review(source)).risks == []


@pytest.mark.parametrize("source", ["def f(:\n", "\tx\n y", "class", "print 'x'", "x = " + "(" * 9000 + ")" * 9000])
async def test_what_is_not_python_is_a_typed_error(source: str) -> None:
    with pytest.raises(NotParseableError, match="is not Python"):
        await review(source)


async def test_nesting_that_is_too_much_for_bandit_is_an_error_that_no_retry_repeats() -> None:
    with pytest.raises(ToolCrashedError) as caught:
        await review("x = " + "-" * 50_000 + "1\n", tool_timeout=20.0)
    assert not caught.value.retryable


async def test_what_takes_too_long_ends_in_time() -> None:
    with pytest.raises(ToolTimeoutError):
        await review(BAD, tool_timeout=0.02)


async def test_a_report_always_fits_a_message_and_its_counts_are_whole() -> None:
    report = await review("assert x\n" * 6000, tool_timeout=30.0)
    assert report.truncated
    assert report.tests == {"B101": 6000}
    assert len(report.model_dump_json()) < MAX_LISTED + 2000


async def test_the_same_is_refused_as_by_the_analyst(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.py").write_text("x = 1\n")
    (root / "link.py").symlink_to("../secret.py")
    (root / "nul.py").write_bytes(b"x\0")
    (root / "large.py").write_text("x = 1\n" * 100)
    agent = guardian(root, max_bytes=100)
    for path, error in (("link.py", OutsideRootError), ("nul.py", BinaryFileError), ("large.py", TooLargeError)):
        with pytest.raises(error):
            await agent.review(SecurityReview(path=path))
    with pytest.raises(ValueError, match="either source or path"):
        SecurityReview()


async def test_no_descriptor_is_left_whatever_the_end() -> None:
    await review(BAD)  # what Python opens the first time it keeps
    before = len(list(Path("/dev/fd").iterdir()))
    for source in (BAD, "def f(:\n", "x = " + "-" * 50_000 + "1\n"):
        try:
            await review(source)
        except (NotParseableError, ToolCrashedError):
            continue
    assert len(list(Path("/dev/fd").iterdir())) == before
