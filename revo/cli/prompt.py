"""`revo prompt`: talk to an agent from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bus.errors import ConfigError, RequestTimeoutError
from bus.mesh import Mesh
from bus.prompting import UnansweredQueryError
from bus.prompts import Attachment, Query, Response
from bus.settings import Settings
from revo.cli.common import DONE, TIMED_OUT, Output, print_json, quiet_logs, run_async, say_error, say_line

_UNSEEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What would move the cursor of a terminal, or do worse: others wrote the answer."""


@dataclass(frozen=True)
class Request:
    """What to say to whom, as the user wrote it."""

    agent: str
    text: str
    attach: list[Path]
    answers: list[str]
    owner: str | None
    session: str | None
    timeout: float | None
    inactivity: float
    save: Path | None

    def attachments(self) -> list[Attachment]:
        """The files, read.

        Raises:
            ConfigError: one cannot be read.
        """
        try:
            return [Attachment(filename=path.name, content=path.read_bytes()) for path in self.attach]
        except OSError as error:
            raise ConfigError(f"--attach {error.filename}", (error.strerror or "cannot be read").lower()) from error


def prompt(request: Request, *, url: str | None, output: Output) -> int:
    """Prompt an agent and show its answer as it comes; returns the exit status."""
    quiet_logs()
    text = sys.stdin.read() if request.text == "-" else request.text
    if request.save is not None and not request.save.is_dir():
        raise ConfigError(f"--save {request.save}", "is not a folder")
    try:
        return run_async(_prompt(request, text, request.attachments(), url, output))
    except RequestTimeoutError as error:
        say_error(error)
        return TIMED_OUT


async def _prompt(request: Request, text: str, attachments: list[Attachment], url: str | None, output: Output) -> int:
    async with Mesh.connect(url, settings=Settings.from_env(), service="revo-prompt") as mesh:
        asked = mesh.prompt(
            request.agent,
            text,
            attachments=attachments,
            owner=request.owner,
            session=request.session,
            timeout=request.timeout,
            inactivity=request.inactivity,
        )
        shown = _Shown(request.agent, list(request.answers), request.save, live=output is Output.TEXT)
        try:
            async with contextlib.aclosing(asked.chunks()) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Query):
                        await asked.answer(chunk, await shown.ask(chunk))
                    elif isinstance(chunk, Response):
                        shown.add(chunk)
        finally:
            shown.end()
    if output is Output.JSON:
        print_json(shown.public())
    return DONE


class _Shown:
    """The answer as far as it has come; on a terminal it is seen as it comes."""

    def __init__(self, agent: str, answers: list[str], folder: Path | None, *, live: bool) -> None:
        self._agent = agent
        self._answers = answers
        self._folder = folder
        self._live = live
        self._texts: list[str] = []
        self._attachments: list[Attachment] = []

    def add(self, chunk: Response) -> None:
        self._texts.append(chunk.text)
        if self._live:
            sys.stdout.write(_UNSEEN.sub("", chunk.text) if sys.stdout.isatty() else chunk.text)
            sys.stdout.flush()
        for attachment in chunk.attachments:
            self._attachments.append(attachment)
            if self._folder is not None:
                _save(self._folder / attachment.filename, attachment.content)
            elif self._live:
                say_line(f"{attachment.filename}: {len(attachment.content)} bytes; --save FOLDER keeps it")

    def end(self) -> None:
        if self._live and self._texts and not self._texts[-1].endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()

    async def ask(self, query: Query) -> str:
        """The next of the answers that were given, else what is typed at the terminal.

        Raises:
            UnansweredQueryError: there is none, and nobody at a terminal.
        """
        if self._answers:
            return self._answers.pop(0)
        if not sys.stdin.isatty():
            raise UnansweredQueryError(self._agent, query.prompt)
        sys.stderr.write(f"\n{self._agent} asks: {_UNSEEN.sub('', query.prompt)}\n> ")
        sys.stderr.flush()
        typed: str = await asyncio.to_thread(sys.stdin.readline)
        if not typed:
            raise UnansweredQueryError(self._agent, query.prompt)
        return typed.rstrip("\n")

    def public(self) -> dict[str, Any]:
        """As scripts see it."""
        attachments = [attachment.model_dump(mode="json") for attachment in self._attachments]
        return {
            "agent": self._agent,
            "text": "".join(self._texts),
            "attachments": attachments,
            "chunks": len(self._texts),
        }


def _save(path: Path, content: bytes) -> None:
    """Write a file that the agent sent; one that is there already stays as it is."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise ConfigError(f"--save {path}", "is there already, and stays as it is") from None
    except OSError as error:
        raise ConfigError(f"--save {path}", (error.strerror or "cannot be written").lower()) from error
