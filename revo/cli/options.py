"""Options that many commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from revo.cli import completion
from revo.cli.common import Output


class SpecWhat(enum.StrEnum):
    """Which document `revo spec` writes."""

    ASYNCAPI = "asyncapi"
    SCHEMAS = "schemas"


class SpecForm(enum.StrEnum):
    """How it is written."""

    YAML = "yaml"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for scripts")]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="the NATS server; default: REVO_NATS_URL, else the mesh here")
]
CapabilityOption = Annotated[
    str, typer.Option("--capability", "-c", help="the kind of work", autocompletion=completion.capabilities)
]
ClientOption = Annotated[str, typer.Option("--client", help="whose task, where several have the same id")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
EachOption = Annotated[
    str | None, typer.Option("--each", help="a task for each file that this pattern finds, as 'src/**/*.py'")
]
JsonLinesOption = Annotated[
    str | None, typer.Option("--jsonl", help="a task for each line of this file, the message as JSON; - reads stdin")
]
PathFieldOption = Annotated[str | None, typer.Option("--as", help="with --each: the field of the path; default: path")]
TextFieldOption = Annotated[str | None, typer.Option("--content", help="with --each: a field for the file's text, too")]
ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="where results go, as JSON lines; what it has is not done again")
]
BatchOption = Annotated[
    str | None, typer.Option("--batch", help="a name for the work: under another one it is done anew")
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="of many tasks, do those anew that failed by the word of --results")
]
AtOnceOption = Annotated[
    int | None,
    typer.Option("--at-once", min=1, max=100_000, help="of many tasks, so many wait or run at a time; default: 1000"),
]
