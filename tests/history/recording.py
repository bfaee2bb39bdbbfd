"""Clients write down what they do as they do it, a line before each call and a line after; what a killed one began is
known by that. Lines of all clients together are a history.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.history.records import Change, History, Hold, Op, Seen, Shown, Watcher

Line = dict[str, Any]


class Recorder:
    """Writes one client's lines. Each is written in one piece and at once, so that a kill loses none."""

    def __init__(self, path: Path, client: str) -> None:
        self.client = client
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._count = 0

    def say(self, what: str, **fields: Any) -> None:
        """One line, with the time."""
        line = json.dumps({"what": what, "client": self.client, "at": time.monotonic(), **fields})
        os.write(self._file, f"{line}\n".encode())

    def next(self) -> str:
        """What nobody else has: an id of a call, or a value."""
        self._count += 1
        return f"{self.client}.{self._count}"

    def called(self, kind: str, key: str, **fields: Any) -> str:
        """A call begins; returns its id."""
        number = self.next()
        self.say("called", id=number, kind=kind, key=key, **fields)
        return number

    def answered(self, call: str, outcome: str, seen: tuple[int | None, str | None] | None = None) -> None:
        """It came to an end that is known."""
        self.say("answered", id=call, outcome=outcome, seen=seen)

    def close(self) -> None:
        os.close(self._file)


def read(files: Iterable[Path]) -> list[Line]:
    """The lines of some files. The last of a file may be half of one."""
    found: list[Line] = []
    for file in files:
        *whole, _ = file.read_text(encoding="utf-8").split("\n")
        found += [json.loads(line) for line in whole]
    return found


def history(lines: Iterable[Line], final: Mapping[str, Iterable[Seen]], depth: int) -> History:
    """What the lines say."""
    told = sorted(lines, key=lambda line: float(line["at"]))
    return History(
        ops=tuple(_ops(told)),
        holds=tuple(_holds(told)),
        watchers=tuple(_watchers(told)),
        final={key: tuple(versions) for key, versions in final.items()},
        depth=depth,
    )


def _ops(lines: list[Line]) -> list[Op]:
    answers = {line["id"]: line for line in lines if line["what"] == "answered"}
    found: list[Op] = []
    for line in lines:
        if line["what"] != "called":
            continue
        answer = answers.get(line["id"])
        unknown = answer is None or answer["outcome"] == "unknown"
        if unknown and line["kind"] == "get":
            continue
        if answer and answer["outcome"] == "absent":  # a delete that found nothing, and stored nothing
            seen = Seen(*answer["seen"])
            found.append(Op(line["client"], "get", line["key"], line["at"], answer["at"], seen=seen))
            continue
        found.append(
            Op(
                client=line["client"],
                kind=line["kind"],
                key=line["key"],
                start=line["at"],
                end=math.inf if answer is None or unknown else answer["at"],
                outcome="unknown" if answer is None else answer["outcome"],
                value=line.get("value"),
                base=line.get("base"),
                seen=Seen(*answer["seen"]) if answer and answer["seen"] else None,
                fence=Shown(*line["fence"]) if line.get("fence") else None,
            )
        )
    return found


def _holds(lines: list[Line]) -> list[Hold]:
    """A lock's lease is its session's."""
    renewals: dict[str, list[Line]] = {}
    for line in lines:
        if line["what"] == "renewed":
            renewals.setdefault(line["session"], []).append(line)
    given_back = {line["id"]: line["at"] for line in reversed(lines) if line["what"] in {"releasing", "lost"}}
    found: list[Hold] = []
    for line in lines:
        if line["what"] != "granted":
            continue
        back = given_back.get(line["id"], math.inf)
        end = min(back, _leased_until(renewals.get(line["session"], [])))
        if end > line["at"]:
            found.append(Hold(line["client"], line["lock"], line["mode"], line["token"], line["at"], end))
    return found


def _leased_until(renewals: list[Line]) -> float:
    """When a lease ends as its holder knows it: counted from when he asked, and nothing renews what has ended."""
    end = math.inf
    for line in renewals:
        if line["at"] > end:
            break
        end = line["asked"] + line["lease"]
    return end if renewals else -math.inf


def _watchers(lines: list[Line]) -> list[Watcher]:
    changes: dict[str, list[Change]] = {}
    complete = {line["id"] for line in lines if line["what"] == "watched"}
    for line in lines:
        if line["what"] == "told":
            seen = Seen(line["version"], line["value"])
            changes.setdefault(line["id"], []).append(Change(line["key"], seen, line["at"]))
    return [
        Watcher(
            name=line["id"],
            prefix=line["prefix"],
            changes=tuple(changes.get(line["id"], ())),
            complete=line["id"] in complete,
            replay=line["replay"],
        )
        for line in lines
        if line["what"] == "watching"
    ]
