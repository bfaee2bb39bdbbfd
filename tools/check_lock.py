"""Says offline whether the locks in `requirements/` are in step with `pyproject.toml`.

A lock's first line holds a digest of the dependency tables it was made from. A digest that differs, a
requirement that no pin satisfies, a pin without a hash and an address of an index are each reported as
`file:line: what`.
`--write` puts the digest at the head of the locks, which is the last step of `make lock`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MARK = "# pyproject: sha256:"
FULL, RUNTIME, BUILD = "requirements/lock.txt", "requirements/runtime.txt", "requirements/build.txt"


class Pin(NamedTuple):
    """One line `name==version` of a lock, with how many hashes follow it."""

    line: int
    requirement: Requirement
    hashes: int


def digest(pyproject: dict[str, Any]) -> str:
    """What changes when, and only when, a table changes that the locks depend on."""
    project = pyproject["project"]
    tables = [
        project["requires-python"],
        sorted(project["dependencies"]),
        project.get("optional-dependencies", {}),
        pyproject.get("dependency-groups", {}),
        pyproject["build-system"]["requires"],
    ]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def requirements(pyproject: dict[str, Any], lock: str) -> list[Requirement]:
    """Every requirement that the given lock must satisfy."""
    if lock == BUILD:
        return [Requirement(item) for item in pyproject["build-system"]["requires"]]
    wanted = list(pyproject["project"]["dependencies"])
    if lock == FULL:
        wanted += pyproject["build-system"]["requires"]
        wanted += [item for group in pyproject.get("dependency-groups", {}).values() for item in group]
    return [Requirement(item) for item in wanted]


def pins(text: str) -> list[Pin]:
    """The pins of a lock, in its order."""
    found: list[Pin] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip().removesuffix("\\").strip()
        if line.startswith("--hash=") and found:
            found[-1] = found[-1]._replace(hashes=found[-1].hashes + 1)
        elif line and not line.startswith(("#", "-")):
            found.append(Pin(number, Requirement(line), 0))
    return found


def faults(root: Path, lock: str) -> Iterator[str]:
    """What is wrong with one lock, each as `file:line: what`; nothing when it is in step."""
    path = root / lock
    if not path.is_file():
        yield f"{lock}:1: missing; run `make lock`"
        return
    pyproject = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    text = path.read_text("utf-8")
    first = text.partition("\n")[0]
    if first != MARK + digest(pyproject):
        yield f"{lock}:1: made from other dependencies than those of pyproject.toml; run `make lock`"
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(r"\w://", line):
            yield f"{lock}:{number}: an address; a lock names no index"
    locked = pins(text)
    for pin in locked:
        if not re.fullmatch(r"==[^*,]+", str(pin.requirement.specifier)):
            yield f"{lock}:{pin.line}: {pin.requirement.name} is not pinned to one version"
        if not pin.hashes:
            yield f"{lock}:{pin.line}: {pin.requirement.name} has no hash"
    for wanted in requirements(pyproject, lock):
        yield from _unmet(wanted, locked, lock)


def _unmet(wanted: Requirement, locked: list[Pin], lock: str) -> Iterator[str]:
    name = canonicalize_name(wanted.name)
    same = [pin for pin in locked if canonicalize_name(pin.requirement.name) == name]
    if not same:
        yield f"{lock}:1: no pin for `{wanted}` of pyproject.toml"
    for pin in same:
        version = str(pin.requirement.specifier).removeprefix("==")
        if not wanted.specifier.contains(version, prereleases=True):
            yield f"{lock}:{pin.line}: {name} {version} does not satisfy `{wanted}` of pyproject.toml"


def write(root: Path) -> None:
    """Put the digest of `pyproject.toml` at the head of the locks."""
    head = MARK + digest(tomllib.loads((root / "pyproject.toml").read_text("utf-8")))
    for lock in (FULL, RUNTIME, BUILD):
        lines = (root / lock).read_text("utf-8").splitlines()
        body = [line for line in lines if not line.startswith(MARK)]
        (root / lock).write_text("\n".join([head, *body]) + "\n", "utf-8")


def main() -> int:
    """Exit code 0 when all locks are in step, 1 when something is reported."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the digest at the head of the locks")
    parser.add_argument("--build-requires", action="store_true", help="print what the build stands on, and no more")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    arguments = parser.parse_args()
    if arguments.build_requires:
        pyproject = tomllib.loads((arguments.root / "pyproject.toml").read_text("utf-8"))
        print("\n".join(pyproject["build-system"]["requires"]))
        return 0
    if arguments.write:
        write(arguments.root)
    found = [fault for lock in (FULL, RUNTIME, BUILD) for fault in faults(arguments.root, lock)]
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
