"""All that `make check` looks at, side by side: each is told when it has ended, in this order, also when one fails.

Exit status 3 of one means that it could not be done here, which it says and which is no failure.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOT_DONE = 3
CHECKS: dict[str, list[str]] = {
    "ruff check": [f"{BIN}/ruff", "check", "--output-format", "concise", "."],
    "ruff format": [f"{BIN}/ruff", "format", "--check", "--output-format", "concise", "."],
    "mypy --strict": [f"{BIN}/mypy"],
    "basedpyright": [f"{BIN}/basedpyright"],
    "import layers": [f"{BIN}/lint-imports"],
    "no registry addresses": [sys.executable, "tools/check_hosts.py"],
    "lock in step": [sys.executable, "tools/check_lock.py"],
    "known vulnerabilities": [sys.executable, "tools/audit.py"],
}


def run(command: list[str]) -> tuple[int, str]:
    """Its exit status, and all that it said."""
    said = subprocess.PIPE
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def main(checks: dict[str, list[str]]) -> int:
    """Run them; 0 when none has failed."""
    good = True
    with ThreadPoolExecutor(len(checks)) as pool:
        running = {name: pool.submit(run, command) for name, command in checks.items()}
        for name, one in running.items():
            sys.stdout.write(f"{name:<24}")
            sys.stdout.flush()
            status, said = one.result()
            word = {0: "ok", NOT_DONE: "NOT DONE"}.get(status, "FAILED")
            good = good and word != "FAILED"
            sys.stdout.write(f"{word}\n{said if status else ''}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(CHECKS))
