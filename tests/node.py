"""The worker on Node, where it can be run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def worker_on_node(folder: Path) -> list[str]:
    """The command that runs the example, with its modules from below `.venv`.

    Without Node or its modules the test fails in CI, and is skipped elsewhere.
    """
    from tools.setup_node import EXAMPLE, MODULES, NoNodeError, find_node  # which a copy of the packages lacks

    try:
        node, _ = find_node()
        if not MODULES.is_dir():
            raise NoNodeError(
                "its NATS client is not installed; `make setup` does that where a registry can be reached"
            )
    except NoNodeError as error:
        if os.environ.get("CI"):
            pytest.fail(f"the worker on Node cannot be run: {error}")
        pytest.skip(f"NOT TESTED, the worker on Node cannot be run: {error}")
    for file in (*EXAMPLE.glob("*.js"), EXAMPLE / "package.json"):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(MODULES)
    return [*node, str(folder / "conform.js")]
