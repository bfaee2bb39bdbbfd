"""Options that many commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from revo.cli import completion
from revo.cli.common import Output

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for scripts")]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="the NATS server; default: REVO_NATS_URL, else the mesh here")
]
CapabilityOption = Annotated[
    str, typer.Option("--capability", "-c", help="the kind of work", autocompletion=completion.capabilities)
]
ClientOption = Annotated[str, typer.Option("--client", help="whose task, where several have the same id")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
