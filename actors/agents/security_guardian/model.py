"""What goes in and what comes out of a security review."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from actors.agents.review import SourceTask

Level = Literal["UNDEFINED", "LOW", "MEDIUM", "HIGH"]


class SecurityReview(SourceTask):
    """The task: Python source, or the path of a file below the agent's root."""


class Risk(BaseModel):
    """One finding of bandit. Lines and columns count from 1."""

    test: str
    """Its id, such as `B602`."""
    name: str
    severity: Level
    confidence: Level
    message: str
    line: int
    column: int
    cwe: int = 0
    """The number of the weakness (cwe.mitre.org), 0 when it is none of them."""


class SecurityReport(BaseModel):
    """The security review of one file."""

    name: str
    lines: int
    risks: list[Risk]
    tests: dict[str, int]
    """Risks by the test that found them."""
    severities: dict[str, int]
    """Risks by severity."""
    truncated: bool = False
    """Whether `risks` lists only the first of what was found, to fit a message. Counts are whole."""
