"""What goes in and what comes out of a code review."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from actors.agents.review import Name, SourceTask


class CodeReview(SourceTask):
    """The task: Python source, or the path of a file below the agent's root."""


class Finding(BaseModel):
    """One finding of ruff. Lines and columns count from 1."""

    rule: str
    message: str
    line: int
    column: int


class FunctionComplexity(BaseModel):
    """The cognitive complexity of one function; methods are named `Class::method`."""

    name: str
    line: int
    complexity: int


class Report(BaseModel):
    """The review of one file."""

    name: str
    lines: int
    findings: list[Finding]
    rules: dict[str, int]
    """Findings by rule."""
    functions: list[FunctionComplexity]
    function_count: int
    total_complexity: int
    max_complexity: int
    truncated: bool = False
    """Whether `findings` or `functions` lists only the first of what was found, to fit a message. Counts are whole."""


class CodeSurvey(BaseModel):
    """The task: files below the agent's root, which are reviewed one after the other."""

    paths: Annotated[list[Name], Field(min_length=1, max_length=5000)]


class Survey(BaseModel):
    """What was found in the first `files` of them, in all: the result, and before that the checkpoint."""

    files: int = 0
    rules: dict[str, int] = {}
    """Findings by rule."""
    function_count: int = 0
    total_complexity: int = 0
    failed: dict[str, str] = {}
    """The files that could not be reviewed, and why."""
