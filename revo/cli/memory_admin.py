"""`revo memory conflicts`, `locks` and `namespaces`: what somebody has to look after."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from actors.memory.backend import Written
from actors.memory.client import Memory
from actors.memory.diff import diff
from actors.memory.doors import doors_of
from actors.memory.model import Alternative, Entry, LockState, Namespace, Strategy, Summary
from actors.memory.namespaces import sizes
from actors.memory.plain import ABSENT
from bus import subjects
from bus.errors import ConfigError
from bus.mesh import Mesh
from bus.settings import Settings
from revo.cli.common import DONE, Output, ago, console, print_json, quiet_logs, run_async, table
from revo.cli.memory_entries import (
    NoEntryError,
    as_json,
    difference_lines,
    literal,
    of,
    parsed,
    preview,
    show_summaries,
    with_memory,
    written,
)

V = TypeVar("V", int, str)


# --- conflicts ------------------------------------------------------------------------------------------------


def conflicts_ls(namespace: str, *, url: str | None, output: Output) -> int:
    """List entries with conflicts; returns the exit status."""

    async def read(memory: Memory) -> list[Summary]:
        found, after = list[Summary](), ""
        while True:
            page = await memory.conflicts(after, limit=1000)
            found += page.entries
            after = page.after
            if not after:
                return found

    found = with_memory(read, namespace, url)
    where = f"in {namespace}"
    show_summaries(
        found,
        f"{len(found)} {'conflict' if len(found) == 1 else 'conflicts'} {where}" if found else f"no conflicts {where}",
        output,
    )
    return DONE


async def _split(memory: Memory, key: str) -> Entry:
    """The newest version of an entry that has conflicts, be it a delete."""
    versions = await memory.history(key)
    if not versions or not versions[-1].alternatives:
        raise NoEntryError(f"{key} in {memory.namespace}", "it has no conflicts")
    return versions[-1]


def conflicts_show(namespace: str, key: str, *, url: str | None, output: Output) -> int:
    """Show a conflict set; returns the exit status."""
    entry = with_memory(lambda memory: _split(memory, key), namespace, url)
    if output is Output.JSON:
        print_json(as_json(entry))
        return DONE
    terminal, stands = console(), ABSENT if entry.deleted else entry.value
    terminal.print(f"{key} in {namespace}, version {entry.version}", style="bold", markup=False, soft_wrap=True)
    terminal.print(f"[bold]0[/]  {literal('deleted' if entry.deleted else preview(entry.value))}", soft_wrap=True)
    for number, one in enumerate(entry.alternatives, 1):
        based = f"based on version {one.base}" if one.base else "based on nothing"
        reason = f"; {one.reason}" if one.reason else ""
        said = literal(f"by {one.by or 'somebody'}, {ago(one.at)} ago, {based}{reason}")
        terminal.print(f"[bold]{number}[/]  [dim]{said}[/]", soft_wrap=True)
        for line in difference_lines(diff(stands, ABSENT if one.deleted else one.value)):
            terminal.print("   ", line, soft_wrap=True)
    terminal.print(
        f"`revo memory conflicts resolve {key} --take NUMBER --base {entry.version}{of(namespace)}` takes one of them",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    return DONE


def conflicts_resolve(
    namespace: str,
    key: str,
    text: str | None,
    take: int | None,
    base: int | None,
    *,
    url: str | None,
    output: Output,
) -> int:
    """Choose a value; returns the exit status."""
    if (text is None) == (take is None):
        raise ConfigError("revo memory conflicts resolve", "say a value, or --take NUMBER, and not both")
    value = parsed(text) if text is not None else None

    async def resolve(memory: Memory) -> Written:
        entry = await _split(memory, key)
        if base not in {None, entry.version}:
            raise ConfigError(f"--base {base}", f"version {entry.version} stands there by now; look at it again")
        if take is None:
            return await memory.resolve(key, value, entry)
        chosen = _chosen(entry, take)
        if chosen.deleted:
            return await memory.resolve(key, base=entry, delete=True)
        return await memory.resolve(key, chosen.value, entry)

    return written(namespace, resolve, url, output, what="is resolved")


def _chosen(entry: Entry, number: int) -> Entry | Alternative:
    if number > len(entry.alternatives):
        raise ConfigError(f"--take {number}", f"there are 0 to {len(entry.alternatives)}")
    return entry.alternatives[number - 1] if number else entry


# --- locks ----------------------------------------------------------------------------------------------------


def locks(namespace: str, *, url: str | None, output: Output) -> int:
    """Show locks, of one namespace or of all; returns the exit status."""
    if namespace:
        subjects.token(namespace, "namespace")

    async def read(mesh: Mesh) -> list[LockState]:
        return await doors_of(mesh).locks.locks(namespace)

    found = _with_mesh(read, url)
    if output is Output.JSON:
        print_json([{**dataclasses.asdict(one), "seconds": round(time.time() - one.since, 3)} for one in found])
        return DONE
    where = f"in {namespace}" if namespace else "in any namespace"
    held = sum(one.token > 0 for one in found)
    title = f"{held} held, {len(found) - held} waited for, {where}" if found else f"no locks {where}"
    shown, places = table(title, "namespace", "key", "mode", "state", "by", ">for", ">token"), Counter[str]()
    for one in found:
        root = f"{one.namespace}/{one.key.partition('/')[0]}"
        places[root] += not one.token
        state = "[green]held[/]" if one.token else f"[yellow]waits, {places[root]}.[/]"
        token = str(one.token) if one.token else ""
        shown.add_row(one.namespace, literal(one.key), one.mode.value, state, literal(one.by), ago(one.since), token)
    shown.show_header = shown.row_count > 0
    console().print(shown)
    return DONE


# --- namespaces -----------------------------------------------------------------------------------------------


def namespaces_ls(*, url: str | None, output: Output) -> int:
    """List namespaces; returns the exit status."""

    async def read(mesh: Mesh) -> list[tuple[str, int, Namespace]]:
        found = await sizes(mesh)
        return [(name, size, await Memory(mesh, name).describe()) for name, size in found.items()]

    found = _with_mesh(read, url)
    if output is Output.JSON:
        print_json([{"namespace": name, "keys": size, **how.model_dump()} for name, size, how in found])
        return DONE
    shown = table("namespaces" if found else "no namespaces", "namespace", ">keys", "strategy", "rules and ranks")
    for name, size, how in found:
        more = ", ".join(f"{key}={value}" for key, value in {**how.rules, **how.ranks}.items())
        shown.add_row(name, f"{size:,}", how.strategy, literal(more))
    shown.show_header = shown.row_count > 0
    console().print(shown)
    return DONE


def namespaces_show(name: str, *, url: str | None, output: Output) -> int:
    """Show how a namespace is used; returns the exit status."""
    return _show(name, with_memory(lambda memory: memory.describe(), name, url), output)


def _show(name: str, how: Namespace, output: Output) -> int:
    if output is Output.JSON:
        print_json({"namespace": name, **how.model_dump()})
        return DONE
    rows = [("namespace", name), ("strategy", how.strategy)]
    rows += [("rule", f"{path} = {kind}") for path, kind in how.rules.items()]
    rows += [("rank", f"{who} = {rank}") for who, rank in how.ranks.items()]
    for key, value in rows:
        console().print(f"[bold]{key:<12}[/]{literal(value)}", soft_wrap=True)
    return DONE


def namespaces_set(
    name: str, strategy: str, rules: list[str], ranks: list[str], *, url: str | None, output: Output
) -> int:
    """Say how a namespace is used; returns the exit status."""
    if not (strategy or rules or ranks):
        raise ConfigError("revo memory namespaces set", "say what: --strategy, --rule or --rank")
    if strategy and strategy not in get_args(Strategy):
        raise ConfigError(f"--strategy {strategy}", f"is one of {', '.join(get_args(Strategy))}")
    new_rules, new_ranks = _pairs("--rule", rules, str), _pairs("--rank", ranks, int)
    Namespace(rules=_given(new_rules), ranks=_given(new_ranks))  # before anything is asked

    async def configure(memory: Memory) -> Namespace:
        now = await memory.describe()
        how = Namespace(
            strategy=strategy or now.strategy,  # type: ignore[arg-type]  # one of them, as was seen above
            rules=_given({**now.rules, **new_rules}),
            ranks=_given({**now.ranks, **new_ranks}),
        )
        await memory.configure(how, now)
        return how

    return _show(name, with_memory(configure, name, url), output)


def _pairs(option: str, given: list[str], kind: Callable[[str], V]) -> dict[str, V | None]:
    """`name=value` as a map; None: it is to be taken away."""
    found: dict[str, V | None] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {text}", f"is written {option} name=value")
        try:
            found[name.strip()] = kind(value.strip()) if value.strip() else None
        except ValueError:
            raise ConfigError(f"{option} {text}", f"{value.strip()} is no number") from None
    return found


def _given(pairs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pairs.items() if value is not None}


def _with_mesh(work: Callable[[Mesh], Any], url: str | None) -> Any:
    async def connected() -> Any:
        async with Mesh.connect(url, settings=Settings.from_env(), service="revo-memory-cli") as mesh:
            return await work(mesh)

    quiet_logs()
    return run_async(connected(), "asking shared memory")
