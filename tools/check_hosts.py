"""Finds addresses of package registries in the files of the repository.

Where packages come from is the business of whoever installs (pip's and uv's own configuration), so no file
names a registry: not a lock, not a workflow, not an image. Reported as `file:line: host`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# In pieces, so that this file does not report itself.
HOSTS = [
    ".".join(pieces)
    for pieces in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("proxy", "golang", "org"),
        ("conda", "anaconda", "org"),
    )
]
HOST = re.compile(r"(?<![\w-])(?:[\w-]+\.)*(?:" + "|".join(map(re.escape, HOSTS)) + r")(?![\w-])", re.IGNORECASE)
# An index by its option or variable, whatever its host.
OPTION = re.compile(
    r"(?:index[-_]url|find[-_]links|trusted[-_]host)[\"']?[\s=:]+[\"']?(?:https?://|[\w-]+\.)\S+",
    re.IGNORECASE,
)


def files(root: Path) -> list[Path]:
    """Every file that is in git or could be: tracked, or untracked and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    paths = {root / name for name in listed.split("\0") if name}
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def findings(root: Path) -> Iterator[str]:
    """Each registry address as `file:line: host`; bytes that are not text are read as well as they can be."""
    for path in files(root):
        text = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if found := HOST.search(line) or OPTION.search(line):
                yield f"{path.relative_to(root)}:{number}: {found.group()}"


def main() -> int:
    """Exit code 0 when no file names a registry, 1 when one does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    found = list(findings(parser.parse_args().root))
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
