"""`revo memory get`, `put`, `rm` and the like: entries and their versions."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from actors.memory.backend import Written
from actors.memory.client import Memory
from actors.memory.diff import Difference
from actors.memory.model import Entry, Summary
from bus.errors import ConfigError, NotFoundError
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import DONE, FAILED, Output, ago, console, print_json, quiet_logs, run_async, say_line, table

if TYPE_CHECKING:
    from rich.text import Text

T = TypeVar("T")

SHOWN: Final = 60
"""Characters of a value that a table shows; JSON has all of them."""


class NoEntryError(NotFoundError):
    """Nothing stands there."""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


def get(namespace: str, key: str, version: int, *, url: str | None, output: Output) -> int:
    """Print a value; returns the exit status."""

    async def read(memory: Memory) -> Entry:
        return await standing(memory, key, version)

    entry = with_memory(read, namespace, url)
    if output is Output.JSON:
        print_json(as_json(entry))
    else:
        value = plain(entry.value)
        sys.stdout.write(f"{value if isinstance(value, str) else json.dumps(value, indent=2, default=str)}\n")
    if entry.alternatives and output is Output.TEXT:
        command = f"revo memory conflicts show {key}{of(namespace)}"
        say_line(f"{len(entry.alternatives)} more contradict it; `{command}` shows them")
    return DONE


async def standing(memory: Memory, key: str, version: int = 0) -> Entry:
    """What stands under a key.

    Raises:
        NoEntryError: nothing does, or this version is a delete.
    """
    entry = await memory.get(key, version)
    if entry is None:
        raise NoEntryError(f"{key} in {memory.namespace}", "nothing stands there")
    if entry.deleted and not entry.alternatives:
        what = "its time had run out" if entry.expired else f"{entry.by or 'somebody'} deleted it"
        raise NoEntryError(f"version {entry.version} of {key} in {memory.namespace}", what)
    return entry


def put(namespace: str, key: str, text: str, base: int | None, ttl: float, *, url: str | None, output: Output) -> int:
    """Write a value; returns the exit status."""
    value = parsed(text)
    return written(namespace, lambda memory: memory.put(key, value, base, ttl=ttl), url, output)


def rm(namespace: str, key: str, base: int | None, *, url: str | None, output: Output) -> int:
    """Delete an entry; returns the exit status."""

    async def delete(memory: Memory) -> Written:
        done = await memory.delete(key, base)
        if done.outcome == "absent":
            raise NoEntryError(f"{key} in {namespace}", "nothing stands there")
        return done

    return written(namespace, delete, url, output, what="is deleted")


def purge(namespace: str, key: str, *, yes: bool, url: str | None, output: Output) -> int:
    """Drop an entry and all its versions; returns the exit status."""
    if not yes and not _sure(key):
        return FAILED
    if not with_memory(lambda memory: memory.purge(key), namespace, url):
        raise NoEntryError(f"{key} in {namespace}", "nothing was ever written, or it is no longer kept")
    if output is Output.JSON:
        print_json({"namespace": namespace, "key": key, "purged": True})
    else:
        console().print(f"{key} is gone, with all its versions", soft_wrap=True, markup=False)
    return DONE


def _sure(key: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("revo memory purge", "cannot be undone; say --yes when nobody can be asked")
    question = f"Drop {literal(key)} and all its versions for good? \\[y/N] "
    return console().input(question).strip().lower() in ("y", "yes")


def undelete(namespace: str, key: str, *, url: str | None, output: Output) -> int:
    """Have an entry back; returns the exit status."""
    return written(namespace, lambda memory: memory.undelete(key), url, output)


def ls(namespace: str, prefix: str, *, url: str | None, output: Output) -> int:
    """List entries; returns the exit status."""

    async def read(memory: Memory) -> list[Summary]:
        return [one async for one in memory.walk(prefix)]

    found = with_memory(read, namespace, url)
    where = f"in {namespace}{f', {prefix} and below' if prefix else ''}"
    show_summaries(
        found,
        f"{len(found)} {'entry' if len(found) == 1 else 'entries'} {where}" if found else f"no entries {where}",
        output,
    )
    return DONE


def show_summaries(found: list[Summary], title: str, output: Output) -> None:
    """Entries as a table, or as one list."""
    if output is Output.JSON:
        print_json([dataclasses.asdict(one) for one in found])
        return
    shown = table(title, "key", ">version", ">bytes", ">written", "by", ">lives", ">conflicts")
    for one in found:
        lives = f"{one.ttl:g} s" if one.ttl else ""
        clash = f"[bold red]{one.conflicts}[/]" if one.conflicts else ""
        row = (str(one.version), f"{one.size:,}", f"{ago(one.at)} ago", literal(one.by), lives, clash)
        shown.add_row(literal(one.key), *row)
    shown.show_header = shown.row_count > 0
    console().print(shown)


def history(namespace: str, key: str, *, url: str | None, output: Output) -> int:
    """List versions; returns the exit status."""
    found = with_memory(lambda memory: memory.history(key), namespace, url)
    if not found:
        raise NoEntryError(f"{key} in {namespace}", "nothing was ever written, or it is no longer kept")
    if output is Output.JSON:
        print_json([as_json(entry) for entry in found])
        return DONE
    shown = table(f"{key} in {namespace}", ">version", ">written", "by", ">from", "what", "value")
    for entry in found:
        value = "" if entry.deleted else preview(entry.value)
        base = str(entry.base) if entry.base else ""
        shown.add_row(
            str(entry.version), f"{ago(entry.at)} ago", literal(entry.by), base, kind_of(entry), literal(value)
        )
    console().print(shown)
    return DONE


def diff(namespace: str, key: str, old: int, new: int, *, url: str | None, output: Output) -> int:
    """Show differences; returns the exit status."""
    found = with_memory(lambda memory: memory.diff(key, old, new), namespace, url)
    if output is Output.JSON:
        print_json([{**dataclasses.asdict(one), "old": plain(one.old), "new": plain(one.new)} for one in found])
        return DONE
    for line in difference_lines(found):
        console().print(line, soft_wrap=True)
    if not found:
        console().print("no difference")
    return DONE


def difference_lines(found: Iterable[Difference]) -> list[Text]:
    """Differences, a line each."""
    from rich.text import Text

    signs, lines = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}, []
    for one in found:
        sign, style = signs[one.kind]
        values = {"added": (one.new,), "removed": (one.old,), "changed": (one.old, one.new)}[one.kind]
        lines.append(Text(f"{sign} {one.path}: ", style).append(" -> ".join(map(preview, values)), "default"))
    return lines


def watch(namespace: str, prefix: str, since: int | None, count: int, *, url: str | None, output: Output) -> int:
    """Print what is written, as it is; returns the exit status."""

    async def follow(memory: Memory) -> None:
        left = count
        async with contextlib.aclosing(memory.watch(prefix, since)) as versions:
            async for entry in versions:
                if output is Output.JSON:
                    print_json(as_json(entry))
                else:
                    console().print(_line(entry), soft_wrap=True)
                left -= 1
                if not left:
                    return

    with_memory(follow, namespace, url, doing="")
    return DONE


def _line(entry: Entry) -> Text:
    from rich.text import Text

    clock = datetime.datetime.fromtimestamp(entry.at).astimezone().strftime("%H:%M:%S")
    line = Text(f"{clock} ", style="dim").append(f"{entry.version:>6} ", "cyan").append(entry.key, "bold")
    line.append(f"  {kind_of(entry)} by {entry.by or 'somebody'}", "dim")
    return line if entry.deleted else line.append(f"  {preview(entry.value)}", "default")


# --- what all of them do --------------------------------------------------------------------------------------


def with_memory(
    work: Callable[[Memory], Awaitable[T]], namespace: str, url: str | None, doing: str = "asking shared memory"
) -> T:
    """Do something with a namespace of the mesh that runs here."""

    async def connected() -> T:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-memory-cli") as mesh:
            return await work(Memory(mesh, namespace))

    quiet_logs()
    return run_async(connected(), doing)


def written(
    namespace: str,
    work: Callable[[Memory], Awaitable[Written]],
    url: str | None,
    output: Output,
    what: str = "stands there",
) -> int:
    """Write, and say what became of it; returns the exit status: 1 when it is not what stands there now."""
    done = with_memory(work, namespace, url)
    if output is Output.JSON:
        print_json({"namespace": namespace, **dataclasses.asdict(done), "value": plain(done.value)})
    elif done.outcome == "conflict":
        show = f"revo memory conflicts show {done.key}{of(namespace)}"
        say_line(f"{done.key}: it contradicts what stands there, and waits beside it; `{show}` shows both")
    else:
        tail = {"overwrote": ", in place of what was not its base", "merged": ", merged with what stood there"}
        line = f"{done.key} {what} as version {done.version}{tail.get(done.outcome, '')}"
        console().print(line, soft_wrap=True, markup=False)
    return FAILED if done.outcome == "conflict" else DONE


def parsed(text: str) -> Any:
    """A value as it was typed: JSON, `@file` or `-`.

    Raises:
        ConfigError: it is none, or the file cannot be read.
    """
    source = "the value"
    try:
        if text == "-":
            source, text = "stdin", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise ConfigError(source or "@", (error.strerror or "cannot be read").lower()) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(source, f"""is not JSON: {error}; a text is written '"text"'""") from error


def as_json(entry: Entry) -> dict[str, Any]:
    """A version as scripts see it."""
    shown = dataclasses.asdict(entry)
    for one in (shown, *shown["alternatives"]):
        one["value"] = plain(one["value"])
    return shown


def plain(value: Any) -> Any:
    """A value as JSON can have it: keys as texts, bytes as text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def preview(value: Any) -> str:
    """A value in one short line."""
    text = json.dumps(plain(value), default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def kind_of(entry: Entry) -> str:
    """What a version is, in a word or two."""
    if entry.expired and entry.deleted:
        return "expired"
    if entry.alternatives:
        return f"{len(entry.alternatives)} contradict it"
    if entry.deleted:
        return "deleted"
    return f"merged with {entry.merged}" if entry.merged else "expired" if entry.expired else "written"


def literal(text: str) -> str:
    """A text that stands in a table as it is."""
    from rich.markup import escape

    return escape(text)


def of(namespace: str) -> str:
    """The option that names it, for a command that is to be typed."""
    return "" if namespace == "main" else f" -n {namespace}"
