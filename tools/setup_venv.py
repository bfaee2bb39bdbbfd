"""Makes `.venv`: the locked packages, each checked by its hash, and this project in editable form.

Runs on a bare Python 3.11 or newer; `--this-python` says that it was chosen by name, so a `.venv` of another version
is made again, which otherwise keeps its Python. Does nothing when `.venv` already is what the lock and `pyproject.toml`
ask for. An interrupted run leaves a mark, and the next one starts from nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "lock.txt"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "revo-setup.json"
UNFINISHED = VENV / "revo-setup.unfinished"
LOG = VENV / "revo-setup.log"
TAIL = 25  # lines of the log that a failure shows
SOURCES = ("nkeys",)  # pure Python that has no wheel; the hash in the lock is of the source that was read
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"]


def wanted() -> dict[str, str]:
    """What decides whether `.venv` must be made again."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tables = [pyproject["project"], pyproject["build-system"], pyproject["tool"]["hatch"]]
    return {
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "project": hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest(),
        "place": str(VENV),
    }


def installed() -> dict[str, str]:
    """What `.venv` was made from; empty when there is none to build upon."""
    if UNFINISHED.exists() or not STAMP.exists():
        return {}
    found: dict[str, str] = json.loads(STAMP.read_text("utf-8"))
    version = _version()
    usable = version >= [3, 11] and found.get("place") == str(VENV)  # one that was moved does not work
    unwanted = "--this-python" in sys.argv and version != list(sys.version_info[:3])
    return found if usable and not unwanted else {}


def base_python() -> str:
    """This Python, or the one beneath it when it runs in a venv (which could be the one to be deleted)."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def run(*command: str) -> None:
    """Run one step with its output in the log; a failure shows the log's tail and ends the setup."""
    hostile = {"PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "__PYVENV_LAUNCHER__"}
    environment = {name: value for name, value in os.environ.items() if name not in hostile}
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        lines = LOG.read_text("utf-8", "replace").splitlines()
        print("\n".join(lines[-TAIL:]), file=sys.stderr)
        sys.exit(f"setup failed; the whole log is in {LOG.relative_to(ROOT)}")


def split(lock: str) -> tuple[Path, Path]:
    """The lock in two files: what comes as wheels, and the rest."""
    pins = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    files = VENV / "wheels.txt", VENV / "sources.txt"
    for file, from_source in zip(files, (False, True), strict=True):
        file.write_text("".join(pin for pin in pins if pin.startswith(SOURCES) is from_source), "utf-8")
    return files


def make(old: dict[str, str], new: dict[str, str]) -> None:
    """Bring `.venv` to what is wanted, from nothing where there is no old one to build upon."""
    if not old:
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    LOG.write_text("", "utf-8")
    if not PYTHON.exists():
        run(base_python(), "-m", "venv", str(VENV))
    if old.get("lock") != new["lock"]:
        # only wheels: what a registry sends is unpacked here, never run; the few others are built by what is locked
        wheels, sources = split(LOCK.read_text("utf-8"))
        locked = [str(PYTHON), *PIP, "--require-hashes", "--no-deps"]
        run(*locked, "--only-binary", ":all:", "-r", str(wheels))
        run(*locked, "--no-build-isolation", "--no-binary", ":all:", "-r", str(sources))
    run(str(PYTHON), *PIP, "--no-deps", "--no-build-isolation", "--force-reinstall", "-e", str(ROOT))
    STAMP.write_text(json.dumps(new), "utf-8")
    UNFINISHED.unlink()


def main() -> None:
    """Make `.venv` where it is missing or behind, and say so in one line."""
    old, new = installed(), wanted()
    if old == new:
        return
    version = ".".join(map(str, sys.version_info[:3]))
    verb = "updating" if old else f"making it with Python {version}, about half a minute"
    print(f"setup: .venv ({verb}) ...", flush=True)
    started = time.monotonic()
    make(old, new)
    print(f"setup: .venv is ready ({time.monotonic() - started:.0f} s)", flush=True)


def _version() -> list[int]:
    """The version of the Python in `.venv`; empty when it does not run or has no pip."""
    if not PYTHON.exists():
        return []
    probe = [str(PYTHON), "-c", "import json, pip, sys; print(json.dumps(sys.version_info[:3]))"]
    done = subprocess.run(probe, capture_output=True, check=False)
    version: list[int] = json.loads(done.stdout) if done.returncode == 0 else []
    return version


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("setup interrupted; the next run starts from nothing")
