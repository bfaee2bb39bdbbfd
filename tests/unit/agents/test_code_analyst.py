"""The code analyst is real: real tools over real files, and every file that it cannot review is a typed error."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.agents.code_analyst import CodeAnalyst
from actors.agents.code_analyst.direct import add_up, direct_totals
from actors.agents.code_analyst.model import CodeReview, Report
from actors.agents.errors import (
    BinaryFileError,
    MissingFileError,
    NotAFileError,
    NotParseableError,
    OutsideRootError,
    SourceError,
    TooLargeError,
    UnreadableError,
)
from actors.agents.files import python_files
from actors.agents.review import ReviewSettings
from actors.agents.tools import ToolTimeoutError

BAD = "import os\n\n\ndef f(x=[]):\n    assert x\n    for i in x:\n        if i:\n            print(i)\n"


def analyst(root: Path, **settings: float) -> CodeAnalyst:
    agent = CodeAnalyst()
    agent.settings = ReviewSettings.model_validate({"root": root, **settings})
    return agent


async def review(root: Path, path: str, **settings: float) -> Report:
    return await analyst(root, **settings).review(CodeReview(path=path))


async def test_a_source_gets_a_report_with_findings_and_complexity(tmp_path: Path) -> None:
    report = await analyst(tmp_path).review(CodeReview(source=BAD))
    assert report.rules == {"B006": 1, "F401": 1, "S101": 1}
    assert [(finding.rule, finding.line) for finding in report.findings if finding.rule == "F401"] == [("F401", 1)]
    assert [(function.name, function.complexity) for function in report.functions] == [("f", 3)]
    assert (report.max_complexity, report.lines) == (3, 8)


async def test_a_path_is_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.py").write_text(BAD)
    (tmp_path / "link.py").symlink_to("deep/a.py")
    assert (await review(tmp_path, "deep/a.py")).rules == (await review(tmp_path, "link.py")).rules
    assert (await review(tmp_path, "deep/a.py")).name == "deep/a.py"


async def test_the_sum_of_reviews_equals_the_tools_run_directly() -> None:
    root, files = python_files(12)
    reports = [(await review(root, str(path.relative_to(root)))).model_dump() for path in files]
    totals = add_up(reports)
    assert totals == direct_totals(files)
    assert sum(totals.rules.values()) > 20


async def test_a_hostile_configuration_beside_the_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(BAD)
    before = await review(tmp_path, "a.py")
    (tmp_path / "pyproject.toml").write_text('[tool.ruff.lint]\nselect = []\nignore = ["ALL"]\n')
    (tmp_path / "ruff.toml").write_text('lint.per-file-ignores = {"*.py" = ["ALL"]}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUFF_CONFIG", str(tmp_path / "ruff.toml"))
    assert await review(tmp_path, "a.py") == before
    assert direct_totals([tmp_path / "a.py"]).rules == before.rules, "the same where the tool could find it by path"


async def test_comments_in_the_file_do_not_silence_what_is_found(tmp_path: Path) -> None:
    report = await analyst(tmp_path).review(CodeReview(source=f"# ruff: noqa\n{BAD}"))
    assert {"B006", "F401", "S101"} <= set(report.rules)


@pytest.mark.parametrize("source", ["", "\n", "x = 1\r\ny = 2\r\n", "\ufeffx = 1\n", "# -*- coding: latin-1 -*-\n"])
async def test_unusual_but_good_sources_are_reviewed(tmp_path: Path, source: str) -> None:
    assert (await analyst(tmp_path).review(CodeReview(source=source))).functions == []


@pytest.mark.parametrize("source", ["def f(:\n", "x = " + "(" * 9000 + ")" * 9000, "\tx\n y", "class", "print 'x'"])
async def test_what_is_not_python_is_a_typed_error(tmp_path: Path, source: str) -> None:
    with pytest.raises(NotParseableError, match="is not Python"):
        await analyst(tmp_path).review(CodeReview(source=source))


@pytest.mark.parametrize("name", ["-", "--config=x.py", "a\nb.py", "../../x.py", "--fix", "a;b.py", "x" * 300 + ".py"])
async def test_a_hostile_name_is_harmless(tmp_path: Path, name: str) -> None:
    report = await analyst(tmp_path).review(CodeReview(source=BAD, name=name))
    assert (report.name, report.rules["F401"]) == (name, 1)


async def test_files_outside_the_root_are_refused_however_they_are_reached(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.py").write_text("x = 1\n")
    (root / "link.py").symlink_to("../secret.py")
    (root / "folder").symlink_to("..")
    for path in ("../secret.py", "link.py", "folder/secret.py", str(tmp_path / "secret.py"), "/etc/passwd"):
        with pytest.raises(OutsideRootError):
            await review(root, path)


async def test_files_that_cannot_be_read_are_typed_errors_and_a_pipe_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(MissingFileError):
        await review(tmp_path, "none.py")
    with pytest.raises(MissingFileError):
        await review(tmp_path, "nul\0.py")
    with pytest.raises(NotAFileError):
        await review(tmp_path, "folder.py")
    with pytest.raises(NotAFileError):
        await review(tmp_path, "pipe.py")
    with pytest.raises((UnreadableError, MissingFileError, NotAFileError)):  # which of them is Python's version to say
        await review(tmp_path, "loop.py")


async def test_what_is_not_text_is_binary(tmp_path: Path) -> None:
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    (tmp_path / "elf.py").write_bytes(bytes(range(1, 256)))
    (tmp_path / "coding.py").write_bytes(b"# coding: no-such-encoding\nx = 1\n")
    for name in ("nul.py", "elf.py", "coding.py"):
        with pytest.raises(BinaryFileError):
            await review(tmp_path, name)
    with pytest.raises(BinaryFileError):
        await analyst(tmp_path).review(CodeReview(source="x\0"))


async def test_a_file_in_its_declared_encoding_is_read(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes("# coding: latin-1\nimport os\nx = 'é'\n".encode("latin-1"))
    assert (await review(tmp_path, "latin.py")).rules["F401"] == 1


async def test_too_large_names_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("x = 1\n" * 100)
    with pytest.raises(TooLargeError, match="of 600 bytes exceeds the limit of 599 bytes"):
        await review(tmp_path, "big.py", max_bytes=599)
    assert (await review(tmp_path, "big.py", max_bytes=600)).lines == 100
    with pytest.raises(TooLargeError):
        await analyst(tmp_path, max_bytes=5).review(CodeReview(source="x = 1\n"))


async def test_a_tool_that_takes_too_long_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ToolTimeoutError):
        await analyst(tmp_path, tool_timeout=0.001).review(CodeReview(source=BAD))


@pytest.mark.parametrize("message", [{}, {"source": "x", "path": "y"}])
def test_a_task_has_either_a_source_or_a_path(message: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give either source or path"):
        CodeReview.model_validate(message)


@pytest.mark.parametrize("error", [TooLargeError("a.py", 2, 1), MissingFileError("a.py", "does not exist")])
def test_errors_survive_pickling_and_say_that_no_retry_helps(error: SourceError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    assert str(copy) == str(error)
    assert not copy.retryable
    assert copy.code
