"""Whatever is sent for review ends in a report that fits a message, or in a typed error that no retry repeats."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.agents.code_analyst import CodeAnalyst
from actors.agents.code_analyst.direct import add_up, direct_totals
from actors.agents.code_analyst.model import CodeReview, Report
from actors.agents.errors import BinaryFileError, NotAFileError, NotParseableError
from actors.agents.files import python_files
from actors.agents.review import MAX_LISTED, ReviewSettings
from actors.agents.source import _read_bytes, read_source
from actors.agents.tools import ToolCrashedError, ToolOutputError

LARGEST_MESSAGE = 1024 * 1024 - 64 * 1024


def analyst(root: Path) -> CodeAnalyst:
    agent = CodeAnalyst()
    agent.settings = ReviewSettings.model_validate({"root": root})
    return agent


async def review(root: Path, source: str) -> Report:
    return await analyst(root).review(CodeReview(source=source))


@pytest.mark.parametrize(
    "source",
    [
        "(" * 5000 + "1" + ")" * 5000,
        "x = " + "-" * 300_000 + "1",
        "x = " + "[" * 100_000 + "]" * 100_000,
        "x = a" + ".b" * 200_000,
        "x = " + "+".join(["1"] * 100_000),
        "".join(" " * i + "if a:\n" for i in range(900)) + " " * 900 + "pass\n",
    ],
    ids=["parentheses", "unary", "brackets", "attributes", "sum", "indents"],
)
async def test_nesting_that_overflows_a_tools_stack_is_an_error_that_no_retry_repeats(
    tmp_path: Path, source: str
) -> None:
    with pytest.raises((NotParseableError, ToolCrashedError)) as caught:
        await review(tmp_path, source)
    assert isinstance(caught.value, NotParseableError | ToolCrashedError)
    assert not caught.value.retryable
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "source",
    ["import " + "a" * 1_000_000, "\n".join(f"import module_{n}" for n in range(6000)), "def f(): pass\n" * 6000],
    ids=["a name as long as its file", "many findings", "many functions"],
)
async def test_a_report_always_fits_a_message_and_its_counts_are_whole(tmp_path: Path, source: str) -> None:
    report = await review(tmp_path, source)
    assert len(report.model_dump_json()) < LARGEST_MESSAGE
    assert report.truncated == (sum(report.rules.values()) > len(report.findings))
    assert report.findings
    assert add_up([report.model_dump()]).rules == report.rules
    assert report.function_count == source.count("def ")


async def test_functions_beyond_the_limit_are_counted_but_not_listed(tmp_path: Path) -> None:
    report = await review(tmp_path, "".join(f"def f_{n}(a):\n    return a if a else 1\n" for n in range(10_000)))
    assert report.truncated
    assert len(report.functions) < report.function_count == report.total_complexity == 10_000
    assert len(report.model_dump_json()) < MAX_LISTED * 2 + 10_000


async def test_more_than_can_be_read_of_a_tool_is_an_error_that_no_retry_repeats(tmp_path: Path) -> None:
    with pytest.raises(ToolOutputError) as caught:
        await review(tmp_path, "def f(): pass\n" * 70_000)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "data",
    [
        b"# coding: undefined\nx = 1\n",
        b"# coding: rot13\nx = 1\n",
        b"# coding: unicode_escape\nx = '\\x00'\n",
        b"# coding: unicode_escape\nx = '\\ud800'\n",
        b"# coding: utf-7\nx = '+2AA-'\n",
        b"# coding: utf-16\nx = 1\n",
        b"# coding: ascii\nx = '\xe9'\n",
    ],
)
def test_an_encoding_that_yields_no_text_makes_a_file_binary(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.py").write_bytes(data)
    with pytest.raises(BinaryFileError):
        read_source("a.py", root=tmp_path, max_bytes=1000)


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.py")
        with pytest.raises(NotAFileError):
            read_source("s.py", root=tmp_path, max_bytes=1000)


def test_a_pipe_is_not_opened_so_nobody_who_waits_at_its_other_end_is_woken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    opened: list[str] = []
    real = os.open

    def spy(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        opened.append(str(path))
        return real(path, flags, *args, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", spy)
        with pytest.raises(NotAFileError):
            read_source("pipe.py", root=tmp_path, max_bytes=1000)
    assert opened == [str(tmp_path)]


def test_a_folder_exchanged_for_a_link_after_the_check_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.py").write_text("secret = 1\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "folder").symlink_to("../outside")
    with pytest.raises(OSError, match="folder"):
        _read_bytes("folder/a.py", tmp_path / "root", Path("folder/a.py"), 1000)


def test_no_descriptor_is_left_by_any_refusal(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "big.py").write_text("x" * 100)
    before = len(list(Path("/dev/fd").iterdir()))
    for path in ("deep/deeper/big.py", "deep/none/a.py", "deep/deeper", "deep/deeper/big.py/a.py", "", "."):
        with pytest.raises(Exception, match=r"exceeds|does not exist|not a regular"):
            read_source(path, root=tmp_path, max_bytes=10)
    assert len(list(Path("/dev/fd").iterdir())) == before


async def test_the_name_in_an_error_forges_no_line_of_a_log(tmp_path: Path) -> None:
    with pytest.raises(NotParseableError) as caught:
        await analyst(tmp_path).review(CodeReview(source="def", name="a.py\nERROR all is lost"))
    assert "\n" not in str(caught.value)


async def test_the_syntax_of_the_newest_python_is_understood(tmp_path: Path) -> None:
    report = await review(tmp_path, "try:\n    f()\nexcept KeyError, ValueError:\n    print(t'{f}')\n")
    assert report.lines == 4


@pytest.mark.parametrize(
    "source", ["x = 1\r\ny = 2\r\n", "x = 1\ry = 2", "x = 1\n\x0cy = 2\n", "x = '\u2028'\ny = 2\n"]
)
async def test_lines_are_counted_as_python_counts_them(tmp_path: Path, source: str) -> None:
    assert (await review(tmp_path, source)).lines == 2


async def test_a_suppression_that_we_ignore_is_not_called_unused(tmp_path: Path) -> None:
    report = await review(tmp_path, "# ruff: disable[F401]\nimport os\n# ruff: enable[F401]\n")
    assert report.rules == {"F401": 1}


def test_a_root_that_is_no_folder_is_refused_before_any_task_comes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="root"):
        ReviewSettings.model_validate({"root": tmp_path / "none"})


async def test_the_totals_agree_on_files_that_one_parser_alone_gives_up_on(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text("(" * 5000 + "1" + ")" * 5000)
    (tmp_path / "good.py").write_text("import os\n")
    totals = direct_totals([tmp_path / "deep.py", tmp_path / "good.py"])
    assert (totals.rules, totals.unparseable) == ({"F401": 1}, 1)
    with pytest.raises(NotParseableError):
        await analyst(tmp_path).review(CodeReview(path="deep.py"))


def test_only_files_that_both_ways_read_alike_are_chosen(tmp_path: Path) -> None:
    for folder in (".venv", "node_modules", "tests", "package"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("import os\n")
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xc3\xa9'\n")
    (tmp_path / "link.py").symlink_to("package/a.py")
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    root, found = python_files(10, tmp_path)
    assert [str(path.relative_to(root)) for path in found] == ["package/a.py"]
