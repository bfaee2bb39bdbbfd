"""`revo run`: one actor in the foreground. A pod's command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from revo.cli.common import USAGE, guarded

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"revo: {message}; try `revo run --help`\n")


def main(arguments: Sequence[str]) -> int:
    """Parse and run. By argparse, which Python has loaded in 6 ms; the other commands' parser takes 40 ms more."""
    parser = _Parser(prog="revo run", add_help=False)
    parser.add_argument("target")
    parser.add_argument("--name")
    parser.add_argument("--url")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    return guarded(lambda: run(given.target, given.name, given.url, json_logs=given.output == "json"))


def run(target: str, name: str | None, url: str | None, *, json_logs: bool) -> int:
    """Run one actor until it is told to stop; returns the exit status."""
    import os
    import sys

    import uvloop

    from actors.host import run as run_actor
    from bus.settings import Settings

    sys.path.insert(0, os.getcwd())  # noqa: PTH109  (what `python -m` does, so that the user's own modules are found)
    return run_actor(target, name=name, settings=Settings.from_env().at(url), runner=uvloop.run, json_logs=json_logs)
