"""Who may import whom: the contracts of pyproject.toml hold, and each of them can be broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bus", "actors", "revo")


def lint(tree: Path) -> tuple[int, str]:
    """The exit code and the report of import-linter over the packages that stand in `tree`."""
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--no-cache",
        "--config",
        "pyproject.toml",
    ]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the packages in which a test may sin."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_contract_is_kept() -> None:
    code, report = lint(ROOT)
    assert code == 0, report
    assert " 0 broken" in report


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("bus/seeded.py", "import actors", "revo stands on actors, actors on bus"),
        ("actors/seeded.py", "import revo", "revo stands on actors, actors on bus"),
        ("bus/errors.py", "import bus.codec", "inside bus every module knows only those below it"),
        ("bus/seeded.py", "", "inside bus every module knows only those below it"),
        ("actors/seeded.py", "import nats.aio.client", "only bus knows NATS"),
        ("revo/seeded.py", "from nats import errors", "only bus knows NATS"),
        ("bus/messages.py", "import msgpack", "only bus.codec knows msgpack"),
        ("revo/seeded.py", "import msgpack", "only bus.codec knows msgpack"),
        ("bus/worker.py", "from opentelemetry import trace", "only bus.telemetry knows opentelemetry"),
        ("actors/seeded.py", "import opentelemetry.sdk.trace", "only bus.telemetry knows opentelemetry"),
        ("actors/seeded.py", "import rich.table", "only revo talks to a terminal"),
        ("bus/seeded.py", "import typer", "only revo talks to a terminal"),
        ("actors/seeded.py", "import uvloop", "only revo talks to a terminal"),
    ],
)
def test_an_import_that_breaks_a_contract_is_reported(copied: Path, module: str, statement: str, contract: str) -> None:
    with (copied / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{statement}\n")
    code, report = lint(copied)
    assert code == 1, report
    broken = [line for line in report.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), report
    if statement:
        assert module.removesuffix(".py").replace("/", ".") in report
